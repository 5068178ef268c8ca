from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from semattn import interrelation, output
from semattn.data import listed
from semattn.errors import ImageError
from semattn.interrelation import load_analysis
from tests.conftest import PHOTO, refused
from tests.result_files import names_in

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def folder(tmp_path):
    """Four photographs, one of them deep down, among files that are none."""
    made = tmp_path / "photos"
    (made / "deep" / "er").mkdir(parents=True)
    (made / ".hidden").mkdir()
    shutil.copy(PHOTO, made / "a.jpg")
    for name, pixels in (("b.png", data.astronaut()), ("deep/er/c.png", data.coffee())):
        Image.fromarray(pixels).save(made / name)
    Image.fromarray(data.chelsea()).save(made / "<b>d[red].png")
    (made / "broken.jpg").write_bytes(PHOTO.read_bytes()[:4000])
    (made / "words.txt").write_text("no picture")
    (made / "empty.png").write_bytes(b"")
    (made / ".hidden" / "e.png").write_bytes(b"")
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(made / "blank.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(made / "tiny.png")
    return made


def test_analyze_writes_everything_and_says_where(run, tmp_path):
    status, out, err = run("analyze", PHOTO)
    assert status == 0, err
    assert not err
    made = tmp_path / "semattn-analyze-flower"
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.name]
    names = sorted([*output.ANALYSIS_FILES.values(), "keypoints.png", "report.html"])
    assert names_in(made) == names
    assert out.endswith("analysis.json, analysis.npz, keypoints.png, report.html\n")
    page = (made / "report.html").read_text()
    assert "flower.jpg" in page and '"findings"' in page
    assert "Layers 0 to 1: patches of HIGH concentration give patches of HIGH" in out
    assert "with the keypoints shifted" in out and "another image's" not in out

    with Image.open(made / "analysis.png") as picture:
        assert picture.width > 2000
    result = json.loads((made / "analysis.json").read_text(), parse_constant=pytest.fail)
    assert result["images"] == 1 and result["skipped"] == [] and result["grid"] == [4, 4]
    found = load_analysis(made / "analysis.npz")
    alignment = result["figures"]["alignment"]
    assert np.allclose(alignment["mean"], found.mean("alignment"))
    assert alignment["low"][0][0] is None  # one image has no interval
    assert set(alignment["nulls"]) == {"shifted", "permuted"}
    assert np.shape(result["lift"]["mean"]) == (6, 2, 3, 3)
    with (made / "analysis.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    lifts = [row for row in rows if row["figure"] == "lift"]
    assert len(lifts) == 6 * 2 * 9
    assert float(lifts[-1]["mean"]) == pytest.approx(found.mean("lift")[5, 1, 2, 2])
    assert lifts[-1]["asking"] == lifts[-1]["asked"] == "HIGH"


def test_a_folder_finishes_lists_what_it_skipped_and_counts_the_good(run, folder, tmp_path):
    status, out, err = run("analyze", folder, "--out", "made", "--batch-size", 1)
    assert status == 0, err
    found = load_analysis(tmp_path / "made/analysis.npz")
    assert found.images == 4
    reasons = {Path(one.name).name: one.reason for one in found.skipped}
    assert set(reasons) == {"broken.jpg", "words.txt", "empty.png", "blank.png", "tiny.png"}
    assert "no keypoint" in reasons["blank.png"] and "8x8" in reasons["tiny.png"]
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in out
    good = [folder / one for one in ("<b>d[red].png", "a.jpg", "b.png", "deep/er/c.png")]
    alone = interrelation.analyze(_model(), good, batch_size=1)
    for name in found.figures:
        assert np.array_equal(found.mean(name), alone.mean(name), equal_nan=True)
    assert set(found.nulls("alignment")) == {"shifted", "other", "permuted"}


def test_an_interrupted_folder_goes_on(run, folder, tmp_path, monkeypatch):
    from semattn.interrelation import study as running

    assert run("analyze", folder, "--out", "whole", "--batch-size", 1)[0] == 0
    monkeypatch.setattr(running, "BATCHES_BETWEEN_SAVES", 1)
    take, seen = running.Study.take, []

    def interrupt(study, loaded):
        seen.append(loaded)
        if len(seen) == 4:
            raise KeyboardInterrupt
        take(study, loaded)

    monkeypatch.setattr(running.Study, "take", interrupt)
    status, out, err = run("analyze", folder, "--out", "parts", "--batch-size", 1)
    assert status == 130 and not out and err.count("\n") == 1
    assert names_in(tmp_path / "parts") == [".semattn-analysis.npz"]
    refused(
        run("analyze", folder, "--out", "parts", "--batch-size", 1, "--seed", 3),
        "partial: expected the beginning of this analysis", "options",
    )  # fmt: skip
    status, out, err = run("analyze", folder, "--out", "parts", "--batch-size", 1)
    assert status == 0, err
    assert len(seen) == 4 + 6  # three of nine were done
    whole, parts = (load_analysis(tmp_path / one / "analysis.npz") for one in ("whole", "parts"))
    assert parts.skipped == whole.skipped
    for name, values in whole.tally.arrays().items():
        assert np.array_equal(values, parts.tally.arrays()[name]), name
    names = sorted([*output.ANALYSIS_FILES.values(), "report.html"])
    assert names_in(tmp_path / "parts") == names


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nothing-there"], ["nothing-there"]),
        (["--density", "cuont"], ["did you mean 'count'"]),
        (["--layers", "7"], ["layers"]),
        (["--draws", "1"], ["--draws"]),
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
    refused(run("analyze", "some"), "images: expected at least one usable image", "a.txt")


def test_files_are_listed_by_name_without_following_links(folder, tmp_path):
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    names = [path.relative_to(folder).as_posix() for path in listed(folder)]
    assert names[:3] == ["<b>d[red].png", "a.jpg", "b.png"] and names[-1] == "deep/er/c.png"
    assert len(names) == 9
    with pytest.raises(ImageError, match="folder: expected a readable folder"):
        listed(tmp_path / "nowhere")


def _model():
    from semattn import zoo

    return zoo.load()
