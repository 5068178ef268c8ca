"""`semattn check`: limits on real results, exit status, and the formats of its files."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from semattn.audit.check_formats import to_junit
from semattn.audit.checks import RULES, Check, check_results
from semattn.cli.check import CHECK_FILES, FAILED
from semattn.errors import SemattnError
from tests import marked
from tests.conftest import refused
from tests.result_files import names_in

AUDIT = {"summary": {"accuracy": 0.75, "skipped": 2, "means": {"on_empty": 0.25}}}
CUES = {"cues": [{"class": "cat", "where": "corner", "confirmed": True},
                 {"class": "dog", "where": "edge", "confirmed": False}]}  # fmt: skip
MARKS = {"marks": [{"class": "cat", "n_inside": 9, "significant": True},
                   {"class": "dog", "n_inside": 2, "significant": False}]}  # fmt: skip
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


def test_an_undefined_value_fails(tmp_path):
    unlabelled = {"summary": AUDIT["summary"] | {"accuracy": None}}
    folder = write(tmp_path / "r", audit=unlabelled, bench={"methods": BENCH["methods"][:1]})
    checks = check_results(folder, {"min-accuracy": 0, "min-pointing": 0})
    assert [(check.value, check.passed) for check in checks] == [(None, False)] * 2


def test_earlier_results_are_limits_with_a_tolerance_for_shares_only(tmp_path, results):
    worse = {"summary": {"accuracy": 0.745, "skipped": 3, "means": {"on_empty": 0.3}}}
    later = write(tmp_path / "later", audit=worse, spurious={"cues": []})
    checks = check_results(later, {}, against=results, tolerance=0.01)
    assert {check.name.partition(",")[0]: check.passed for check in checks} == {
        "accuracy": True, "background": False, "skipped": False, "cues": True,
    }  # fmt: skip
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
    (result,) = sarif["runs"][0]["results"]
    assert sarif["version"] == "2.1.0" and result["ruleId"] == "max-marks"
    assert {rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]} == set(RULES)
    status, out, err = run("check", "found", "--max-marks", "1", "--json")
    assert status == 0 and "all checks passed" in err
    content = json.loads(out)
    assert content["passed"] is True and content["checks"][0]["value"] == 1
    assert json.loads((folder / "check.sarif").read_text())["runs"][0]["results"] == []


def test_wrong_use_is_one_line_with_status_2(run, elsewhere):
    (elsewhere / "empty").mkdir()
    refused(run("check", "empty"), "limits: expected a limit, such as --max-cues 0")
    refused(run("check", "empty", "--max-cues", "0"), "max-cues: expected spurious.json in empty")
    refused(run("check", "nothing", "--max-cues", "0"), "folder: expected a folder with results")
    assert names_in(elsewhere) == ["empty"]
