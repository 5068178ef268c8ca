"""A planted mark is discovery, confirmed and stored; invalid inputs raise one-line errors."""

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
from semattn.data.labelled import match_class_folders
from semattn.errors import SemattnError
from semattn.prompting import AttentionPrompter
from semattn.spurious import (
    Search,
    candidates as candidates_of,
    feature_store,
    load_discovery,
    save_discovery,
)
from semattn.spurious.marks.cue import MarkCue
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
def discovery(model, pairs):
    return discover_spurious(model, pairs, class_names=NAMES, preprocessing=planted.OWN)


def same(first, second):
    texts = [
        json.dumps(discovery.summary() | {"manifest": 0}, sort_keys=True)
        for discovery in (first, second)
    ]
    return texts[0] == texts[1]


def test_the_mark_is_the_first_cue(discovery):
    cue = discovery.cues[0]
    assert cue.confirmed and cue.name == "red" and discovery.classes[0].name == "red"
    assert cue.where == "same place" and cue.inside > 0.6 and cue.outside < 0.1
    assert cue.removal.low > 0 and cue.transplant.low > 0
    rows, columns = np.unravel_index(cue.place.argmax(), cue.place.shape)
    assert 8 <= rows <= 11 and 8 <= columns <= 11  # patches of the mark
    assert discovery.confirmed[0] is cue and discovery.images == 72 and discovery.accuracy > 0.9
    assert {group.name for group in cue.groups} >= {"class, cue", "others, cue transplanted"}
    assert all(not bool(np.isnan(example.matches).any()) for example in cue.examples)


def test_the_part_off_the_object_is_that_of_the_patches_of_all_images():
    pairs = planted.images(12, 0.95)
    found = discover_spurious(
        planted.model_of(pairs), pairs, class_names=NAMES, preprocessing=planted.OWN
    )
    cue = found.cues[0]
    assert cue.name == "red" and len(cue.examples) == sum(
        image.in_class for image in cue.cue_images
    )
    patches = np.concatenate([one.off_object[one.matches > 0.5] for one in cue.examples])
    # A match is the probability of the patch times that of its image, which may be below one.
    assert cue.off_object == pytest.approx(patches.mean(), abs=0.02)
    assert all(example.off_object[9:11, 9:11].all() for example in cue.examples)  # the fixed mark
    assert not all(example.off_object.all() for example in cue.examples)


def test_all_images_with_the_cue_are_listed(discovery, pairs):
    """Not only the examples; outside the class, too."""
    planted_in = {number for number, (pixels, _) in enumerate(pairs)
                  if (pixels[planted.MARK][1] == 250).all()}  # fmt: skip
    cue = discovery.cues[0]
    listed = {int(image.name.split()[-1]): image for image in cue.cue_images}
    assert len(listed) == len(cue.cue_images) > len(cue.examples)
    in_class = {number for number, image in listed.items() if image.in_class}
    assert len(in_class) == round(24 * cue.inside)
    assert len(in_class & planted_in) >= 0.9 * max(len(planted_in), len(in_class))
    assert len(listed) - len(in_class) == round(48 * cue.outside)
    assert {(image.class_name, image.in_class) for image in cue.cue_images} <= {
        ("red", True), ("green", False), ("blue", False),
    }  # fmt: skip


def test_a_note_says_if_not_all_images_of_a_cue_are_listed(discovery, model, pairs, monkeypatch):
    assert not any("among those that were compared" in note for note in discovery.notes)
    monkeypatch.setattr("semattn.spurious.cue_detector.MAX_CLASS_IMAGES", 16)
    monkeypatch.setattr("semattn.spurious.search.find_mark_candidates", lambda *_: ([], 0, 0))
    few = discover_spurious(
        model, pairs, class_names=NAMES, preprocessing=planted.OWN, classes=["red"]
    )
    cue = few.cues[0]
    assert sum(image.in_class for image in cue.cue_images) == round(16 * cue.inside)
    assert any("among those that were compared" in note for note in few.notes)


