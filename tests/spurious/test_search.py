"""A mark that is planted is found, confirmed and kept; what is no data set is told in one line."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semattn import discover_spurious
from semattn.errors import SemattnError
from semattn.prompting import AttentionPrompter
from semattn.spurious import (
    Search,
    folders as folders_of,
    load_discovery,
    places,
    save_discovery,
    study,
    views,
)
from tests import models

from . import planted

NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def pairs():
    return planted.images(24, 0.95)


@pytest.fixture(scope="module")
def model(pairs):
    return planted.model_of(pairs)


@pytest.fixture(scope="module")
def found(model, pairs):
    return discover_spurious(model, pairs, names=NAMES, preprocessing=planted.OWN)


def same(one, other):
    texts = [json.dumps(each.summary() | {"manifest": 0}, sort_keys=True) for each in (one, other)]
    return texts[0] == texts[1]


def test_the_mark_is_the_first_cue(found):
    cue = found.cues[0]
    assert cue.confirmed and cue.name == "red" and found.classes[0].name == "red"
    assert cue.where == "same place" and cue.inside > 0.6 and cue.outside < 0.1
    assert cue.removed.low > 0 and cue.transplanted.low > 0
    rows, columns = np.unravel_index(cue.place.argmax(), cue.place.shape)
    assert 8 <= rows <= 11 and 8 <= columns <= 11  # patches of the mark
    assert found.confirmed[0] is cue and found.images == 72 and found.accuracy > 0.9
    assert {one.name for one in cue.groups} >= {"class, cue", "others, cue put there"}
    assert all(not bool(np.isnan(one.matches).any()) for one in cue.examples)


def test_it_is_found_in_images_that_nobody_searched(found, model):
    fresh = planted.images(8, 0.5, seed=9)
    matches = found.cues[0].matches(planted.inputs_of(fresh))
    bears = np.array([one[planted.MARK].max() == 250 and one[81, 70, 0] > 200 for one, _ in fresh])
    inside = matches.reshape(-1, 12, 12)[:, 9:11, 9:11].mean(dim=(1, 2)).numpy()
    assert inside[bears].min() > inside[~bears].max()
    x = planted.inputs_of(fresh)
    prompter = AttentionPrompter(model, preprocessing=planted.OWN)
    with torch.no_grad(), prompter.steer(found.cues[0]):
        led = model(x)
    assert not torch.equal(led, model(x))


def test_a_seed_gives_the_same_and_the_model_is_left_alone(model, pairs, found):
    before = models.state_of(model)
    again = discover_spurious(model, pairs, names=NAMES, preprocessing=planted.OWN)
    assert same(found, again) and models.state_of(model) == before


def test_a_stopped_search_goes_on(model, pairs, found, tmp_path, monkeypatch):
    real, calls = views.Looker.look, []

    def stop(self, images):
        calls.append(len(images.pixels))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, images)

    options = {"names": NAMES, "preprocessing": planted.OWN, "folder": tmp_path / "search"}
    monkeypatch.setattr(views.Looker, "look", stop)
    with pytest.raises(KeyboardInterrupt):
        discover_spurious(model, pairs, **options)
    done = len(list((tmp_path / "search").glob("look-*.npz")))
    assert done == 7 - 4  # four batches make the space
    monkeypatch.setattr(views.Looker, "look", real)
    assert same(found, discover_spurious(model, pairs, **options))
    monkeypatch.setattr(views.Looker, "look", None)  # what is done is not done again
    monkeypatch.setattr(study, "find", None)
    assert same(found, discover_spurious(model, pairs, **options))


SEARCH = """
import sys
from semattn import discover_spurious
from tests.spurious import planted
pairs = planted.images(24, 0.95)
discover_spurious(planted.model_of(pairs), pairs, names=("red", "green", "blue"),
                  preprocessing=planted.OWN, folder=sys.argv[1])
