"""`semattn marks`: result files, console output, erased copies, refusals and resuming."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from semattn import report, viz
from semattn.cli.marks import IMAGE_COLUMNS, MARKS_FILES, report_marks, write_marks
from semattn.spurious import load_marks
from semattn.spurious.marks import keypoint_store
from tests import marked
from tests.conftest import refused
from tests.report.pages import NASTY, content_of
from tests.result_files import names_in

FILES = sorted([*MARKS_FILES.values(), "report.html"])


@pytest.fixture
def folder(elsewhere):
    """Three classes, a mark on nine pictures of the first, and files that are no pictures."""
    marked.write_folder(elsewhere / "photos")
    (elsewhere / "photos/dog/words.txt").write_text("no picture")
    (elsewhere / "photos/dog/[red].png").write_bytes(b"")
    return elsewhere / "photos"


def test_it_writes_everything_and_says_where(run, folder, tmp_path):
    status, out, err = run("marks", "photos")
    assert status == 0, err
    assert not err
    results = tmp_path / "semattn-marks"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", results.name]
    assert names_in(results) == FILES
    table = [line.split("  ") for line in out.splitlines()[:2]]
    assert [part.strip() for part in table[0] if part.strip()] == [
        "class", "in class", "in others", "p", "clearest in",
    ]  # fmt: skip
    row = [part.strip() for part in table[1] if part.strip()]
    assert row[:4] == ["cat", "9 (75 %)", "0 (0 %)", "< .001"] and row[4].startswith("cat/")
    assert "1 mark is more frequent in one class than in the others at level .05" in out
    assert "36 images of 3 classes" in out
    assert "skipped: 2" in out and "[red].png:" in out and "words.txt:" in out
    assert out.endswith(
        "marks.png, marks.csv, marks-images.csv, marks.json, marks.npz, report.html\n"
    )
    result = json.loads((results / "marks.json").read_text(), parse_constant=pytest.fail)
    assert result["images"] == 36 and len(result["skipped"]) == 2
    assert load_marks(results / "marks.npz").significant[0].name == "cat"
    with (results / "marks.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(result["marks"])
    assert rows[0]["class"] == "cat" and rows[0]["n_inside"] == "9"
    assert rows[0]["significant"] == "True" and rows[0]["clearest"].startswith("photos/cat/")
    with (results / "marks-images.csv").open(newline="") as stream:
        places = list(csv.DictReader(stream))
    assert list(places[0]) == list(IMAGE_COLUMNS)
    of_first = [row for row in places if row["mark"] == "1"]
    names = [f"photos/cat/{number:02}.png" for number in range(marked.MARKED)]
    assert sorted(row["image"] for row in of_first) == names
    assert sorted(result["marks"][0]["image_names"]) == names
    assert {(row["mark_class"], row["class"], row["in_class"]) for row in of_first} == {
        ("cat", "cat", "True")
    }
    for row in of_first:
        corners = [tuple(map(float, pair.split(","))) for pair in row["outline"].split(" ")]
        (region,) = load_marks(results / "marks.npz").marks[0].locate(row["image"])
        np.testing.assert_allclose(corners, region.outline, atol=0.5)
    with Image.open(results / "marks.png") as picture:
        assert picture.width > 1500
    page = content_of((results / "report.html").read_text())["marks"]
    assert page["outcome"] in out and page["marks"][0]["class"] == "cat"


@pytest.mark.usefixtures("folder")
def test_json_is_the_result_with_the_files(run, tmp_path):
    status, out, err = run("marks", "photos", "--no-report", "--out", "o", "--json",
                           "--erase", "clean")  # fmt: skip
    assert status == 0 and "in o: " in err
    content = json.loads(out, parse_constant=pytest.fail)
    file = json.loads((tmp_path / "o/marks.json").read_text())
    assert content["marks"] == file["marks"] and names_in(tmp_path / "o") == FILES[:-1]
    assert content["erased"] == {
        "folder": "clean", "names": [f"cat/{number:02}.png" for number in range(marked.MARKED)],
    }  # fmt: skip
    assert "9 copies without the marks: clean" in err
    assert "9 copies without the marks: clean" in content["notes"]


@pytest.mark.usefixtures("folder")
def test_copies_without_the_marks(run, tmp_path):
    with Image.open(tmp_path / "photos/cat/10.png") as image:
        image.paste(marked.stamp(), (30, 50))
        image.save(tmp_path / "photos/cat/03.bmp")
    before = {path: path.read_bytes() for path in (tmp_path / "photos").rglob("*.*")}
    arguments = ("marks", "photos", "--no-report", "--erase", "some/clean")
    status, out, err = run(*arguments)
    assert status == 0, err
    assert "10 copies without the marks: some/clean" in out
    assert {path: path.read_bytes() for path in before} == before
    copies = tmp_path / "some/clean/cat"
    same = [f"{number:02}.png" for number in range(marked.MARKED) if number != 3]
    assert names_in(copies) == sorted([*same, "03.bmp.png", "03.png.png"])
    mark = load_marks(tmp_path / "semattn-marks/marks.npz").marks[0]
    for name in same:
        with Image.open(tmp_path / "photos/cat" / name) as image:
            original = np.asarray(image)
        with Image.open(copies / name) as image:
            erased = np.asarray(image)
        assert mark.locate(original) and not mark.locate(erased)
        assert 0.05 < (erased != original).any(axis=2).mean() < 0.3
    # A second run removes its earlier copies and keeps the files of others.
    (tmp_path / "photos/cat/00.png").unlink()
    (copies / "mine.txt").write_text("a")
    assert run(*arguments)[0] == 0
    assert not (copies / "00.png").exists() and (copies / "01.png").exists()
    for path in (tmp_path / "photos/cat").glob("0*"):
        path.unlink()
    status, out, err = run(*arguments)
    assert status == 0, err
    assert "no significant mark to erase: nothing was written to some/clean" in out
    assert names_in(copies) == ["mine.txt"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("erase", ["photos", "photos/cat", "photos/new", "."])
def test_copies_are_never_among_the_images(run, tmp_path, erase):
    if erase == ".":
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat/00.png").write_bytes(b"mine")
        refused(run("marks", "photos", "--erase", erase), "erase: expected a folder with files of")
        assert (tmp_path / "cat/00.png").read_bytes() == b"mine"
        assert run("marks", "photos", "--erase", erase, "--force")[0] == 0
        assert (tmp_path / "cat/00.png").read_bytes() != b"mine"
        return
    refused(run("marks", "photos", "--erase", erase),
            f"erase: expected a folder outside the images, got {erase} in photos")  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_a_folder_without_classes_is_counted(run, folder, tmp_path):
    (folder / "cat").rename(tmp_path / "flat")
    status, out, err = run("marks", "flat", "--erase", "clean")
    assert status == 0, err
    assert out.split()[:4] == ["mark", "images", "clearest", "in"]
    assert "9 (75 %)" in out and "1 mark recurs in the images, which have no classes" in out
    assert "no classes, so no mark was tested; give a folder with one folder per class" in out
    assert "no significant mark to erase" in out
    assert not (tmp_path / "clean").exists()
    with (tmp_path / "semattn-marks/marks-images.csv").open(newline="") as stream:
        assert {(row["class"], row["in_class"]) for row in csv.DictReader(stream)} == {("", "")}
    result = json.loads((tmp_path / "semattn-marks/marks.json").read_text())
    assert result["marks"][0]["p"] is None and result["marks"][0]["significant"] is False
    page = content_of((tmp_path / "semattn-marks/report.html").read_text())["marks"]
    assert len(page["marks"]) == 1 and page["marks"][0]["frequency"] == "in 9 images (75 %)"


def test_without_a_mark_it_is_one_sentence(run, elsewhere):
    marked.write_folder(elsewhere / "photos", marked=0)
    status, out, err = run("marks", "photos", "--no-report", "--out", "o")
    assert status == 0, err
    assert out.startswith("no mark recurs in the images; ")
    files = ", ".join(MARKS_FILES.values())
    assert out.splitlines()[1:] == ["36 images of 3 classes", f"in o: {files}"]


@pytest.mark.usefixtures("folder")
def test_an_interrupted_search_resumes(run, tmp_path, monkeypatch):
    monkeypatch.setattr("semattn.spurious.marks.search.BATCH", 8)
    assert run("marks", "photos", "--out", "whole")[0] == 0
    detect, counts = keypoint_store.detect_each, []

    def interrupt(images, detector):
        counts.append(len(images))
        if len(counts) == 3:
            raise KeyboardInterrupt
        return detect(images, detector)

    monkeypatch.setattr(keypoint_store, "detect_each", interrupt)
    status, out, err = run("marks", "photos", "--out", "parts")
    assert status == 130 and not out and err.count("\n") == 1
    assert "the same command resumes it" in err and names_in(tmp_path / "parts") == [".marks"]
    n_before = len(counts) - 1
    status, out, err = run("marks", "photos", "--out", "parts")
    assert status == 0, err
    assert n_before == 2 and len(counts) - 3 == 5 - n_before, "stored batches are not repeated"
    whole, parts = ((tmp_path / name / "marks.json").read_text() for name in ("whole", "parts"))
    assert json.loads(whole) == json.loads(parts)
    assert names_in(tmp_path / "parts") == FILES


def nothing(folder):
    pass


def empty(folder):
    folder.mkdir()


def no_pictures(folder):
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"no picture")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("prepare", "arguments", "parts"),
    [
        (nothing, [], ["some", "folder: expected a readable folder"]),
        (
            empty,
            [],
            [
                "folder: expected pictures, got none in some — give photographs (JPEG, PNG,",
                "in the folder itself or in one subfolder per class",
            ],
        ),
        (no_pictures, [], ["expected images that can be read, got none", "a.png"]),
        (no_pictures, ["--alpha", "2"], ["alpha: expected a value between 0 and 1, got 2"]),
        (no_pictures, ["--top", "0"], ["--top"]),
        (no_pictures, ["--max-marks", "3"], ["No such option", "--max-marks"]),
        (no_pictures, ["--out", "some/a/a.png"], ["out: expected a folder, got the file"]),
        (no_pictures, ["--erase", "some/a/a.png"], ["erase: expected a folder outside"]),
        (no_pictures, ["--erase", "/dev/null"], ["erase: expected a folder, got the file"]),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_left(run, tmp_path, prepare, arguments, parts):
    prepare(tmp_path / "some")
    refused(run("marks", "some", *arguments), *parts)
    assert {path.name for path in tmp_path.iterdir()} <= {"some"}


def several():
    return marked.discovery(
        marked.mark(NASTY), marked.mark("cat", examples=12), marked.mark("dog", significant=False)
    )


def test_files_of_marks_by_hand(tmp_path):
    files = write_marks(several(), tmp_path / "made")
    result = json.loads(files["result"].read_text(), parse_constant=pytest.fail)
    with files["table"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["significant"] for row in rows] == ["True", "True", "False"]
    assert rows[0]["class"] == NASTY and result["marks"][2]["p"] == 0.3
    assert [mark.name for mark in load_marks(files["marks"]).significant] == [NASTY, "cat"]


def test_the_page_has_pictures_of_significant_marks(monkeypatch):
    page = report.build(marks=several())
    assert page.title == "marks · semattn"
    assert "<img src=x" not in page.html and page.html.count("</script>") == 2
    part = content_of(page.html)["marks"]
    assert [entry["class"] for entry in part["marks"]] == [NASTY, "cat"]
    assert [len(entry["examples"]) for entry in part["marks"]] == [3, 8]
    assert [len(shown["outlines"]) for shown in part["marks"][0]["examples"]] == [2] * 3
    assert [entry["class"] for entry in part["others"]] == ["dog"]
    assert not part["others"][0]["examples"]
    size = sum(len(shown["source"]) for shown in part["marks"][0]["examples"])
    monkeypatch.setattr("semattn.report.marks_content.ROOM", size + 2000)
    part = content_of(report.html(marks=several()))["marks"]
    assert [len(entry["examples"]) for entry in part["marks"]] == [3, 0]
    with pytest.raises(TypeError, match="marks: expected a MarkDiscovery, got dict"):
        report.build(marks={})


def test_all_marks_that_were_found_are_counted_in_text_figure_page_and_json(tmp_path, capsys):
    few = [marked.mark(significant=False)] * 2
    discovery = marked.discovery(*few, n_found=36, notes=("2 of 36 marks are listed",))
    files = write_marks(discovery, tmp_path / "made")
    report_marks(discovery, "photos", files, [])
    sentence = "36 marks recur in the images, none significantly more often"
    assert sentence in capsys.readouterr().out
    assert sentence in content_of(report.html(marks=discovery))["marks"]["outcome"]
    assert sentence in " ".join(text.get_text() for text in viz.marks(discovery).texts)
    assert json.loads(files["result"].read_text())["found"] == 36
    counted = marked.discovery(marked.counted_mark(), classes={"": 36}, n_found=5)
    texts = " ".join(text.get_text() for text in viz.marks(counted).texts)
    assert "5 marks recur in the images, which have no classes" in texts