def test_the_cue_matches_new_images(discovery, model):
    fresh = planted.images(8, 0.5, seed=9)
    matches = discovery.cues[0].matches(planted.inputs_of(fresh))
    has_mark = np.array(
        [pixels[planted.MARK].max() == 250 and pixels[81, 70, 0] > 200 for pixels, _ in fresh]
    )
    inside = matches.reshape(-1, 12, 12)[:, 9:11, 9:11].mean(dim=(1, 2)).numpy()
    assert inside[has_mark].min() > inside[~has_mark].max()
    x = planted.inputs_of(fresh)
    prompter = AttentionPrompter(model, preprocessing=planted.OWN)
    with torch.no_grad(), prompter.steer(discovery.cues[0]):
        prompted = model(x)
    assert not torch.equal(prompted, model(x))


def test_a_seed_repeats_the_search_and_the_model_does_not_change(model, pairs, discovery):
    before = models.state_of(model)
    again = discover_spurious(model, pairs, class_names=NAMES, preprocessing=planted.OWN)
    assert same(discovery, again) and models.state_of(model) == before


def test_an_interrupted_search_resumes(model, pairs, discovery, tmp_path, monkeypatch):
    real, calls = feature_store.FeatureExtractor.extract, []

    def stop(self, images):
        calls.append(len(images.pixels))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, images)

    options = {"class_names": NAMES, "preprocessing": planted.OWN, "cache_dir": tmp_path / "search"}
    monkeypatch.setattr(feature_store.FeatureExtractor, "extract", stop)
    with pytest.raises(KeyboardInterrupt):
        discover_spurious(model, pairs, **options)
    done = len(list((tmp_path / "search").glob("features-*.npz")))
    assert done == 7 - 4  # the projection needs four batches
    monkeypatch.setattr(feature_store.FeatureExtractor, "extract", real)
    assert same(discovery, discover_spurious(model, pairs, **options))
    monkeypatch.setattr(
        feature_store.FeatureExtractor, "extract", None
    )  # stored results are not computed again
    monkeypatch.setattr(candidates_of, "find_candidates", None)
    assert same(discovery, discover_spurious(model, pairs, **options))


SEARCH = """
import sys
from semattn import discover_spurious
from tests.spurious import planted
pairs = planted.images(24, 0.95)
discover_spurious(planted.model_of(pairs), pairs, class_names=("red", "green", "blue"),
                  preprocessing=planted.OWN, cache_dir=sys.argv[1])
"""


def test_a_killed_search_loses_at_most_one_batch(model, pairs, discovery, tmp_path):
    search = tmp_path / "search"
    for least in (
        2,
        5,
        8,
    ):  # projection, four batches of images (16 each) and a half, classes, interventions
        command = [sys.executable, "-W", "error", "-c", SEARCH, str(search)]
        before = set(search.glob("*.npz"))
        with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
            while len(list(search.glob("*.npz"))) < least and process.poll() is None:
                time.sleep(0.002)
            process.kill()
        times = {path: path.stat().st_mtime_ns for path in search.glob("*.npz")}
        assert before <= set(times) and len(times) >= least
        for path in times:
            with np.load(path, allow_pickle=False) as arrays:
                assert arrays.files
    options = {"class_names": NAMES, "preprocessing": planted.OWN, "cache_dir": search}
    assert same(discovery, discover_spurious(model, pairs, **options))
    assert all(path.stat().st_mtime_ns == time_before for path, time_before in times.items()), (
        "stored results are not computed again"
    )


def test_processes_share_the_extraction(model, pairs, discovery, tmp_path, monkeypatch):
    """Check that no image is extracted twice and that the files are those of one process."""
    stages, image_counts = [], []
    real = feature_store.FeatureExtractor.extract
    monkeypatch.setattr(
        feature_store.FeatureExtractor,
        "extract",
        lambda *arguments: image_counts.append(len(arguments[1].pixels)) or real(*arguments),
    )
    options = {
        "class_names": NAMES,
        "preprocessing": planted.OWN,
        "progress": lambda *stage: stages.append(stage),
    }
    parts = [Search(model, pairs, cache_dir=tmp_path / "many", **options) for _ in range(3)]
    assert not parts[1].extract((1, 3)) and stages[-1] == (
        "extracting features",
        24,
        24,
    )  # of 16 and 8
    assert not parts[0].extract((0, 3)) and not parts[0].extract((0, 3))
    assert parts[2].extract((2, 3)) and stages[-1] == ("extracting features", 16, 16)
    assert sum(image_counts) == 72 + 64  # every image, and the sample of the projection
    assert not parts[1].extract((1, 3)) and parts[0].extract((0, 3)), (
        "nothing is missing: the first process searches"
    )
    assert same(discovery, parts[2].discover()) and sum(image_counts) == 72 + 64
    discover_spurious(model, pairs, cache_dir=tmp_path / "one", **options)
    one_process, three_processes = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("[!.]*")}
        for name in ("one", "many")
    )
    assert one_process == three_processes


