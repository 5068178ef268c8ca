"""`analyze` with good and bad pictures, wrong options and interruptions."""

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
from semattn.interrelation import Analysis, analysis_runner as module, analyze
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.analysis_files import AnalysisFileError
from tests import families, models

PREPARED = Preprocessing(models.SIZE, (0.5,) * 3, (0.5,) * 3)
TEXT = b"no picture"


class StoppedError(Exception):
    """Interruption of a run in these tests."""


@pytest.fixture(scope="module")
def model():
    return models.build("registers")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight pictures with keypoints, as files."""
    folder, rng, paths = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), []
    for number in range(8):
        blocks = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Unusable files of a folder, by name."""
    folder = tmp_path_factory.mktemp("others")
    Image.fromarray(np.full((96, 128, 3), 7, np.uint8)).save(folder / "blank.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "tiny.png")
    content = (folder / "blank.png").read_bytes()
    (folder / "broken.png").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_bytes(TEXT)
    (folder / "empty.png").write_bytes(b"")
    return {path.name: path for path in sorted(folder.iterdir())} | {"gone": folder / "gone.png"}


def analyze_pictures(model, pictures, **options) -> Analysis:
    return analyze(model, pictures, **({"preprocessing": PREPARED} | options))


def same_bits(first_analysis: Analysis, second_analysis: Analysis) -> None:
    first, second = first_analysis.tally.arrays(), second_analysis.tally.arrays()
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert np.array_equal(values, second[name]), name


# Bad pictures


def test_bad_pictures_do_not_change_the_analysis(model, photos, others):
    bad = list(others.values())
    mixed = [x for pair in zip(photos, bad, strict=False) for x in pair] + photos[len(bad) :]
    expected = analyze_pictures(model, mixed, batch_size=1)
    same_bits(expected, analyze_pictures(model, photos, batch_size=1))
    assert [skipped.name for skipped in expected.skipped] == [str(path) for path in bad]
    reasons = {skipped.name.rpartition("/")[2]: skipped.reason for skipped in expected.skipped}
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert "no keypoint" in reasons["blank.png"] and "8x8" in reasons["tiny.png"]
    assert (
        "does not exist" in reasons["gone.png"] and "whose format is unknown" in reasons["text.jpg"]
    )
    for size in (2, 3, 16):
        batched = analyze_pictures(model, mixed, batch_size=size)
        assert {skipped.name for skipped in batched.skipped} == {str(path) for path in bad}
        for name in expected.metrics:
            np.testing.assert_allclose(
                batched.mean(name), expected.mean(name), rtol=1e-5, atol=1e-6
            )
            for null in expected.nulls(name):
                actual, reference = (
                    analysis.against(name, null)["expected"] for analysis in (batched, expected)
                )
                np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-5)


def test_skipped_pictures_do_not_enter_the_pool(model, photos, others):
    blank = others["blank.png"]
    expected = analyze_pictures(model, photos, batch_size=1, pool_size=4)
    same_bits(
        analyze_pictures(model, [photos[0], blank, *photos[1:]], batch_size=1, pool_size=4),
        expected,
    )
    for null in expected.nulls("alignment"):
        batched = analyze_pictures(
            model, [photos[0], blank, *photos[1:]], batch_size=4, pool_size=4
        )
        actual, reference = (
            analysis.against("alignment", null)["expected"] for analysis in (batched, expected)
        )
        np.testing.assert_allclose(actual, reference, rtol=1e-5)


def test_many_blank_pictures_do_not_fill_the_memory(model, photos, others):
    pictures = [others["blank.png"]] * 40 + photos[:5]
    log = []
    analysis = analyze_pictures(
        model, (log.append(picture) or picture for picture in pictures), batch_size=1, pool_size=4,
        progress=lambda _, done, total: log.append(None) if done == 1 else None,
    )  # fmt: skip
    assert log.index(None) <= module.MAX_FILL_FACTOR * 4 + 4
    assert analysis.images == 5 and "other" not in analysis.nulls("alignment")


def test_a_single_bad_picture_raises(model, others):
    for path in others.values():
        with pytest.raises(ImageError) as error:
            analyze_pictures(model, path)
        assert "\n" not in str(error.value)
    with pytest.raises(ImageError):
        analyze_pictures(model, TEXT)


def test_only_bad_pictures_raise_one_line(model, others):
    for pictures in (list(others.values()), (path for path in others.values()), []):
        with pytest.raises(ImageError, match="images: expected at least one usable image") as error:
            analyze_pictures(model, pictures, batch_size=2)
        assert "\n" not in str(error.value)


