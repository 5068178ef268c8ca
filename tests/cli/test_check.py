"""`semattn check`: limits on real results, exit status, and the formats of its files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from semattn.audit.check_formats import MAX_IMAGE_RESULTS, sentence, to_junit, to_sarif
from semattn.audit.checks import RULES, Check, check_results
from semattn.cli.check import CHECK_FILES, FAILED
from semattn.errors import SemattnError
from semattn.spurious import CueImage
from tests import discoveries, marked
from tests.conftest import refused
from tests.result_files import names_in

SUMMARY = {"accuracy": 0.75, "labelled": 8, "explained": 10, "skipped": 2, "images": 12,
           "broken": [], "means": {"on_empty": 0.25}}  # fmt: skip
AUDIT = {"summary": SUMMARY}
MANIFEST = {"data": {"images": 12, "labels": "given", "broken": []}}
DAMAGED = {"manifest": {"data": MANIFEST["data"] | {"broken": [["a.tar", "x"]]}}}
TRIED = {"transplant": {"count": 12}, "examples": [{"name": "photos/a b#1.png"}]}
CUES = {"classes": [{"name": "cat"}, {"name": "dog"}], "not_searched": [], "manifest": MANIFEST,
        "cues": [
    {"class": "cat", "where": "corner", "confirmed": True, **TRIED},
    {"class": "dog", "where": "edge", "confirmed": False, **TRIED},
]}  # fmt: skip
NAMES = [f"photos/cat/{number:03}.png" for number in range(9)]
MARKS = {"not_tested": "", "significant": 1, "manifest": MANIFEST, "marks": [
    {"class": "cat", "n_inside": 9, "significant": True, "image_names": NAMES},
    {"class": "dog", "n_inside": 2, "significant": False, "image_names": ["photos/dog/1.png"]},
]}  # fmt: skip
BENCH = {"methods": [
    {"method": "random", "control": True, "metrics": {"pointing": {"mean": 0.1}}},
    {"method": "sift-patch-interrelation", "control": False,
     "metrics": {"pointing": {"mean": 0.9}}},
]}  # fmt: skip


def write(folder: Path, **contents) -> Path:
    """Write result files into a folder, and those of a search into a folder of it."""
    (folder / "spurious").mkdir(parents=True)
    for name, content in contents.items():
        parent = folder / "spurious" if name == "spurious" else folder
        (parent / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def results(tmp_path):
    return write(tmp_path / "results", audit=AUDIT, spurious=CUES, marks=MARKS, bench=BENCH)


@pytest.mark.parametrize(
    ("name", "value"),
    [("min-accuracy", 0.75), ("max-background", 0.25), ("max-skipped", 2), ("max-cues", 1),
     ("max-marks", 1), ("min-pointing", 0.9)],
)  # fmt: skip
def test_a_value_at_its_limit_passes_and_one_beyond_it_fails(results, name, value):
    beyond = value + 0.1 if name.startswith("min") else value - 0.1
    for limit, passed in ((value, True), (beyond, False)):
        (check,) = check_results(results, {name: limit})
        assert (check.value, check.limit, check.passed) == (value, limit, passed)
        assert check.text == RULES[name].text and check.file.name == RULES[name].file


def test_details_name_what_was_found(results):
    cues, marks = check_results(results, {"max-cues": 0, "max-marks": 0})
    assert cues.details == ("cat: corner",) and marks.details == ("cat: a mark in 9 images",)
    (accuracy,) = check_results(results, {"min-accuracy": 0})
    assert accuracy.details == ("8 of 10 images have a label",)


def test_partly_searched_and_unlisted_results_say_so(tmp_path):
    folder = write(tmp_path / "r", spurious=CUES | {"not_searched": ["dog"]},
                   marks=MARKS | {"significant": 31})  # fmt: skip
    cues, marks = check_results(folder, {"max-cues": 1, "max-marks": 25})
    assert cues.passed and cues.details[-1] == "patches not searched in dog"
    assert (marks.value, marks.passed) == (31, False)
    assert marks.details[-1] == "30 more marks are not listed"


NOTHING = {"explained": 0, "labelled": 0, "accuracy": None, "means": {"on_empty": None}}
NO_MAP = {"method": "sift-patch-interrelation", "control": False, "metrics": {"pointing": {}}}
UNTESTED = {
    "no labels": ("min-accuracy", {"audit": {"summary": SUMMARY | {"accuracy": None}}},
                  "no image has a label that is a class of the model"),
    "no image explained": ("min-accuracy", {"audit": {"summary": SUMMARY | NOTHING}},
                           "no image was explained"),
    "no map": ("max-background", {"audit": {"summary": SUMMARY | NOTHING}},
               "no image was explained"),
    "no means": ("max-background", {"audit": {"summary": SUMMARY | {"means": {}}}},
                 "no image was explained"),
    "no image read": ("max-skipped", {"audit": {"summary": SUMMARY | NOTHING | {"skipped": 12}}},
                      "all images were skipped"),
    "damaged archive": ("max-skipped", {"audit": {
        "summary": SUMMARY | {"broken": [["a.tar", "x"]]}}}, "the number of lost images is not"),
    "damaged archive, cues": ("max-cues", {"spurious": CUES | DAMAGED},
                              "some images were not searched, because an archive is damaged (a"),
    "damaged archive, marks": ("max-marks", {"marks": MARKS | DAMAGED},
                               "some images were not searched, because an archive is damaged"),
    "no patches": ("max-cues", {"spurious": CUES | {"not_searched": ["cat", "dog"]}},
                   "no class has enough images with patches off the object"),
    "no scores": ("max-cues", {"spurious": CUES | {"cues": [
        CUES["cues"][1] | {"transplant": {"count": 0}}]}}, "the effect of a cue of dog could not"),
    "no classes": ("max-marks", {"marks": MARKS | {"marks": [], "not_tested": "the images have no "
                   "classes"}}, "the images have no classes"),
    "controls only": ("min-pointing", {"bench": {"methods": BENCH["methods"][:1]}},
                      "no method other than controls"),
    "no masks": ("min-pointing", {"bench": {"methods": [NO_MAP | {"metrics": {}}]}},
                 "no map was compared with a mask"),
    "empty masks": ("min-pointing", {"bench": {"methods": [
        NO_MAP | {"metrics": {"pointing": {"mean": None}}}]}}, "no map was compared with a mask"),
}  # fmt: skip


def test_every_limit_has_a_case_of_a_value_that_was_not_tested():
    assert {name for name, _, _ in UNTESTED.values()} == set(RULES)


@pytest.mark.parametrize("case", UNTESTED)
def test_a_value_that_was_not_tested_fails_at_any_limit_with_its_reason(tmp_path, case):
    name, contents, reason = UNTESTED[case]
    folder = write(tmp_path / "r", **contents)
    for limit in (0, 1000):
        (check,) = check_results(folder, {name: limit})
        assert (check.value, check.passed) == (None, False)
        assert check.not_tested.startswith(reason)
        assert sentence(check) == f"{name}: {check.not_tested}"
        failure = ET.fromstring(to_junit([check])).find("testcase/failure")
        assert failure.get("message") == sentence(check)
        (result,) = json.loads(to_sarif([check]))["runs"][0]["results"]
        assert result["message"]["text"] == sentence(check)
    earlier = write(tmp_path / "earlier", audit=AUDIT, spurious=CUES, marks=MARKS, bench=BENCH)
    against = check_results(folder, {}, against=earlier)
    assert not next(
        check for check in against if check.name.startswith(name.partition("-")[2])
    ).passed
    checks = check_results(earlier, {name: 0}, against=earlier)
    assert checks[0].value is not None


def test_an_earlier_value_that_was_not_tested_is_no_limit(tmp_path, results):
    _, contents, _ = UNTESTED["no classes"]
    untested = write(tmp_path / "untested", **contents)
    with pytest.raises(SemattnError, match="^against: expected a value that was tested in"):
        check_results(results, {}, against=untested)


def test_earlier_results_are_limits_with_a_tolerance_for_shares_only(tmp_path, results):
    worse = {"summary": SUMMARY | {"accuracy": 0.745, "skipped": 3, "means": {"on_empty": 0.3}}}
    later = write(tmp_path / "later", audit=worse, spurious=CUES | {"cues": []})
    checks = check_results(later, {}, against=results, tolerance=0.01)
    assert {check.name.partition(",")[0]: check.passed for check in checks} == {
        "accuracy": True, "background": False, "skipped": False, "cues": True,
        "marks": False, "pointing": False,
    }  # fmt: skip
    assert "has no marks.json, which" in checks[4].not_tested and checks[4].value is None
    assert all(check.passed for check in check_results(results, {}, against=results))


@pytest.mark.parametrize(
    ("limits", "options", "message"),
    [
        ({}, {}, "limits: expected a limit, such as --max-cues 0, or earlier results"),
        ({"max-luck": 1}, {}, "limits: expected some of min-accuracy"),
        ({"max-cues": -1}, {}, "max-cues: expected a finite number >= 0, got -1"),
        ({"max-cues": float("nan")}, {}, "max-cues: expected a finite number >= 0, got nan"),
        ({}, {"against": "empty"}, "against: expected results of the same commands"),
        ({}, {"against": "missing"}, "folder: expected a folder with results, got "),
        ({"max-cues": 0}, {"tolerance": -1}, "tolerance: expected a finite number >= 0, got -1"),
    ],
)
def test_wrong_limits_are_refused(tmp_path, results, limits, options, message):
    (tmp_path / "empty").mkdir()
    options = {
        name: tmp_path / value if name == "against" else value for name, value in options.items()
    }
    with pytest.raises(SemattnError, match=f"^{message}"):
        check_results(results, limits, **options)


@pytest.mark.parametrize("content", ["", "[]", '{"cues": 3}', '{"cues": [{}]}', "{}"])
def test_a_damaged_result_is_refused(tmp_path, content):
    (tmp_path / "spurious.json").write_text(content)
    with pytest.raises(SemattnError, match="^folder: expected the results of semattn spurious"):
        check_results(tmp_path, {"max-cues": 0})


def test_a_missing_or_ambiguous_result_is_refused(tmp_path, results):
    with pytest.raises(
        SemattnError, match=r"^max-cues: expected spurious.json in .* — run semattn"
    ):
        check_results(write(tmp_path / "other", audit=AUDIT), {"max-cues": 0})
    write(tmp_path / "several" / "a", audit=AUDIT)
    write(tmp_path / "several" / "b", audit=AUDIT)
    with pytest.raises(SemattnError, match=r"^folder: expected one audit.json in .*, got 2"):
        check_results(tmp_path / "several", {"max-skipped": 0})


def test_characters_that_xml_forbids_are_replaced():
    text = "cat\x1b[31m\x00 <b>&\ud800"
    check = Check("max-cues", "cues", 1.0, 0.0, False, Path("a\x07b"), (text,))
    case = ET.fromstring(to_junit([check])).find("testcase/failure")
    assert "cat\ufffd[31m\ufffd <b>&\ufffd" in case.get("message") and case.text == "a\ufffdb"


def locations(sarif: str) -> list[str]:
    """Return the URI of each result of a SARIF document."""
    places = [result["locations"][0] for result in json.loads(sarif)["runs"][0]["results"]]
    return [place["physicalLocation"]["artifactLocation"]["uri"] for place in places]


def test_failed_marks_and_cues_name_their_images(results):
    cues, marks = check_results(results, {"max-cues": 0, "max-marks": 0})
    uris = locations(to_sarif([cues, marks]))
    assert uris[1:2] + uris[3:] == ["photos/a%20b%231.png", *NAMES]
    assert uris[0] == cues.file.as_uri() and uris[2] == marks.file.as_uri()
    texts = [case.find("failure").text for case in ET.fromstring(to_junit([cues, marks]))]
    assert texts[0].endswith("\nimages: photos/a b#1.png")
    assert texts[1].endswith(f"\nimages: {', '.join(NAMES)}")
    assert locations(to_sarif(check_results(results, {"max-marks": 1}))) == []


def test_summaries_of_real_results_are_read(tmp_path):
    """Images of other classes that show a cue are not affected."""
    shown = (
        CueImage("photos/owl/7.png", "owl", True), CueImage("photos/owl/8.png", "owl", True),
        CueImage("photos/cat/1.png", "cat", False),
    )  # fmt: skip
    found = discoveries.discovery(
        discoveries.cue(examples=2, cue_images=shown),
        discoveries.mark_cue(),
        discoveries.cue(confirmed=False, cue_images=shown),
    )
    marks = marked.discovery(marked.mark(), marked.mark("dog", significant=False))
    folder = write(tmp_path / "r", spurious=found.summary(), marks=marks.summary())
    of_cues, of_marks = check_results(folder, {"max-cues": 0, "max-marks": 0})
    assert (of_cues.value, of_marks.value) == (2, 1)
    names = [image.name for image in of_cues.images]
    assert names == ["photos/owl/7.png", "photos/owl/8.png"]
    assert of_cues.images[0].text == "owl: same place (a cue)"
    assert [image.name for image in of_marks.images] == [
        image.name for image in marks.marks[0].marked_images
    ]
    flat = marked.discovery(marked.counted_mark(), classes={"": 36})
    (check,) = check_results(write(tmp_path / "f", marks=flat.summary()), {"max-marks": 9})
    assert not check.passed and check.not_tested == flat.not_tested != ""


def test_many_images_are_listed_up_to_a_number_and_the_others_counted(tmp_path):
    names = [f"photos/cat/{number}.png" for number in range(MAX_IMAGE_RESULTS + 7)]
    mark = MARKS["marks"][0] | {"image_names": names}
    second = mark | {"image_names": names[:1]}
    found = MARKS | {"significant": 2, "marks": [mark, second]}
    (check,) = check_results(write(tmp_path / "r", marks=found), {"max-marks": 0})
    sarif = to_sarif([check, check])
    first, image, *_, last = json.loads(sarif)["runs"][0]["results"]
    assert len(locations(sarif)) == 2 + MAX_IMAGE_RESULTS
    assert "; 300 of 307 images are listed in this file, 7 are left out" in first["message"]["text"]
    assert "0 of 307 images are listed in this file" in last["message"]["text"]
    assert image["message"]["text"].count("a mark of cat") == 2, (
        "an image of two marks is one result"
    )
    text = ET.fromstring(to_junit([check])).find("testcase/failure").text
    assert text.endswith(f"images: {', '.join(names[:10])} and 297 more")


def test_a_folder_without_classes_fails_and_says_why(run, elsewhere):
    marked.write_folder(elsewhere / "photos", each=4)
    for place, which in (("photos/cat", "have no classes"), ("one", "are all of one class, cat")):
        if place == "one":
            (elsewhere / "one").mkdir()
            (elsewhere / "photos/cat").rename(elsewhere / "one/cat")
        assert run("marks", place, "--no-report", "--out", "found", "--force")[0] == 0
        status, out, err = run("check", "found", "--max-marks", "0")
        assert (status, err) == (FAILED, "")
        reason = f"the images {which}, so no mark was tested; give a folder with one folder per"
        assert f"max-marks: {reason} class\n" in out and "1 of 1 checks failed" in out
        suite = ET.parse(elsewhere / "semattn-check/check.xml").getroot()
        assert reason in suite.find("testcase/failure").get("message")


def test_the_command_fails_with_status_3_and_writes_its_files(run, elsewhere):
    marked.write_folder(elsewhere / "photos")
    assert run("marks", "photos", "--no-report", "--out", "found")[0] == 0
    status, out, err = run("check", "found", "--max-marks", "0")
    assert (status, err) == (FAILED, "")
    assert out.splitlines()[1].split()[:4] == ["failed", "max-marks", "1", "0"]
    assert "1 of 1 checks failed" in out and "cat: a mark in 9 images" in out
    folder = elsewhere / "semattn-check"
    assert names_in(folder) == sorted(CHECK_FILES.values())
    suite = ET.parse(folder / "check.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert suite.find("testcase").get("name") == "max-marks"
    assert "expected at most 0" in suite.find("testcase/failure").get("message")
    sarif = json.loads((folder / "check.sarif").read_text())
    of_file, *of_images = sarif["runs"][0]["results"]
    assert sarif["version"] == "2.1.0" and of_file["ruleId"] == "max-marks"
    uris = locations((folder / "check.sarif").read_text())
    assert uris[0] == "found/marks.json" and len(of_images) == marked.MARKED
    assert all((elsewhere / uri).is_file() for uri in uris)
    assert {rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]} == set(RULES)
    status, out, err = run("check", "found", "--max-marks", "1", "--json")
    assert status == 0 and "all checks passed" in err
    content = json.loads(out)
    assert content["passed"] is True and content["checks"][0]["value"] == 1
    assert json.loads((folder / "check.sarif").read_text())["runs"][0]["results"] == []


def test_marks_of_a_damaged_archive_were_not_tested(run, elsewhere):
    archive = elsewhere / "photos.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(marked.write_folder(elsewhere / "photos").rglob("*.png")):
            label = file.parent.name.encode()
            info = tarfile.TarInfo(f"{file.parent.name}-{file.stem}.cls")
            info.size = len(label)
            tar.add(file, f"{file.parent.name}-{file.stem}.png")
            tar.addfile(info, io.BytesIO(label))
    for cut, reason in ((0, ""), (50_000, "some images were not searched, because an archive is")):
        archive.write_bytes(archive.read_bytes()[: archive.stat().st_size - cut])
        status, _, err = run("marks", archive, "--no-report", "--out", "found", "--force")
        assert (status, err) == (0, "")
        status, out, _ = run("check", "found", "--max-marks", "9", "--force")
        assert status == (FAILED if reason else 0) and reason in out


def test_wrong_use_is_one_line_with_status_2(run, elsewhere):
    (elsewhere / "empty").mkdir()
    refused(run("check", "empty"), "limits: expected a limit, such as --max-cues 0")
    refused(run("check", "empty", "--max-cues", "0"), "max-cues: expected spurious.json in empty")
    refused(run("check", "nothing", "--max-cues", "0"), "folder: expected a folder with results")
    assert names_in(elsewhere) == ["empty"]
