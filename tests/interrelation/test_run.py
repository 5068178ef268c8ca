"""What `analyze` makes of pictures, good ones and others, and of being stopped."""

from __future__ import annotations

import gc
import json
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from semattn.errors import ImageError, SemattnError
from semattn.images import Preprocessing
from semattn.interrelation import Analysis, analyze, run as running, study as module
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.analysis_files import AnalysisFileError
from tests import families, models

PREPARED = Preprocessing(models.SIZE, (0.5,) * 3, (0.5,) * 3)
TEXT = b"no picture"


class StoppedError(Exception):
    """What a person's Ctrl-C is in these tests."""


@pytest.fixture(scope="module")
def model():
    return models.build("registers")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight pictures with keypoints, as files."""
    folder, chance, made = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), []
    for number in range(8):
        small = chance.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        made.append(folder / f"{number}.png")
        Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(made[-1])
    return made


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """What lies in folders beside pictures: name, how its reason begins or what is in it."""
    folder = tmp_path_factory.mktemp("others")
    Image.fromarray(np.full((96, 128, 3), 7, np.uint8)).save(folder / "blank.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "tiny.png")
    whole = (folder / "blank.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_bytes(TEXT)
    (folder / "empty.png").write_bytes(b"")
    return {path.name: path for path in sorted(folder.iterdir())} | {"gone": folder / "gone.png"}


def of(model, pictures, **options) -> Analysis:
    return analyze(model, pictures, **({"preprocessing": PREPARED} | options))


def same_bits(one: Analysis, other: Analysis) -> None:
    first, second = one.tally.arrays(), other.tally.arrays()
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert np.array_equal(values, second[name]), name


# Pictures that are none


def test_the_figures_are_those_of_the_good_pictures_to_the_last_bit(model, photos, others):
    bad = list(others.values())
    mixed = [x for pair in zip(photos, bad, strict=False) for x in pair] + photos[len(bad) :]
    found = of(model, mixed, batch_size=1)
    same_bits(found, of(model, photos, batch_size=1))
    assert [one.name for one in found.skipped] == [str(path) for path in bad]
    said = {one.name.rpartition("/")[2]: one.reason for one in found.skipped}
    assert all(reason and "\n" not in reason for reason in said.values())
    assert "no keypoint" in said["blank.png"] and "8x8" in said["tiny.png"]
    assert "does not exist" in said["gone.png"] and "whose format is unknown" in said["text.jpg"]
    for size in (2, 3, 16):
        several = of(model, mixed, batch_size=size)
        assert {one.name for one in several.skipped} == {str(path) for path in bad}
        for name in found.figures:
            np.testing.assert_allclose(several.mean(name), found.mean(name), rtol=1e-5, atol=1e-6)
            for null in found.nulls(name):
                one, other = (each.against(name, null)["expected"] for each in (several, found))
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_left_out_takes_no_place_among_the_other_images(model, photos, others):
    blank = others["blank.png"]
    good = of(model, photos, batch_size=1, pool=4)
    same_bits(of(model, [photos[0], blank, *photos[1:]], batch_size=1, pool=4), good)
    for null in good.nulls("alignment"):
        several = of(model, [photos[0], blank, *photos[1:]], batch_size=4, pool=4)
        one, other = (each.against("alignment", null)["expected"] for each in (several, good))
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_many_blank_pictures_do_not_fill_the_memory(model, photos, others):
    given = [others["blank.png"]] * 40 + photos[:5]
    read = []
    found = of(
        model, (read.append(one) or one for one in given), batch_size=1, pool=4,
        progress=lambda done, _: read.append(None) if done == 1 else None,
    )  # fmt: skip
    assert (
        read.index(None) <= module.MAX_FILL_FACTOR * 4 + 4
    )  # so many were held, the rest one by one
    assert found.images == 5 and "other" not in found.nulls("alignment")


def test_one_picture_that_is_none_raises(model, others):
    for path in others.values():
        with pytest.raises(ImageError) as error:
            of(model, path)
        assert "\n" not in str(error.value)
    with pytest.raises(ImageError):
        of(model, TEXT)


def test_pictures_that_all_are_none_are_one_line(model, others):
    for pictures in (list(others.values()), (path for path in others.values()), []):
        with pytest.raises(ImageError, match="images: expected at least one usable image") as error:
            of(model, pictures, batch_size=2)
        assert "\n" not in str(error.value)


def test_a_picture_that_is_given_twice_counts_twice(model, photos):
    given = [photos[0], photos[0], photos[1]]
    alone = of(model, given, batch_size=1, pool=0)
    together = of(model, given, batch_size=3, pool=0)
    assert alone.images == together.images == 3
    np.testing.assert_allclose(alone.mean("alignment"), together.mean("alignment"), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("pool", [0, 3])
@pytest.mark.parametrize("name", ["registers", "pvt-v2"])  # the second takes any size
def test_tensors_of_several_sizes_are_one_clear_line(name, pool, batch_size):
    network = models.build(name) if name in models.MODELS else families.build(name)
    tensors = [*models.images(3, seed=3), torch.rand(3, 64, 64), *models.images(1, seed=4)]
    with pytest.raises(SemattnError, match="images: expected tensors of one size") as error:
        analyze(network, tensors, pool=pool, batch_size=batch_size)
    assert "\n" not in str(error.value)


def test_a_batch_in_a_list_is_refused_in_one_line(model):
    many = models.images(3, seed=3)
    with pytest.raises(SemattnError, match="images: expected") as error:
        analyze(model, [many[:2], many[2]])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed: expected at least 0"),
        ({"density": lambda scene: torch.ones(len(scene), 5)}, r"density: expected \(3, 12\)"),
        ({"density": lambda _: torch.ones(1, 12)}, r"density: expected \(3, 12\)"),
    ],
)
def test_wrong_options_are_one_line(model, wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        analyze(model, models.images(3), **wrong)
    assert "\n" not in str(error.value)


# Models and layers


@pytest.mark.parametrize("layers", [[0], [1, 2], slice(0, 2), [-1], "all"])
def test_chosen_layers_have_the_figures_that_they_have_among_all(model, layers):
    many = models.images(3, seed=3)
    found, every = analyze(model, many, layers=layers), analyze(model, many)
    numbers = [layer for layer, _ in found.layers]
    assert numbers == {"[0]": [0], "[1, 2]": [1, 2], "[-1]": [3], "all": [0, 1, 2, 3]}.get(
        str(layers), [0, 1]
    )
    for figure in every.figures:
        np.testing.assert_allclose(found.mean(figure), every.mean(figure)[numbers], rtol=1e-6)


def test_registers_are_no_class_token():
    found = analyze(models.build("registers-gap"), models.images(10, seed=3))
    assert np.isnan(found.mean("class_alignment")).all()
    assert np.isnan(found.interval("class_alignment")).all()
    assert found.mean("prefix_mass").min() > 0


def test_a_very_large_lift_is_counted():
    """One HIGH patch of 4,096 that attends to itself alone, in one of three draws."""
    draws = np.zeros((1, 1, 1, 3, 3, 3))
    draws[..., 0, 2, 2] = 4096.0
    tally = Tally(((0, 1),), 0)
    tally._add_null("lift/permuted", np.ones((1, 1, 1, 3, 3)), draws)
    assert tally.against("lift", "permuted")["expected"][0, 0, 2, 2] == pytest.approx(4096 / 3)


# Interruptions


def stop_after(count: int):
    def look(done: int, total: int | None) -> None:
        if done >= count:
            raise StoppedError

    return look


@pytest.fixture
def every_batch(monkeypatch):
    monkeypatch.setattr(module, "BATCHES_BETWEEN_SAVES", 1)


@pytest.mark.usefixtures("every_batch")
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_run_that_was_stopped_goes_on(
    model, photos, others, tmp_path, monkeypatch, batch_size, ahead
):
    monkeypatch.setattr(running, "has_spare_cores", lambda _: ahead)
    mixed = [others["text.jpg"], *photos[:3], others["blank.png"], *photos[3:], others["gone"]]
    options = {"batch_size": batch_size, "pool": 4}
    whole = of(model, mixed, **options)
    file = tmp_path / "deep" / "part.npz"
    last = -1
    for stop in (4, 7):
        with pytest.raises(StoppedError):
            of(model, mixed, partial=file, progress=stop_after(stop), **options)
        with np.load(file, allow_pickle=False) as kept:
            done = json.loads(str(kept["about"]))["done"]
        assert last < done <= stop and done % batch_size == 0
        last = done
    seen = []
    parts = of(
        model, iter(mixed), partial=file, progress=lambda *said: seen.append(said), **options
    )
    same_bits(whole, parts)
    assert parts.skipped == whole.skipped and parts.manifest == whole.manifest
    assert seen[0][0] > last and seen[-1] == (len(mixed), None)
    assert not list(file.parent.iterdir())


@pytest.mark.usefixtures("every_batch")
def test_a_model_that_fails_half_way_loses_nothing(model, photos, tmp_path):
    whole, file, passes = of(model, photos, batch_size=2), tmp_path / "part.npz", []
    before = models.state_of(model)

    def fail(*_: object) -> None:
        passes.append(1)
        if len(passes) == 7:  # the hook changes the model: layouts for one and for two images are
            # found again, and where the output is read; then the grid, and two batches
            raise RuntimeError("out of memory")

    hook = model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        of(model, photos, batch_size=2, partial=file)
    hook.remove()
    assert models.state_of(model) == before
    with np.load(file) as kept:
        assert json.loads(str(kept["about"]))["done"] == 4
    same_bits(of(model, photos, batch_size=2, partial=file), whole)


@pytest.mark.usefixtures("every_batch")
def test_a_run_that_begins_with_nothing_to_count_can_be_kept(model, photos, others, tmp_path):
    given = [others["text.jpg"], others["blank.png"], *photos[:3]]
    found = of(model, given, batch_size=1, partial=tmp_path / "part.npz")
    same_bits(found, of(model, given, batch_size=1))


@pytest.fixture
def begun(model, photos, tmp_path, every_batch):
    """A file with the first three of six pictures."""
    file = tmp_path / "part.npz"
    with pytest.raises(StoppedError):
        of(model, photos[:6], batch_size=1, partial=file, progress=stop_after(4))
    return file


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": np.int64(1)},
        {"draws": np.int64(4)},
        {"replicates": 100},
        {"density": "response"},
        {"layers": [2, 3]},
        {"batch_size": 2},
        {"preprocessing": Preprocessing(models.SIZE, (0.1,) * 3, (0.9,) * 3)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_was_begun_otherwise_is_refused(model, photos, begun, changed):
    before = begun.read_bytes()
    with pytest.raises(AnalysisFileError, match="partial: expected the beginning of") as error:
        of(model, photos[:6], **({"batch_size": 1, "partial": begun} | changed))
    assert "\n" not in str(error.value)
    assert begun.read_bytes() == before


@pytest.mark.parametrize("given", ["others", "fewer", "swapped"])
def test_what_was_begun_with_other_pictures_starts_again(model, photos, begun, given):
    pictures = {
        "others": photos[5::-1],
        "fewer": photos[:1],
        "swapped": [photos[1], photos[0], *photos[2:6]],
    }[given]
    before = begun.read_bytes()
    with pytest.raises(AnalysisFileError, match="partial: expected the beginning of") as error:
        of(model, iter(pictures), batch_size=1, partial=begun)
    assert "\n" not in str(error.value) and begun.read_bytes() == before
    with pytest.warns(UserWarning, match="the analysis starts again: of the 3 images"):
        found = of(model, pictures, batch_size=1, partial=begun)
    same_bits(found, of(model, pictures, batch_size=1))


def test_a_whole_analysis_is_no_beginning(model, photos, tmp_path):
    file = of(model, photos[:2]).save(tmp_path / "whole.npz")
    before = file.read_bytes()
    with pytest.raises(AnalysisFileError, match="partial: expected the beginning of") as error:
        of(model, photos[:2], partial=file)
    assert "\n" not in str(error.value) and file.read_bytes() == before


def test_another_model_and_a_damaged_file_are_refused(photos, begun):
    with pytest.raises(AnalysisFileError, match="weights_sha256"):
        of(models.build("registers", seed=1), photos[:6], batch_size=1, partial=begun)
    whole = begun.read_bytes()
    begun.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnalysisFileError, match="file: expected an analysis") as error:
        of(models.build("registers"), photos[:6], batch_size=1, partial=begun)
    assert "\n" not in str(error.value)


def test_other_preprocessing_does_not_merge(model, photos):
    """A figure of differently cut pictures is another figure."""
    one = of(model, photos[:2])
    other = of(model, photos[2:4], preprocessing=Preprocessing(models.SIZE, (0.1,) * 3, (0.9,) * 3))
    with pytest.raises(ValueError, match="analysis: expected the same model, options and versions"):
        one.merge(other)


# Reading ahead


def test_reading_ahead_changes_nothing_and_stays_little_ahead(model, monkeypatch):
    many, taken, distance = models.images(12, seed=3), [], []

    def one_by_one():
        for image in many:
            taken.append(1)
            yield image

    made = []
    for ahead in (False, True):
        monkeypatch.setattr(running, "has_spare_cores", lambda _, ahead=ahead: ahead)
        taken.clear()
        made.append(
            analyze(
                model, one_by_one(), batch_size=2, pool=2,
                progress=lambda done, _: distance.append(len(taken) - done),
            )
        )  # fmt: skip
    same_bits(*made)
    assert max(distance) <= 4


def test_no_thread_is_left_behind(model, photos, monkeypatch):
    monkeypatch.setattr(running, "has_spare_cores", lambda _: True)
    before = threading.enumerate()
    with pytest.raises(StoppedError):
        of(model, photos, batch_size=1, pool=0, progress=stop_after(2))
    gc.collect()
    new = [one for one in threading.enumerate() if one not in before]
    assert not [one for one in new if "semattn" in one.name]


def test_an_error_while_reading_ahead_is_the_callers(model, photos, monkeypatch):
    monkeypatch.setattr(running, "has_spare_cores", lambda _: True)

    def pictures():
        yield photos[0]
        raise StoppedError

    with pytest.raises(StoppedError):
        of(model, pictures(), batch_size=1)
    with pytest.raises(TypeError, match="image: expected a path"):
        of(model, [photos[0], 3], batch_size=1)


def test_a_partial_file_that_cannot_be_written_is_noticed_before_the_first_image(
    model, photos, tmp_path
):
    (tmp_path / "taken").write_text("a file, no folder")
    seen = []
    with pytest.raises(AnalysisFileError, match="file: expected to write") as error:
        of(model, photos[:2], partial=tmp_path / "taken" / "part.npz", progress=seen.append)
    assert "\n" not in str(error.value) and not seen


def test_a_density_of_other_images_is_refused(model, photos):
    with pytest.raises(ValueError, match="density: expected a density of the image itself"):
        of(model, photos[:2], density="other")


def test_the_models_own_preprocessing_is_in_the_manifest(photos):
    vit = timm.create_model("test_vit").eval()
    found = of(vit, photos[:2], preprocessing=None)
    assert found.manifest["options"]["preprocessing"] == str(Preprocessing.of(vit))
    other = of(vit, photos[:2], preprocessing=PREPARED)
    assert other.manifest["options"]["preprocessing"] == str(PREPARED)


def test_where_nothing_tells_the_preprocessing_the_manifest_does_not_either(model):
    images = torch.rand(2, 3, *models.SIZE, generator=torch.manual_seed(0))
    assert of(model, images, preprocessing=None).manifest["options"]["preprocessing"] is None


def test_the_warnings_of_other_threads_are_left_alone(model, photos, others, monkeypatch):
    """`catch_warnings` swaps what all threads share: under a thread that reads it goes wrong."""
    ours = []

    class Watched(warnings.catch_warnings):
        def __init__(self, *given: Any, **options: Any) -> None:
            ours.append(sys._getframe(1).f_globals["__name__"])
            super().__init__(*given, **options)

    monkeypatch.setattr(warnings, "catch_warnings", Watched)
    with warnings.catch_warnings():
        pass
    found = of(model, [*photos, *photos, others["blank.png"], others["text.jpg"]], replicates=20)
    assert np.isfinite(found.interval("alignment")).all()
    assert ours[0] == __name__ and not [name for name in ours if name.startswith("semattn")]
