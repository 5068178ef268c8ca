"""The page as a text: what it holds, how large it is, what it refuses."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from semattn import SIFTPatchInterrelation, report
from semattn.attention import record, steer
from semattn.density import concentration, densities, strata
from semattn.density.scene import Scene
from semattn.errors import ShapeError
from semattn.prompting.strength_sweep import STRENGTHS
from semattn.report.page import as_json, digest
from semattn.report.parts import map_of
from semattn.report.prompted import rebuilt, unsmoothed
from tests import families, models
from tests.report.pages import NASTY, Analysed, compared, content_of, corners, explained, model_of


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def made(model):
    return explained(model)


@pytest.fixture(scope="module")
def page(model, made):
    return report.html(made, model=model, comparison=compared(made), analysis=Analysed())


def test_every_part_is_there_when_it_is_given(model, made, page):
    every = {"image", "explanation", "attention", "prompting", "comparison", "analysis"}
    assert every <= content_of(page).keys()
    assert "attention" not in content_of(report.html(made))
    assert "image" in content_of(report.html(comparison=compared(made)))
    assert "prompting" not in content_of(report.html(made, model=model, prompting=False))
    folder = content_of(report.html(None, analysis=Analysed()))
    assert folder.keys().isdisjoint(every - {"analysis"})


def test_the_page_may_load_and_run_nothing_but_itself(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": f"'{digest(style)}'",
        "script-src": f"'{digest(scripts[0])}'",
    }
    assert len(scripts) == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "innerHTML" not in page and "eval(" not in page


def test_names_are_text_and_nothing_else(page):
    assert page.count("</script>") == 2, "the content's and the script's own"
    assert "<img src=x" not in page
    assert content_of(page)["image"]["name"] == NASTY
    assert content_of(page)["analysis"]["skipped"][0]["name"] == NASTY
    assert as_json("</script>\u2028") == '"\\u003c/script\\u003e\\u2028"'
    title = re.search(r"<title>(.*?)</title>", page)[1]
    assert title.startswith("&lt;img src=x") and "{{style}}" in title


def test_the_frame_of_a_notebook_holds_the_whole_page(made):
    found = report.of(made)
    frame = found._repr_html_()
    assert re.match(r'<iframe title="semattn report" sandbox="allow-scripts" ', frame)
    inside = frame[frame.index('srcdoc="') + 8 : frame.rindex('"></iframe>')]
    assert not set('<>"') & set(inside)
    import html

    assert html.unescape(inside) == found.html


def test_a_file_is_complete_or_not_there(made, tmp_path, monkeypatch):
    file = report.write(tmp_path / "new" / "page.html", made)
    assert file.read_text(encoding="utf-8") == report.html(made)
    assert [one.name for one in file.parent.iterdir()] == ["page.html"]
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        report.Report("other", "").save(file)
    assert [one.name for one in file.parent.iterdir()] == ["page.html"]
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("wrong", ["none", "map", "analysis", "model", "size", "small", "folder"])
def test_what_cannot_be_shown_is_refused_in_one_line(wrong, model, made, tmp_path):
    smaller = replace(compared(made), explanation=explained(model_of(), corners()))
    grid = replace(made.grid, image_size=(32, 32))
    smaller = replace(smaller, explanation=replace(smaller.explanation, grid=grid))
    calls = {
        "none": lambda: report.of(),
        "map": lambda: report.of(made.heat),
        "analysis": lambda: report.of(analysis={}),
        "model": lambda: report.of(made, model=models.build("class-token", seed=5)),
        "size": lambda: report.of(made, comparison=smaller),
        "small": lambda: report.of(made, max_mb=0.01),
        "folder": lambda: report.write(tmp_path, made),
    }
    with pytest.raises((ValueError, TypeError), match=": expected .*, got .*") as error:
        calls[wrong]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["mean", "z"])
def test_a_table_that_lacks_a_head_is_refused(part):
    class Wrong(Analysed):
        def summary(self):
            made = super().summary()
            table = made["figures"]["alignment"]
            (table if part == "mean" else table["nulls"]["shifted"])[part][3].pop()
            return made

    with pytest.raises(ShapeError, match=rf"got \[2, 2, 2, 2\] in|alignment.*{part}"):
        report.html(analysis=Wrong())


def test_what_is_undefined_is_null(page):
    assert content_of(page)["analysis"]["figures"]["distance"]["mean"][0][0] is None


def test_patches_are_told_as_the_density_has_them(made, page):
    image = content_of(page)["image"]
    scene = Scene(made.images.pixels, made.keypoints, made.grid)
    s = densities["count"](scene)
    assert image["counts"] == s[0].tolist()
    assert image["strata"] == strata(s)[0].tolist()
    assert len(set(image["strata"])) == 3, "an image with all strata"
    assert image["lift"] == pytest.approx((12 * made.concentration[0]).tolist(), rel=1e-3)


def test_without_keypoints_every_patch_is_empty(model):
    with pytest.warns(UserWarning, match="no keypoint"):
        blank = explained(model, torch.zeros(1, 3, *models.SIZE))
    image = content_of(report.html(blank))["image"]
    assert image["counts"] == image["strata"] == [0] * 12


def test_the_density_is_found_again_from_the_concentration():
    s = torch.rand(3, 12, dtype=torch.float64, generator=torch.manual_seed(0))
    s[:, ::3] = 0
    p = concentration(s)
    torch.testing.assert_close(unsmoothed(p), s / s.sum(-1, keepdim=True))
    assert (unsmoothed(p)[:, ::3] == 0).all()
    torch.testing.assert_close(concentration(unsmoothed(p)), p)


@pytest.mark.parametrize("layers", [None, "all", [1, 3], slice(1, 3)])
def test_the_explainer_is_made_anew_as_it_was(model, layers):
    made = explained(model, layers=layers, queries="all")
    again = rebuilt(made).patch_map(model, made.images.inputs, target=0)
    torch.testing.assert_close(again, made.patch_map)


def test_strength_0_is_the_explanation_and_others_are_steered(model, made, page):
    part = content_of(page)["prompting"]
    assert part["strengths"] == list(STRENGTHS)
    assert part["maps"][0] == content_of(page)["explanation"]["relevance"]
    p = made.concentration
    bias = torch.cat([torch.zeros(1, 1), (12 * p).log().clamp(-2.5, 2.5)], dim=1).float()
    assert bias.std() > 0.3
    for at in (0, 4, 6):
        with steer(model, STRENGTHS[at] * bias, layers=[3]), torch.no_grad():
            chance = model(made.images.inputs).softmax(-1)[0]
            heat = SIFTPatchInterrelation().patch_map(model, made.images.inputs, target=0)
        said = {one["label"]: one["probability"][at] for one in part["classes"]}
        labels = [*model.classes]
        assert said == pytest.approx(dict(zip(labels, chance.tolist(), strict=True)), abs=2e-6)
        codes = np.frombuffer(base64.b64decode(part["maps"][at]), dtype=np.uint8).astype(int)
        expected = np.frombuffer(base64.b64decode(map_of(heat.flatten())), dtype=np.uint8)
        assert np.abs(codes - expected).max() <= 1
    moved = [one["probability"] for one in part["classes"]]
    assert max(abs(one[0] - one[-1]) for one in moved) > 1e-3, "a strength that moves nothing"


def test_the_model_is_left_as_it_was(model, made):
    before = models.state_of(model)
    report.of(made, model=model)
    assert models.state_of(model) == before


def test_models_in_windows_have_a_page_and_are_prompted():
    model = families.build("swin")
    made = SIFTPatchInterrelation().explain(model, corners())
    content = content_of(report.html(made, model=model))
    assert content["attention"]["tokens"] == made.grid.patches
    assert any(layer["differs"] for layer in content["attention"]["layers"])
    moved = [one["probability"] for one in content["prompting"]["classes"]]
    assert max(abs(one[0] - one[-1]) for one in moved) > 1e-4


def test_what_is_no_class_has_no_probabilities():
    model = models.build("class-token")
    made = SIFTPatchInterrelation().explain(model, corners(), target=lambda out: out.sum(1))
    content = content_of(report.html(made, model=model))
    assert "prompting" not in content
    assert any("expected a class" in one for one in content["missing"])


def test_one_image_of_a_batch(model):
    made = explained(model, torch.cat([corners(), models.images(1)]))
    content = content_of(report.html(made, model=model, index=1))
    alone = content_of(report.html(explained(model, models.images(1)), model=model))
    assert content["explanation"]["values"] == pytest.approx(
        alone["explanation"]["values"], rel=1e-3, abs=1e-6
    )
    assert content["image"]["keypoints"] == alone["image"]["keypoints"]
    with pytest.raises(ShapeError, match="index: expected one of 2 images, got 2"):
        report.html(made, index=2)


def small_patch14(size: int):
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", img_size=size, num_classes=12).eval()


def test_a_vit_s_at_257_tokens_stays_under_15_mb(tmp_path):
    model = small_patch14(224)
    x = torch.rand(1, 3, 224, 224, generator=torch.manual_seed(0))
    made = SIFTPatchInterrelation().explain(model, x, target=0)
    file = report.write(tmp_path / "page.html", made, model=model, comparison=compared(made))
    content = content_of(file.read_text(encoding="utf-8"))
    assert content["attention"]["all"]
    assert content["attention"]["tokens"] == 257
    assert 6e6 < file.stat().st_size < 15e6
    less = content_of(report.html(made, model=model, prompting=False, max_mb=3.0))["attention"]
    assert not less["all"]
    assert 20 < len(less["heads"]["rows"]) < len(less["mean"]["rows"]) == 257


@pytest.mark.parametrize("max_mb", [2.0, 5.0])
def test_a_larger_model_chooses_its_rows(max_mb, tmp_path):
    model = small_patch14(392)
    x = torch.rand(1, 3, 392, 392, generator=torch.manual_seed(0))
    made = SIFTPatchInterrelation().explain(model, x, target=0)
    file = report.write(tmp_path / "p.html", made, model=model, prompting=False, max_mb=max_mb)
    assert 0.5 * max_mb * 1e6 < file.stat().st_size <= max_mb * 1e6
    part = content_of(file.read_text(encoding="utf-8"))["attention"]
    assert part["heads"]["rows"][0] == part["mean"]["rows"][0] == 0
    assert part["reads_class_token"] == bool(record(model, x, grad="last").reads_class_token)