def test_a_picture_that_is_given_twice_counts_twice(model, photos):
    pictures = [photos[0], photos[0], photos[1]]
    single = analyze_pictures(model, pictures, batch_size=1, pool_size=0)
    batched = analyze_pictures(model, pictures, batch_size=3, pool_size=0)
    assert single.images == batched.images == 3
    np.testing.assert_allclose(single.mean("alignment"), batched.mean("alignment"), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("pool", [0, 3])
@pytest.mark.parametrize("name", ["registers", "pvt-v2"])  # the second takes any size
def test_tensors_of_several_sizes_are_one_clear_line(name, pool, batch_size):
    network = families.build(name)
    tensors = [*models.images(3, seed=3), torch.rand(3, 64, 64), *models.images(1, seed=4)]
    with pytest.raises(SemattnError, match="images: expected tensors of one size") as error:
        analyze(network, tensors, pool_size=pool, batch_size=batch_size)
    assert "\n" not in str(error.value)


def test_a_batch_in_a_list_is_refused_in_one_line(model):
    inputs = models.images(3, seed=3)
    with pytest.raises(SemattnError, match="images: expected") as error:
        analyze(model, [inputs[:2], inputs[2]])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed: expected at least 0"),
        ({"density": lambda scene: torch.ones(len(scene), 5)}, r"density: expected \(3, 12\)"),
        ({"density": lambda _: torch.ones(1, 12)}, r"density: expected \(3, 12\)"),
    ],
)
def test_wrong_options_are_one_line(model, options, message):
    with pytest.raises(ValueError, match=message) as error:
        analyze(model, models.images(3), **options)
    assert "\n" not in str(error.value)


# Models and layers


@pytest.mark.parametrize("layers", [[0], [1, 2], slice(0, 2), [-1], "all"])
def test_chosen_layers_have_the_figures_that_they_have_among_all(model, layers):
    inputs = models.images(3, seed=3)
    selected, complete = analyze(model, inputs, layers=layers), analyze(model, inputs)
    numbers = [layer for layer, _ in selected.layers]
    assert numbers == {"[0]": [0], "[1, 2]": [1, 2], "[-1]": [3], "all": [0, 1, 2, 3]}.get(
        str(layers), [0, 1]
    )
    for metric in complete.metrics:
        np.testing.assert_allclose(selected.mean(metric), complete.mean(metric)[numbers], rtol=1e-6)


def test_registers_are_no_class_token():
    analysis = analyze(models.build("registers-gap"), models.images(10, seed=3))
    assert np.isnan(analysis.mean("class_alignment")).all()
    assert np.isnan(analysis.interval("class_alignment")).all()
    assert analysis.mean("prefix_mass").min() > 0


def test_a_very_large_lift_is_counted():
    """Use one HIGH patch of 4,096 that attends only to itself, in one of three draws."""
    draws = np.zeros((1, 1, 1, 3, 3, 3))
    draws[..., 0, 2, 2] = 4096.0
    tally = Tally(((0, 1),), 0)
    tally._add_null("lift/permuted", np.ones((1, 1, 1, 3, 3)), draws)
    assert tally.against("lift", "permuted")["expected"][0, 0, 2, 2] == pytest.approx(4096 / 3)


# Interruptions


def stop_after(count: int):
    def progress(stage: str, done: int, total: int | None) -> None:
        if done >= count:
            raise StoppedError

    return progress


@pytest.fixture
def save_after_every_batch(monkeypatch):
    monkeypatch.setattr(module, "BATCHES_BETWEEN_SAVES", 1)


@pytest.mark.usefixtures("save_after_every_batch")
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_run_that_was_stopped_goes_on(
    model, photos, others, tmp_path, monkeypatch, batch_size, ahead
):
    monkeypatch.setattr(module, "has_spare_cores", lambda _: ahead)
    mixed = [others["text.jpg"], *photos[:3], others["blank.png"], *photos[3:], others["gone"]]
    options = {"batch_size": batch_size, "pool_size": 4}
    uninterrupted = analyze_pictures(model, mixed, **options)
    file = tmp_path / "deep" / "part.npz"
    last_done = -1
    for stop in (4, 7):
        with pytest.raises(StoppedError):
            analyze_pictures(model, mixed, resume_file=file, progress=stop_after(stop), **options)
        with np.load(file, allow_pickle=False) as arrays:
            done = json.loads(str(arrays["about"]))["done"]
        assert last_done < done <= stop and done % batch_size == 0
        last_done = done
    calls = []
    resumed = analyze_pictures(
        model, iter(mixed), resume_file=file, progress=lambda *args: calls.append(args), **options
    )
    same_bits(uninterrupted, resumed)
    assert resumed.skipped == uninterrupted.skipped and resumed.manifest == uninterrupted.manifest
    assert calls[0][1] > last_done and calls[-1] == ("analyzing", len(mixed), None)
    assert not list(file.parent.iterdir())


