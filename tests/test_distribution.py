"""What the wheel and the source distribution hold: built as pip builds them, from a copy."""

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
    """What a hook of the build system makes; its last line says the name."""
    command = [sys.executable, "-c", BUILD.format(hook), str(out)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The names in the source distribution, and where it is unpacked."""
    pytest.importorskip("setuptools", "68")
    copy = tmp_path_factory.mktemp("copy") / "semattn"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    made = build("build_sdist", copy, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(made) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The wheel, built from the source distribution alone."""
    return build("build_wheel", sources, tmp_path_factory.mktemp("wheel"))


def files(folder: Path) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}


def test_the_sources_are_the_repository(sources):
    """All that tests, pages and examples are made of, so that a packager can run them."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    known = {line for line in listed.stdout.splitlines() if (ROOT / line).exists()}
    assert known - files(sources) == {".gitignore"}
    made = {"PKG-INFO"}
    left = {one for one in files(sources) - known if not one.startswith("semattn.egg-info/")}
    assert {one for one in left if one in made or one.startswith("semattn/")} == made


def test_the_wheel_is_the_package(sources, wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {one for one in archive.namelist() if not re.match(r"[^/]*\.dist-info/", one)}
    package = {f"semattn/{one}" for one in files(sources / "semattn")}
    assert held == package
    assert "semattn/py.typed" in held
    assert any(one.endswith(".safetensors") for one in held)
    assert any(one.endswith("page.html") for one in held)
    assert wheel.stat().st_size < 2 * 2**20


def test_its_metadata(wheel):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    with zipfile.ZipFile(wheel) as archive:
        (where,) = (one for one in archive.namelist() if one.endswith("/METADATA"))
        about = Parser().parsestr(archive.read(where).decode())
        scripts = archive.read(where.replace("METADATA", "entry_points.txt")).decode()
        assert where.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert "semattn = semattn.cli.main:main" in scripts
    assert set(about.get_all("Provides-Extra")) == set(config["options.extras_require"])
    asked = [one for one in about.get_all("Requires-Dist") if "extra ==" not in one]
    lines = config["options"]["install_requires"].split("\n")
    assert len(asked) == len([one for one in lines if one and not one.startswith("#")])
    assert about["Requires-Python"] == config["options"]["python_requires"]


def test_the_program_of_a_user_runs():
    """What `make check-wheel` also type-checks, against the installed wheel."""
    run = subprocess.run(
        [sys.executable, "-W", "error", ROOT / ".ci" / "user" / "program.py"],
        cwd=ROOT, env=None, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
