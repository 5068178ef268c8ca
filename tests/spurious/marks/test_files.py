"""Files of marks: what is saved is loaded; damaged, missing and foreign files are refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from semattn.errors import SemattnError
from semattn.keypoints.mattes import Matte
from semattn.spurious import find_marks, load_marks, save_discovery, save_marks
from semattn.spurious.marks.files import mark_from_arrays, mark_to_arrays
from tests import discoveries, marked


def same_marks(first, second):
    assert json.dumps(first.summary()) == json.dumps(second.summary())
    assert (first.n_found, first.n_significant) == (second.n_found, second.n_significant)
    assert first.same_scenes == second.same_scenes
    for mark, other in zip(first.marks, second.marks, strict=True):
        for image, read in zip(mark.marked_images, other.marked_images, strict=True):
            assert image[:-1] == read[:-1]
            for region, loaded in zip(image.regions, read.regions, strict=True):
                assert np.array_equal(region.outline, loaded.outline)
        assert np.array_equal(mark.picture, other.picture)
        arrays, others = mark.template.to_arrays(), other.template.to_arrays()
        assert arrays.keys() == others.keys()
        assert all(np.array_equal(arrays[name], others[name]) for name in arrays)
        for example, read in zip(mark.examples, other.examples, strict=True):
            assert np.array_equal(example.pixels, read.pixels)
            for region, loaded in zip(example.regions, read.regions, strict=True):
                assert np.array_equal(region.outline, loaded.outline)
                assert np.array_equal(region.transform, loaded.transform)
                assert region.matches == loaded.matches
                assert region.is_mirrored is loaded.is_mirrored


def test_marks_of_a_search_are_loaded_and_located(tmp_path):
    pairs = marked.pairs()
    discovery = find_marks(pairs, class_names=marked.NAMES)
    loaded = load_marks(save_marks(discovery, tmp_path / "marks.npz"))
    same_marks(discovery, loaded)
    assert loaded.significant and loaded.notes == discovery.notes
    for pixels, _ in (pairs[0], pairs[-1]):
        expected, places = (of.marks[0].locate(pixels) for of in (discovery, loaded))
        assert [region.matches for region in expected] == [region.matches for region in places]
    assert loaded.marks[0].locate(pairs[0][0]) and not loaded.marks[0].locate(pairs[-1][0])
    assert np.array_equal(discovery.marks[0].erase(pairs[0][0]), loaded.marks[0].erase(pairs[0][0]))
    assert discovery.marks[0].matte is not None and loaded.marks[0].matte is not None
    for name, values in vars(discovery.marks[0].matte).items():
        assert np.array_equal(values, getattr(loaded.marks[0].matte, name)), name


@pytest.mark.parametrize(
    "marks",
    [
        (), (marked.mark(), marked.mark("dög $", examples=1)), (marked.counted_mark(),),
        (marked.mark(examples=0),),
    ],
)  # fmt: skip
def test_every_field_is_stored(tmp_path, marks):
    discovery = marked.discovery(*marks)
    loaded = load_marks(save_marks(discovery, tmp_path / "marks.npz"))
    same_marks(discovery, loaded)
    assert loaded.skipped == discovery.skipped and loaded.classes == discovery.classes
    for mark, read in zip(discovery.marks, loaded.marks, strict=True):
        assert np.array_equal([mark.p, mark.outside], [read.p, read.outside], equal_nan=True)


def contents(folder):
    whole = save_marks(marked.discovery(marked.mark()), folder / "whole.npz").read_bytes()
    return {
        "empty": b"", "no archive": b"PK\x03\x04 no archive", "pickle": pickle.dumps({"a": 1}),
        "half": whole[: len(whole) // 2],
        "discovery": save_discovery(discoveries.discovery(), folder / "cues.npz").read_bytes(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["empty", "no archive", "pickle", "half", "discovery"])
def test_a_file_without_marks_is_refused(kind, tmp_path):
    file = tmp_path / "marks.npz"
    file.write_bytes(contents(tmp_path)[kind])
    with pytest.raises(SemattnError, match="expected a file written by save_marks") as error:
        load_marks(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SemattnError, match="expected marks, got .*none.npz, which does not exist"):
        load_marks(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("template.background", lambda values: values[:-1], r"background of shape \(4,\)"),
        ("template.xy", lambda values: values[:, :1], r"xy of shape \(5, 1\)"),
        ("template.descriptors", lambda values: values[0], r"descriptors of shape \(128,\)"),
        ("picture", lambda values: values[..., 0], r"picture of shape \(20, 40\)"),
        ("example1", lambda values: values[..., :2], r"example1 of shape \(64, 80, 2\)"),
        ("transforms", lambda values: values[1:], r"transforms of shape \(5, 2, 3\)"),
        ("matches", lambda values: values[1:], r"transforms of shape \(6, 2, 3\)"),
        ("is_mirrored", lambda values: values[1:], "zip"),
        ("matte.colour", lambda values: values[1:], r"matte.colour of shape \(3, 6, 3\)"),
        ("matte.opacity", lambda values: values[0], r"matte.opacity of shape \(6,\)"),
        ("matte.to_frame", lambda values: values[:, :2], r"matte.to_frame of shape \(2, 2\)"),
    ],
)
def test_arrays_that_do_not_match_are_refused(name, change, reason):
    matte = Matte(np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), np.float32), np.eye(2, 3))
    arrays, fields = mark_to_arrays(replace(marked.mark(), matte=matte))
    assert mark_from_arrays(arrays, fields).matte is not None
    with pytest.raises(ValueError, match=reason):
        mark_from_arrays(arrays | {name: change(arrays[name])}, fields)


def test_an_array_that_is_missing_is_refused():
    arrays, fields = mark_to_arrays(marked.mark())
    for name in arrays:
        with pytest.raises(LookupError):
            mark_from_arrays({key: arrays[key] for key in arrays if key != name}, fields)