@pytest.mark.usefixtures("save_after_every_batch")
def test_a_model_that_fails_half_way_loses_nothing(model, photos, tmp_path):
    uninterrupted, file, passes = (
        analyze_pictures(model, photos, batch_size=2),
        tmp_path / "part.npz",
        [],
    )
    before = models.state_of(model)

    def fail(*_: object) -> None:
        passes.append(1)
        if len(passes) == 7:  # the hook changes the model: layouts for one and for two images are
            # found again, and where the output is read; then the grid, and two batches
            raise RuntimeError("out of memory")

    hook = model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        analyze_pictures(model, photos, batch_size=2, resume_file=file)
    hook.remove()
    assert models.state_of(model) == before
    with np.load(file) as arrays:
        assert json.loads(str(arrays["about"]))["done"] == 4
    same_bits(analyze_pictures(model, photos, batch_size=2, resume_file=file), uninterrupted)


@pytest.mark.usefixtures("save_after_every_batch")
def test_a_run_that_begins_with_bad_pictures_can_be_resumed(model, photos, others, tmp_path):
    pictures = [others["text.jpg"], others["blank.png"], *photos[:3]]
    analysis = analyze_pictures(model, pictures, batch_size=1, resume_file=tmp_path / "part.npz")
    same_bits(analysis, analyze_pictures(model, pictures, batch_size=1))


