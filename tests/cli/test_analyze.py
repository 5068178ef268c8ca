from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from semattn import interrelation
from semattn.cli.analyze import ANALYSIS_FILES
from semattn.data import list_images
from semattn.errors import ImageError
from semattn.interrelation import load_analysis
from tests.conftest import PHOTO, refused
from tests.result_files import names_in

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def folder(tmp_path):
    """Create four photographs, one in a subfolder, among files that are not pictures."""
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    (photos / ".hidden").mkdir()
    shutil.copy(PHOTO, photos / "a.jpg")
    for name, pixels in (("b.png", data.astronaut()), ("deep/er/c.png", data.coffee())):
        Image.fromarray(pixels).save(photos / name)
    Image.fromarray(data.chelsea()).save(photos / "<b>d[red].png")
    (photos / "broken.jpg").write_bytes(PHOTO.read_bytes()[:4000])
    (photos / "words.txt").write_text("no picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / ".hidden" / "e.png").write_bytes(b"")
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(photos / "blank.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / "tiny.png")
    return photos


def test_analyze_writes_everything_and_says_where(run, tmp_path):
    status, out, err = run("analyze", PHOTO)
    assert status == 0, err
    assert not err
    out_dir = tmp_path / "semattn-analyze-flower"
    assert sorted(path.name for path in tmp_path.iterdir()) == [out_dir.name]
    names = sorted([*ANALYSIS_FILES.values(), "keypoints.png", "report.html"])
    assert names_in(out_dir) == names
    assert out.endswith("analysis.json, analysis.npz, keypoints.png, report.html\n")
    page = (out_dir / "report.html").read_text()
    assert "flower.jpg" in page and '"findings"' in page
    assert "Layers 0 to 1: attention from HIGH to HIGH patches is " in out
    assert "with the keypoints shifted" in out and "another image's" not in out

    with Image.open(out_dir / "analysis.png") as picture:
        assert picture.width > 2000
    result = json.loads((out_dir / "analysis.json").read_text(), parse_constant=pytest.fail)
    assert result["images"] == 1 and result["skipped"] == [] and result["grid"] == [4, 4]
    analysis = load_analysis(out_dir / "analysis.npz")
    alignment = result["metrics"]["alignment"]
    assert np.allclose(alignment["mean"], analysis.mean("alignment"))
    assert alignment["low"][0][0] is None  # one image has no interval
    assert set(alignment["nulls"]) == {"shifted", "permuted"}
    assert np.shape(result["lift"]["mean"]) == (6, 2, 3, 3)
    with (out_dir / "analysis.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    lifts = [row for row in rows if row["metric"] == "lift"]
    assert len(lifts) == 6 * 2 * 9
    assert float(lifts[-1]["mean"]) == pytest.approx(analysis.mean("lift")[5, 1, 2, 2])
    assert lifts[-1]["query_stratum"] == lifts[-1]["key_stratum"] == "HIGH"


def test_a_folder_finishes_lists_what_it_skipped_and_counts_the_good(run, folder, tmp_path):
    status, out, err = run("analyze", folder, "--out", "made", "--batch-size", 1)
    assert status == 0, err
    analysis = load_analysis(tmp_path / "made/analysis.npz")
    assert analysis.images == 4
    reasons = {Path(skipped.name).name: skipped.reason for skipped in analysis.skipped}
    assert set(reasons) == {"broken.jpg", "words.txt", "empty.png", "blank.png", "tiny.png"}
    assert "no keypoint" in reasons["blank.png"] and "8x8" in reasons["tiny.png"]
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in out
    good = [folder / name for name in ("<b>d[red].png", "a.jpg", "b.png", "deep/er/c.png")]
    alone = interrelation.analyze(_model(), good, batch_size=1)
    for name in analysis.metrics:
        assert np.array_equal(analysis.mean(name), alone.mean(name), equal_nan=True)
    assert set(analysis.nulls("alignment")) == {"shifted", "other", "permuted"}


def test_an_interrupted_folder_goes_on(run, folder, tmp_path, monkeypatch):
    from semattn.interrelation import analysis_runner as running

    assert run("analyze", folder, "--out", "whole", "--batch-size", 1)[0] == 0
    monkeypatch.setattr(running, "BATCHES_BETWEEN_SAVES", 1)
    add_batch, loaded_batches = running.AnalysisRunner.add_batch, []

    def interrupt(study, loaded):
        loaded_batches.append(loaded)
        if len(loaded_batches) == 4:
            raise KeyboardInterrupt
        add_batch(study, loaded)

    monkeypatch.setattr(running.AnalysisRunner, "add_batch", interrupt)
    status, out, err = run("analyze", folder, "--out", "parts", "--batch-size", 1)
    assert status == 130 and not out and err.count("\n") == 1
    assert names_in(tmp_path / "parts") == [".semattn-analysis.npz"]
    refused(
        run("analyze", folder, "--out", "parts", "--batch-size", 1, "--seed", 3),
        "resume_file: expected the beginning of this analysis", "options",
    )  # fmt: skip
    status, out, err = run("analyze", folder, "--out", "parts", "--batch-size", 1)
    assert status == 0, err
    assert len(loaded_batches) == 4 + 6  # three of nine were done
    uninterrupted, parts = (
        load_analysis(tmp_path / name / "analysis.npz") for name in ("whole", "parts")
    )
    assert parts.skipped == uninterrupted.skipped
    for name, values in uninterrupted.tally.arrays().items():
        assert np.array_equal(values, parts.tally.arrays()[name]), name
    names = sorted([*ANALYSIS_FILES.values(), "report.html"])
    assert names_in(tmp_path / "parts") == names


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nothing-there"], ["nothing-there"]),
        (["--density", "cuont"], ["did you mean 'count'"]),
        (["--layers", "7"], ["layers"]),
        (["--n-null", "1"], ["--n-null"]),
        (["--device", "abacus"], ["abacus", "--device cpu"]),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, arguments, parts):
    arguments = arguments if arguments[0][0] != "-" else [PHOTO, *arguments]
    refused(run("analyze", *arguments), *parts)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(run, tmp_path):
    (tmp_path / "none").mkdir()
    refused(run("analyze", "none"), "folder: expected pictures, got none in none")


def test_a_folder_of_no_pictures_is_refused(run, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some/a.txt").write_text("no")
    refused(run("analyze", "some"), "images: expected one that can be analysed", "a.txt")


def test_files_are_listed_by_name_without_following_links(folder, tmp_path):
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    names = [path.relative_to(folder).as_posix() for path in list_images(folder)]
    assert names[:3] == ["<b>d[red].png", "a.jpg", "b.png"] and names[-1] == "deep/er/c.png"
    assert len(names) == 9
    with pytest.raises(ImageError, match="folder: expected a readable folder"):
        list_images(tmp_path / "nowhere")


def _model():
    from semattn import zoo

    return zoo.load()
