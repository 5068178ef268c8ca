"""The extras of setup.cfg, the one build of OpenCV, and the table of fresh environments."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.tools import check_installs
from semattn.keypoints.opencv import BUILDS, DEPENDENCY
from tests.test_repository_files import ROOT, metadata

EXTRAS = (
    "all",
    "audit",
    "bench",
    "cloud",
    "demo",
    "docs",
    "hf",
    "pretrain",
    "ray",
    "test",
    "widget",
)
FOR_DEVELOPERS = {"all", "docs", "test"}


def lines(extra: str | None) -> list[Requirement]:
    """Return the requirements of an extra, or those of semattn itself."""
    config = metadata()
    text = (
        config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    )
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def closure(requirements: list[Requirement]) -> dict[str, list[str]]:
    """Return all required projects, and by which project; through the installed ones only."""
    required: dict[str, list[str]] = {}
    waiting = [("semattn", requirement, "") for requirement in requirements]
    seen = set()
    while waiting:
        parent, requirement, extra = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        required.setdefault(name, []).append(parent)
        for wanted in ("", *requirement.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            if name == "semattn":
                waiting += [(f"semattn[{wanted}]", line, "") for line in lines(wanted) if wanted]
                continue
            try:
                waiting += [(name, Requirement(line), wanted) for line in requires(name) or ()]
            except PackageNotFoundError:
                continue
    return required


def test_the_extras_are_these():
    assert sorted(metadata()["options.extras_require"]) == list(EXTRAS)
    (everything,) = lines("all")
    assert everything.name == "semattn"
    assert set(everything.extras) == set(EXTRAS) - FOR_DEVELOPERS


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_a_second_build_of_opencv(extra):
    required = closure([*lines(None), *lines(extra)])
    builds = {name: parents for name, parents in required.items() if name in BUILDS}
    assert set(builds) == {DEPENDENCY}, builds


def test_a_requirement_of_the_headless_build_would_be_found():
    assert "grad-cam" in closure([Requirement("grad-cam")])["opencv-python-headless"]


def test_a_release_of_captum_that_refuses_numpy_2_is_left_out():
    (captum,) = (line for line in lines(None) if line.name == "captum")
    assert not captum.specifier.contains("0.8.0") and captum.specifier.contains("0.8.1")


def test_classifiers_are_the_versions_of_python_that_are_tested():
    listed = re.findall(r"Python :: (3\.\d+)$", metadata()["metadata"]["classifiers"], re.MULTILINE)
    assert listed == ["3.10", "3.11", "3.12", "3.13", "3.14"]


def row(installer: str, python: str = "3.11.7", minutes: float = 1.0) -> dict[str, object]:
    return {"installer": installer, "requirement": "semattn", "python": python, "minutes": minutes}


def test_rows_of_fresh_environments_replace_those_of_the_same_kind(tmp_path):
    path = tmp_path / "installs.json"
    check_installs.write_rows([row("pip"), row("uv", "3.13.0")], path)
    check_installs.write_rows([row("pip", minutes=2), row("uv", "3.9.1")], path)
    rows = json.loads(path.read_text())["rows"]
    assert [(one["installer"], one["python"], one["minutes"]) for one in rows] == [
        ("uv", "3.9.1", 1), ("pip", "3.11.7", 2), ("uv", "3.13.0", 1)
    ]  # fmt: skip


def test_a_missing_wheel_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check_installs, "ROOT", tmp_path)
    assert check_installs.main([]) == 2
    assert capsys.readouterr().out == "error: dist: expected one wheel, got 0 — run make dist\n"


def test_the_makefile_calls_it():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "check-installs: dist" in makefile and "benchmarks.tools.check_installs" in makefile