@pytest.fixture
def partial_file(model, photos, tmp_path, save_after_every_batch):
    """Partial file with the first three of six pictures."""
    file = tmp_path / "part.npz"
    with pytest.raises(StoppedError):
        analyze_pictures(model, photos[:6], batch_size=1, resume_file=file, progress=stop_after(4))
    return file


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": np.int64(1)},
        {"n_null": np.int64(4)},
        {"n_bootstrap": 100},
        {"density": "response"},
        {"layers": [2, 3]},
        {"batch_size": 2},
        {"preprocessing": Preprocessing(models.SIZE, (0.1,) * 3, (0.9,) * 3)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_resuming_with_other_options_is_refused(model, photos, partial_file, changed):
    content = partial_file.read_bytes()
    with pytest.raises(AnalysisFileError, match="resume_file: expected the beginning of") as error:
        analyze_pictures(
            model, photos[:6], **({"batch_size": 1, "resume_file": partial_file} | changed)
        )
    assert "\n" not in str(error.value)
    assert partial_file.read_bytes() == content


@pytest.mark.parametrize("changes", ["others", "fewer", "swapped"])
def test_resuming_with_other_pictures_starts_again(model, photos, partial_file, changes):
    pictures = {
        "others": photos[5::-1],
        "fewer": photos[:1],
        "swapped": [photos[1], photos[0], *photos[2:6]],
    }[changes]
    content = partial_file.read_bytes()
    with pytest.raises(AnalysisFileError, match="resume_file: expected the beginning of") as error:
        analyze_pictures(model, iter(pictures), batch_size=1, resume_file=partial_file)
    assert "\n" not in str(error.value) and partial_file.read_bytes() == content
    with pytest.warns(UserWarning, match="the analysis starts again: of the 3 images"):
        analysis = analyze_pictures(model, pictures, batch_size=1, resume_file=partial_file)
    same_bits(analysis, analyze_pictures(model, pictures, batch_size=1))


def test_a_complete_analysis_is_not_a_partial_file(model, photos, tmp_path):
    file = analyze_pictures(model, photos[:2]).save(tmp_path / "whole.npz")
    content = file.read_bytes()
    with pytest.raises(AnalysisFileError, match="resume_file: expected the beginning of") as error:
        analyze_pictures(model, photos[:2], resume_file=file)
    assert "\n" not in str(error.value) and file.read_bytes() == content


def test_another_model_and_a_damaged_file_are_refused(photos, partial_file):
    with pytest.raises(AnalysisFileError, match="weights_sha256"):
        analyze_pictures(
            models.build("registers", seed=1), photos[:6], batch_size=1, resume_file=partial_file
        )
    content = partial_file.read_bytes()
    partial_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(AnalysisFileError, match="file: expected an analysis") as error:
        analyze_pictures(
            models.build("registers"), photos[:6], batch_size=1, resume_file=partial_file
        )
    assert "\n" not in str(error.value)


def test_other_preprocessing_does_not_merge(model, photos):
    """Check that analyses with different preprocessing are not merged."""
    first = analyze_pictures(model, photos[:2])
    second = analyze_pictures(
        model, photos[2:4], preprocessing=Preprocessing(models.SIZE, (0.1,) * 3, (0.9,) * 3)
    )
    with pytest.raises(ValueError, match="analysis: expected the same model, options and versions"):
        first.merge(second)


# Reading ahead


def test_reading_ahead_changes_nothing_and_stays_little_ahead(model, monkeypatch):
    inputs, n_taken, distances = models.images(12, seed=3), [], []

    def generate():
        for image in inputs:
            n_taken.append(1)
            yield image

    analyses = []
    for ahead in (False, True):
        monkeypatch.setattr(module, "has_spare_cores", lambda _, ahead=ahead: ahead)
        n_taken.clear()
        analyses.append(
            analyze(
                model, generate(), batch_size=2, pool_size=2,
                progress=lambda _, done, total: distances.append(len(n_taken) - done),
            )
        )  # fmt: skip
    same_bits(*analyses)
    assert max(distances) <= 4


def test_no_thread_is_left_behind(model, photos, monkeypatch):
    monkeypatch.setattr(module, "has_spare_cores", lambda _: True)
    threads_before = threading.enumerate()
    with pytest.raises(StoppedError):
        analyze_pictures(model, photos, batch_size=1, pool_size=0, progress=stop_after(2))
    gc.collect()
    threads = [thread for thread in threading.enumerate() if thread not in threads_before]
    assert not [thread for thread in threads if "semattn" in thread.name]


def test_an_error_while_reading_ahead_is_the_callers(model, photos, monkeypatch):
    monkeypatch.setattr(module, "has_spare_cores", lambda _: True)

    def pictures():
        yield photos[0]
        raise StoppedError

    with pytest.raises(StoppedError):
        analyze_pictures(model, pictures(), batch_size=1)
    with pytest.raises(TypeError, match="image: expected a path"):
        analyze_pictures(model, [photos[0], 3], batch_size=1)


def test_a_partial_file_that_cannot_be_written_is_noticed_before_the_first_image(
    model, photos, tmp_path
):
    (tmp_path / "taken").write_text("a file, no folder")
    calls = []
    with pytest.raises(AnalysisFileError, match="file: expected a file that can be") as error:
        analyze_pictures(
            model,
            photos[:2],
            resume_file=tmp_path / "taken" / "part.npz",
            progress=lambda *args: calls.append(args),
        )
    assert "\n" not in str(error.value) and not calls


def test_a_density_of_other_images_is_refused(model, photos):
    with pytest.raises(ValueError, match="density: expected a density of the image itself"):
        analyze_pictures(model, photos[:2], density="other")


def test_the_models_own_preprocessing_is_in_the_manifest(photos):
    vit = timm.create_model("test_vit").eval()
    analysis = analyze_pictures(vit, photos[:2], preprocessing=None)
    assert analysis.manifest["options"]["preprocessing"] == str(Preprocessing.of(vit))
    prepared = analyze_pictures(vit, photos[:2], preprocessing=PREPARED)
    assert prepared.manifest["options"]["preprocessing"] == str(PREPARED)


def test_where_nothing_tells_the_preprocessing_the_manifest_does_not_either(model):
    images = torch.rand(2, 3, *models.SIZE, generator=torch.manual_seed(0))
    assert (
        analyze_pictures(model, images, preprocessing=None).manifest["options"]["preprocessing"]
        is None
    )


def test_the_warnings_of_other_threads_are_left_alone(model, photos, others, monkeypatch):
    """Check that `catch_warnings`, which is not thread-safe, is not used in a reader thread."""
    callers = []

    class Watched(warnings.catch_warnings):
        def __init__(self, *args: Any, **options: Any) -> None:
            callers.append(sys._getframe(1).f_globals["__name__"])
            super().__init__(*args, **options)

    monkeypatch.setattr(warnings, "catch_warnings", Watched)
    with warnings.catch_warnings():
        pass
    analysis = analyze_pictures(
        model, [*photos, *photos, others["blank.png"], others["text.jpg"]], n_bootstrap=20
    )
    assert np.isfinite(analysis.interval("alignment")).all()
    assert callers[0] == __name__ and not [name for name in callers if name.startswith("semattn")]