def test_a_search_without_a_folder_removes_its_files(model, pairs):
    with Search(model, pairs, class_names=NAMES, preprocessing=planted.OWN) as search:
        search.extract((0, 5))
        assert search.run_store.folder.exists()
    assert not search.run_store.folder.exists()


def test_the_folder_of_another_search_is_refused(model, pairs, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    # The projection is stored by then.
    monkeypatch.setattr(feature_store.FeatureStore, "_batch_arrays", stop)
    options = {"class_names": NAMES, "preprocessing": planted.OWN, "cache_dir": tmp_path / "search"}
    with pytest.raises(KeyboardInterrupt):
        discover_spurious(model, pairs, **options)
    with pytest.raises(SemattnError, match="expected results of this search"):
        discover_spurious(model, pairs, seed=1, **options)


def test_a_saved_discovery_is_loaded(discovery, model, tmp_path):
    file = save_discovery(discovery, tmp_path / "discovery.npz")
    read = load_discovery(file, model)
    assert json.dumps(read.summary()) == json.dumps(discovery.summary())
    x = planted.inputs_of(planted.images(2, 1.0, seed=5))
    cues = [
        dataclasses.replace(discovery.cues[0], preprocessing=planted.OWN)
        for discovery in (discovery, read)
    ]
    torch.testing.assert_close(cues[0].matches(x), cues[1].matches(x))
    for name in ("pixels", "matches", "off_object"):
        first, second = (getattr(one.cues[0].examples[0], name) for one in (read, discovery))
        assert np.array_equal(first, second)
    with pytest.raises(ValueError, match="expected the model of the search, got none"):
        load_discovery(file).cues[0].matches(x)
    with pytest.raises(ValueError, match="features per patch"):
        read.cues[0].matches(x[..., :48, :64], models.build("class-token"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", pickle.dumps({"a": 1})])
def test_a_file_that_is_not_a_discovery_is_refused(content, tmp_path):
    file = tmp_path / "discovery.npz"
    file.write_bytes(content)
    with pytest.raises(SemattnError, match="expected a file written by save_discovery"):
        load_discovery(file)
    with pytest.raises(SemattnError, match="which does not exist"):
        load_discovery(tmp_path / "none.npz")


def folder_of(pairs, folder, names=NAMES):
    for number, (pixels, label) in enumerate(pairs):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / names[label] / f"{number:03}.png")
    return folder


def test_broken_images_are_skipped_and_listed(model, pairs, tmp_path):
    folder = folder_of(pairs, tmp_path / "data")
    (folder / "green" / "broken.png").write_bytes(b"no picture")
    (folder / "blue" / "half.png").write_bytes((folder / "blue" / "002.png").read_bytes()[:300])
    discovery = discover_spurious(model, folder, class_names=NAMES, preprocessing=planted.OWN)
    assert sorted(skipped.name.rsplit("/", 1)[-1] for skipped in discovery.skipped) == [
        "broken.png",
        "half.png",
    ]
    assert discovery.images == 72 and discovery.confirmed[0].name == "red"


def test_predicted_classes_replace_missing_labels(model, pairs):
    discovery = discover_spurious(model, [pixels for pixels, _ in pairs], class_names=NAMES,
                              preprocessing=planted.OWN)  # fmt: skip
    assert discovery.accuracy is None and "the class that the model predicts" in discovery.notes[0]
    assert discovery.confirmed[0].name == "red"


def test_identical_images_have_no_cue(model):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    discovery = discover_spurious(model, [(noise, label) for label in (0, 1) * 6],
                              class_names=NAMES, preprocessing=planted.OWN)  # fmt: skip
    assert not discovery.confirmed


def test_classes_without_off_object_patches_are_noted(model, pairs, monkeypatch, tmp_path):
    monkeypatch.setattr(
        candidates_of, "background_patches", lambda over, *_: np.zeros_like(over, bool)
    )
    discovery = discover_spurious(model, pairs, class_names=NAMES, preprocessing=planted.OWN)
    assert (
        all(isinstance(cue, MarkCue) for cue in discovery.cues)
        and "that have patches off the object are left out: red (24), gre" in discovery.notes[0]
    )
    assert discovery.not_searched == NAMES == tuple(discovery.summary()["not_searched"])
    assert load_discovery(save_discovery(discovery, tmp_path / "d.npz")).not_searched == NAMES
    for cue in discovery.cues:
        assert "\n" not in repr(cue) and len(repr(cue)) < 1200


UNLOCATED = "the object is located in no image with the cue, or in none of other classes"


def test_a_cue_whose_images_have_no_located_object_is_not_tested(model, pairs, monkeypatch):
    monkeypatch.setattr("semattn.spurious.search.find_mark_candidates", lambda *_: ([], 0, 0))
    monkeypatch.setattr(candidates_of, "MAX_PERIMETER", -1.0)
    nothing = discover_spurious(model, pairs, class_names=NAMES, preprocessing=planted.OWN)
    (cue,) = nothing.cues
    assert cue.p == 1 and not cue.confirmed and cue.removal.count == 0
    assert nothing.notes[1:] == (f"candidates that could not be tested: 1 of 1; {UNLOCATED}",)


def test_a_kind_of_patches_on_the_object_is_not_tested(model, pairs, monkeypatch):
    monkeypatch.setattr("semattn.spurious.search.find_mark_candidates", lambda *_: ([], 0, 0))
    monkeypatch.setattr("semattn.spurious.confirmation.MIN_OFF_OBJECT", 1.01)
    nothing = discover_spurious(model, pairs, class_names=NAMES, preprocessing=planted.OWN)
    assert not nothing.cues
    assert "candidates not tested: 1, which are mostly on the object or next to it" in nothing.notes


def test_the_error_for_a_single_predicted_class_names_prediction(model, pairs):
    red = [pixels for pixels, label in pairs if label == 0]
    with pytest.raises(SemattnError, match="red only .*the class that the model predicts"):
        discover_spurious(model, red, class_names=NAMES, preprocessing=planted.OWN)


@pytest.mark.parametrize(
    ("folders", "names", "outputs", "expected", "missing"),
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
def test_class_numbers_of_folders(folders, names, outputs, expected, missing):
    assert match_class_folders(folders, names, outputs) == (expected, missing)


def test_labels_that_the_model_does_not_have(model, pairs, tmp_path):
    folder = folder_of(pairs, tmp_path, ("red", "green", "violet"))
    discovery = discover_spurious(model, folder, class_names=NAMES, preprocessing=planted.OWN)
    assert "violet is not a class of the model" in discovery.notes[0]
    with pytest.raises(
        SemattnError, match="expected labels from 0 to 2, the outputs of the model, got 3"
    ):
        discover_spurious(model, [(pixels, label + 1) for pixels, label in pairs],
                          class_names=NAMES, preprocessing=planted.OWN)  # fmt: skip


BLANK = np.zeros((96, 96, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "dataset: expected images, got none"),
        (iter([]), {}, "dataset: expected a folder, a list of images"),
        ("nowhere", {}, "got nowhere, which does not exist"),
        ([(BLANK, 0)] * 8, {}, "expected images of at least two classes, got red only"),
        ([(BLANK, 0), (BLANK, 1)], {}, "expected at least 6 images of a class"),
        (["none.png", "two.png"], {}, "expected images that can be read, got none"),
        ([(BLANK, 0)], {"alpha": 2}, "alpha: expected a value between 0 and 1, got 2"),
        ([(BLANK, 0)], {"max_candidates": 0}, "max_candidates: expected at least 1, got 0"),
        ([(BLANK, 0), (BLANK, 1)], {"classes": ["rad"]}, "did you mean 'red'"),
        ([(BLANK, 0), (BLANK, 1)], {"classes": [2]}, "expected classes of the images, got blue"),
        ([(BLANK, 0)], {"class_names": ("a", "b")}, "class names: expected 3, one name for"),
    ],
)
@pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")
def test_wrong_input_is_one_line(model, data, options, message):
    options = {"class_names": NAMES, "preprocessing": planted.OWN} | options
    with pytest.raises((SemattnError, ValueError), match=re.escape(message)) as caught:
        discover_spurious(model, data, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_folder(model, tmp_path):
    with pytest.raises(SemattnError, match="expected pictures, got none"):
        discover_spurious(model, tmp_path, class_names=NAMES, preprocessing=planted.OWN)