"""


def test_a_killed_search_loses_a_batch_at_most(model, pairs, found, tmp_path):
    search = tmp_path / "search"
    for least in (2, 5, 8):  # space, four batches of images (16 each) and a half, classes, trials
        command = [sys.executable, "-W", "error", "-c", SEARCH, str(search)]
        before = set(search.glob("*.npz"))
        with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
            while len(list(search.glob("*.npz"))) < least and process.poll() is None:
                time.sleep(0.002)
            process.kill()
        kept = {one: one.stat().st_mtime_ns for one in search.glob("*.npz")}
        assert before <= set(kept) and len(kept) >= least
        for one in kept:
            with np.load(one, allow_pickle=False) as arrays:
                assert arrays.files
    options = {"names": NAMES, "preprocessing": planted.OWN, "folder": search}
    assert same(found, discover_spurious(model, pairs, **options))
    assert all(one.stat().st_mtime_ns == then for one, then in kept.items()), "not done again"


def test_processes_share_what_there_is_to_look_at(model, pairs, found, tmp_path, monkeypatch):
    """Nobody looks twice, the last one goes on, and all is as one process has it, byte for byte."""
    said, seen = [], []
    real = views.Looker.look
    monkeypatch.setattr(
        views.Looker, "look", lambda *given: seen.append(len(given[1].pixels)) or real(*given)
    )
    options = {
        "names": NAMES,
        "preprocessing": planted.OWN,
        "progress": lambda *one: said.append(one),
    }
    parts = [Search(model, pairs, folder=tmp_path / "many", **options) for _ in range(3)]
    assert not parts[1].look((1, 3)) and said[-1] == ("looking", 24, 24)  # of 16 and 8
    assert not parts[0].look((0, 3)) and not parts[0].look((0, 3))
    assert parts[2].look((2, 3)) and said[-1] == ("looking", 16, 16)
    assert sum(seen) == 72 + 64  # every image, and the sample that the space is made of
    assert not parts[1].look((1, 3)) and parts[0].look((0, 3)), "all is done: the first goes on"
    assert same(found, parts[2].discover()) and sum(seen) == 72 + 64
    discover_spurious(model, pairs, folder=tmp_path / "one", **options)
    one, many = ({file.name: file.read_bytes() for file in (tmp_path / name).glob("[!.]*")}
                 for name in ("one", "many"))  # fmt: skip
    assert one == many


def test_a_search_without_a_folder_leaves_nothing(model, pairs):
    with Search(model, pairs, names=NAMES, preprocessing=planted.OWN) as search:
        search.look((0, 5))
        assert search.shelf.folder.exists()
    assert not search.shelf.folder.exists()


def test_the_folder_of_another_search_is_refused(model, pairs, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(views.Views, "_look", stop)  # the space is there by then
    options = {"names": NAMES, "preprocessing": planted.OWN, "folder": tmp_path / "search"}
    with pytest.raises(KeyboardInterrupt):
        discover_spurious(model, pairs, **options)
    with pytest.raises(SemattnError, match="expected results of this search"):
        discover_spurious(model, pairs, seed=1, **options)


def test_what_is_kept_is_read_again(found, model, tmp_path):
    file = save_discovery(found, tmp_path / "found.npz")
    read = load_discovery(file, model)
    assert json.dumps(read.summary()) == json.dumps(found.summary())
    x = planted.inputs_of(planted.images(2, 1.0, seed=5))
    own = [dataclasses.replace(one.cues[0], preprocessing=planted.OWN) for one in (found, read)]
    torch.testing.assert_close(own[0].matches(x), own[1].matches(x))
    assert np.array_equal(read.cues[0].examples[0].pixels, found.cues[0].examples[0].pixels)
    with pytest.raises(ValueError, match="expected the model that the cue was found in"):
        load_discovery(file).cues[0].matches(x)
    with pytest.raises(ValueError, match="features a patch"):
        read.cues[0].matches(x[..., :48, :64], models.build("class-token"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", pickle.dumps({"a": 1})])
def test_a_file_that_is_none_is_refused(content, tmp_path):
    file = tmp_path / "found.npz"
    file.write_bytes(content)
    with pytest.raises(SemattnError, match="expected what save_discovery wrote"):
        load_discovery(file)
    with pytest.raises(SemattnError, match="which does not exist"):
        load_discovery(tmp_path / "none.npz")


def folder_of(pairs, folder, names=NAMES):
    for number, (pixels, label) in enumerate(pairs):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / names[label] / f"{number:03}.png")
    return folder


def test_broken_images_are_skipped_and_said(model, pairs, tmp_path):
    folder = folder_of(pairs, tmp_path / "data")
    (folder / "green" / "broken.png").write_bytes(b"no picture")
    (folder / "blue" / "half.png").write_bytes((folder / "blue" / "002.png").read_bytes()[:300])
    found = discover_spurious(model, folder, names=NAMES, preprocessing=planted.OWN)
    assert sorted(one.name.rsplit("/", 1)[-1] for one in found.skipped) == [
        "broken.png",
        "half.png",
    ]
    assert found.images == 72 and found.confirmed[0].name == "red"


def test_without_labels_the_predicted_classes_stand_in(model, pairs):
    found = discover_spurious(model, [one for one, _ in pairs], names=NAMES,
                              preprocessing=planted.OWN)  # fmt: skip
    assert found.accuracy is None and "the class that the model predicts" in found.notes[0]
    assert found.confirmed[0].name == "red"


def test_images_that_are_all_alike_have_no_cue(model):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    found = discover_spurious(model, [(noise, label) for label in (0, 1) * 6], names=NAMES,
                              preprocessing=planted.OWN)  # fmt: skip
    assert not found.confirmed


def test_where_nothing_lies_beside_the_object_it_is_said(model, pairs, monkeypatch):
    monkeypatch.setattr(places, "off_object", lambda over, *_: np.zeros_like(over, bool))
    found = discover_spurious(model, pairs, names=NAMES, preprocessing=planted.OWN)
    assert not found.cues and "beside what stands out in them: red (24), gre" in found.notes[0]


def test_where_one_class_is_predicted_it_says_that_it_is_predicted(model, pairs):
    red = [one for one, label in pairs if label == 0]
    with pytest.raises(SemattnError, match="red alone .*the class that the model predicts"):
        discover_spurious(model, red, names=NAMES, preprocessing=planted.OWN)


@pytest.mark.parametrize(
    ("folders", "names", "outputs", "known", "missing"),
    [
        (["Red", "sea_horse"], ["red", "sea horse"], 2, {"Red": 0, "sea_horse": 1}, []),
        (["tench"], ["tench, Tinca tinca", "crane"], 2, {"tench": 0}, []),
        (["crane"], ["crane, bird", "crane, machine"], 2, {}, ["crane"]),
        (["crane"], ["crane, bird", "crane"], 2, {"crane": 1}, []),
        (["a", "b"], [], 2, {"a": 0, "b": 1}, []),
        (["a"], [], 2, {}, ["a"]),
        (["n01440764", "n01443537"], [], 1000, {"n01440764": 0, "n01443537": 1}, []),
        (["n01440764"], [], 13, {}, ["n01440764"]),
        (["n01440764", "x"], [], 1000, {"n01440764": 0}, ["x"]),
    ],
)
def test_which_class_a_folder_is(folders, names, outputs, known, missing):
    assert folders_of.numbers_of(folders, names, outputs) == (known, missing)


def test_labels_that_the_model_does_not_have(model, pairs, tmp_path):
    folder = folder_of(pairs, tmp_path, ("red", "green", "violet"))
    found = discover_spurious(model, folder, names=NAMES, preprocessing=planted.OWN)
    assert "violet is no class of the model" in found.notes[0]
    with pytest.raises(SemattnError, match="expected labels below 3, the model's outputs, got 3"):
        discover_spurious(model, [(one, label + 1) for one, label in pairs], names=NAMES,
                          preprocessing=planted.OWN)  # fmt: skip


BLANK = np.zeros((96, 96, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "dataset: expected images, got none"),
        (iter([]), {}, "dataset: expected a folder, a list of images"),
        ("nowhere", {}, "got nowhere, which does not exist"),
        ([(BLANK, 0)] * 8, {}, "expected images of two classes at least, got red alone"),
        ([(BLANK, 0), (BLANK, 1)], {}, "expected 6 images of a class at least"),
        (["none.png", "two.png"], {}, "expected images that can be read, got none"),
        ([(BLANK, 0)], {"level": 2}, "level: expected one between 0 and 1, got 2"),
        ([(BLANK, 0)], {"most": 0}, "most: expected 1 at least, got 0"),
        ([(BLANK, 0), (BLANK, 1)], {"classes": ["rad"]}, "did you mean 'red'"),
        ([(BLANK, 0), (BLANK, 1)], {"classes": [2]}, "expected ones that images are of, got blue"),
        ([(BLANK, 0)], {"names": ("a", "b")}, "class names: expected 3, one for each output"),
    ],
)
@pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")
def test_wrong_input_is_one_line(model, data, options, message):
    options = {"names": NAMES, "preprocessing": planted.OWN} | options
    with pytest.raises((SemattnError, ValueError), match=re.escape(message)) as caught:
        discover_spurious(model, data, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_folder(model, tmp_path):
    with pytest.raises(SemattnError, match="expected pictures, got none"):
        discover_spurious(model, tmp_path, names=NAMES, preprocessing=planted.OWN)
