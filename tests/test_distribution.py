"""Tests of the contents of the wheel and the source distribution, built from a copy."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "_build", "build", "demo", "dist",
    "htmlcov", "*.egg-info",
)  # fmt: skip
BUILD = "import sys; from setuptools.build_meta import *; {}(sys.argv[1])"


def build(hook: str, source: Path, out: Path) -> Path:
    """Build a distribution with a hook of the build system, and return its path."""
    command = [sys.executable, "-c", BUILD.format(hook), str(out)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (distribution,) = out.iterdir()
    return distribution


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return the folder of the unpacked source distribution."""
    pytest.importorskip("setuptools", "68")
    copy = tmp_path_factory.mktemp("copy") / "semattn"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    distribution = build("build_sdist", copy, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(distribution) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """Build the wheel from the source distribution."""
    return build("build_wheel", sources, tmp_path_factory.mktemp("wheel"))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sources_are_the_repository(sources):
    """The sources include tests, pages and examples, so that a packager can run them."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    tracked = {line for line in listed.stdout.splitlines() if (ROOT / line).exists()}
    assert tracked - files(sources) == {".gitignore"}
    generated = {"PKG-INFO"}
    left = {name for name in files(sources) - tracked if not name.startswith("semattn.egg-info/")}
    assert {name for name in left if name in generated or name.startswith("semattn/")} == generated


def test_the_wheel_is_the_package(sources, wheel):
    with zipfile.ZipFile(wheel) as archive:
        contents = {name for name in archive.namelist() if not re.match(r"[^/]*\.dist-info/", name)}
    package = {f"semattn/{name}" for name in files(sources / "semattn")}
    assert contents == package
    assert "semattn/py.typed" in contents
    assert any(name.endswith(".safetensors") for name in contents)
    assert any(name.endswith("page.html") for name in contents)
    assert wheel.stat().st_size < 2 * 2**20


def test_its_metadata(wheel):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    with zipfile.ZipFile(wheel) as archive:
        (where,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        about = Parser().parsestr(archive.read(where).decode())
        scripts = archive.read(where.replace("METADATA", "entry_points.txt")).decode()
        assert where.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert "semattn = semattn.cli.main:main" in scripts
    assert set(about.get_all("Provides-Extra")) == set(config["options.extras_require"])
    requirements = [
        requirement
        for requirement in about.get_all("Requires-Dist")
        if "extra ==" not in requirement
    ]
    lines = config["options"]["install_requires"].split("\n")
    assert len(requirements) == len([line for line in lines if line and not line.startswith("#")])
    assert about["Requires-Python"] == config["options"]["python_requires"]


def test_the_program_of_a_user_runs():
    """The user program runs; `make check-wheel` also type-checks it with the installed wheel."""
    run = subprocess.run(
        [sys.executable, "-W", "error", ROOT / ".ci" / "user" / "program.py"],
        cwd=ROOT, env=None, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
