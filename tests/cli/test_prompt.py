"""`semattn prompt`: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from semattn import AttentionPrompter, SIFTPatchInterrelation, viz
from semattn.cli.parsing import read_region
from semattn.errors import SemattnError
from semattn.prompting import attention_bias
from semattn.prompting.strength_sweep import strength_sweep
from tests import models
from tests.conftest import PHOTO, refused, tiny
from tests.result_files import names_in

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_prompt_writes_everything_and_says_where(run, tmp_path):
    status, out, err = run("prompt", PHOTO, "--strength", "0.5,1", "--density", "count")
    assert status == 0, err
    assert not err
    results = tmp_path / "semattn-prompt-flower"
    assert [path.name for path in tmp_path.iterdir()] == [results.name]
    assert names_in(results) == [
        "maps.npz", "prompt.json", "prompt.png", "report.html",
    ]  # fmt: skip
    assert "attention is biased towards patches that count scores high" in out
    result = json.loads((results / "prompt.json").read_text(), parse_constant=pytest.fail)
    assert result["strengths"] == [0.0, 0.5, 1.0]
    assert result["prompt"]["density"] == "count" and result["prompt"]["region"] is None
    assert all(len(entry["probabilities"]) == 3 for entry in result["classes"])
    with np.load(results / "maps.npz") as arrays:
        assert arrays["maps"].shape == (3, 4, 4) and arrays["bias"].shape == (4, 4)
        network = tiny()
        prompter = AttentionPrompter(network, density="count")
        from semattn.images import Preprocessing, prepare

        inputs = prepare(PHOTO, Preprocessing.of(network)).inputs
        np.testing.assert_allclose(
            arrays["bias"].ravel(), prompter.bias(None, inputs)[0].numpy(), atol=1e-6
        )
        with torch.no_grad():
            chance = prompter.at(1.0, prompter.layers)(inputs).double().softmax(1)[0]
    for entry in result["classes"]:
        assert entry["probabilities"][2] == pytest.approx(float(chance[entry["class"]]), abs=2e-6)
    with Image.open(results / "prompt.png") as picture:
        assert picture.width > 2000
    assert "towards patches that count" not in out.split("attention is")[0]
    page = (results / "report.html").read_text().replace(": ", ":")
    assert '"direction":"towards patches that count scores high"' in page


def test_a_region_is_in_the_pixels_of_the_photograph(tmp_path):
    photograph = tmp_path / "wide.png"
    Image.fromarray(np.zeros((100, 400, 3), np.uint8)).save(photograph)
    network = tiny()  # sees 64 x 64: here the middle 100 x 100, or what its crop leaves of it
    middle = np.asarray(read_region("150,0,199,99", photograph, network).inside)
    assert middle[:, :30].mean() > 0.9 and middle[:, 34:].mean() < 0.1
    page = Image.new("L", (400, 100))
    ImageDraw.Draw(page).rectangle((150, 0, 199, 99), fill=255)
    page.save(tmp_path / "mask.png")
    region = np.asarray(read_region(str(tmp_path / "mask.png"), photograph, network).inside)
    np.testing.assert_allclose(region, middle, atol=0.02)
    corners = "polygon=149.5,-1;199.5,-1;199.5,100;149.5,100"
    polygon = np.asarray(read_region(corners, photograph, network).inside)
    np.testing.assert_allclose(polygon, middle, atol=0.02)
    points = np.asarray(read_region("points=200,50", photograph, network).inside)
    rows, columns = np.nonzero(points > 0.5)
    assert abs(rows.mean() - 31.5) < 1.5 and abs(columns.mean() - 32) < 1.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--region", "1,2,3"), "region: expected left,top,right,bottom"),
        (("--region", "points=1,2;3"), "region: expected pairs x,y"),
        (
            ("--region", "9000,0,9100,50"),
            "region: expected a region inside the photograph of 640x427",
        ),
        (("--strength", "0"), "strength: expected numbers such as"),
        (("--strength", "a"), "strength: expected numbers such as"),
        (("--density", "cuont"), "did you mean 'count'"),
        (("--layers", "40"), "layers: expected"),
        (("--queries", "none"), "queries: unknown name 'none'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(run, tmp_path, options, words):
    refused(run("prompt", PHOTO, *options), words)
    assert not list(tmp_path.iterdir())


def test_steps_are_those_of_the_prompter():
    model, x = models.build("registers"), models.images(1, seed=3)
    weights = torch.rand(12, generator=torch.manual_seed(0))
    prompter = AttentionPrompter(model)
    prompted = strength_sweep(
        SIFTPatchInterrelation(), prompter, x, weights=weights, strengths=(2, 1)
    )
    assert prompted.strengths == (0.0, 1.0, 2.0)
    torch.testing.assert_close(
        prompted.bias, attention_bias(weights[None])[0].float(), check_dtype=False
    )
    target = int(prompted.explanation.target[0])
    for place, strength in enumerate(prompted.strengths):
        with torch.no_grad(), prompter.at(strength, prompter.layers).steer(weights):
            torch.testing.assert_close(prompted.logits[place], model(x)[0])
            heat_map = SIFTPatchInterrelation().patch_map(model, x, target=target)
        torch.testing.assert_close(prompted.maps[place], heat_map[0], atol=1e-6, rtol=1e-4)
    predictions = prompted.logits.argmax(1).tolist()
    assert [(before, after) for _, before, after in prompted.flips()] == [
        (before, after) for before, after in pairwise(predictions) if before != after
    ]
    figure = viz.strength_sweep(prompted)
    assert [text.get_text() for text in figure.texts if "Strength" in text.get_text()] == [
        "Strength 0", "Strength 1", "Strength 2",
    ]  # fmt: skip
    colours = "yellow: more attention, blue: less attention"
    assert colours in [text.get_text() for text in figure.texts]
    lines = figure.axes[-2].lines if figure.axes[-2].lines else figure.axes[-1].lines
    assert np.allclose(lines[0].get_ydata(), 100 * prompted.probabilities[:, prompted.leading()[0]])


def test_steps_need_a_class_and_one_image():
    prompter = AttentionPrompter(models.build("registers"), density="count")
    with pytest.raises(SemattnError, match="target: expected a class"):
        strength_sweep(
            SIFTPatchInterrelation(), prompter, models.images(1, seed=3),
            target=lambda output: output.sum(1),
        )  # fmt: skip
    with pytest.raises(SemattnError, match="image: expected one image, got 2"):
        strength_sweep(SIFTPatchInterrelation(), prompter, models.images(2, seed=3))
