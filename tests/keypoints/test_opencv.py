"""Broken and doubled builds of OpenCV are named, with the commands that repair them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from semattn.errors import MissingPackageError
from semattn.keypoints import opencv
from tests.conftest import PHOTO, ROOT

LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"

BROKEN_CV2 = f"""
import sys
sys.path.insert(0, sys.argv[1])
import semattn
assert "cv2" not in sys.modules
from semattn.cli.main import main
status = main(["explain", {str(PHOTO)!r}, "--model", "test_vit", "--random-weights",
               "--no-report", "--out", sys.argv[2]])
assert status == 2, status
assert main(["doctor", "--json"]) == 1
"""


def write_build(folder, name, version, files=("cv2/__init__.py",)):
    """Write the metadata of an installed build of OpenCV."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Replace the search path for packages by an empty folder, and forget cv2."""
    before = sys.modules.pop("cv2", None)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    monkeypatch.setattr(sys, "platform", "linux")
    yield tmp_path
    sys.modules.pop("cv2", None)
    if before is not None:
        sys.modules["cv2"] = before


@pytest.fixture
def broken(monkeypatch):
    """Make the import of cv2 raise an error."""

    def fail(error):
        class Finder:
            @staticmethod
            def find_spec(name, *rest):
                if name == "cv2":
                    raise error

        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])

    return fail


def test_a_broken_cv2_is_one_line_and_the_import_of_semattn_works(tmp_path):
    package = tmp_path / "packages" / "cv2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise ImportError({LIBGL!r})\n")
    command = [sys.executable, "-W", "error", "-c", BROKEN_CV2, package.parent, tmp_path / "out"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stderr.splitlines()
    assert lines[0].startswith(f"error: opencv: expected cv2 to import, got {LIBGL} — run ")
    assert "Traceback" not in answer.stderr and not (tmp_path / "out").exists()
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert checks["opencv"]["status"] == "broken" and LIBGL in checks["opencv"]["detail"]
    commands = checks["opencv"]["commands"]
    assert set(commands) == {"pip", "uv", "apt"}
    assert all(command in lines[0] for command in commands.values())
    assert "opencv-python-headless" in commands["pip"] and "libgl1" in commands["apt"]


def test_two_builds_are_reduced_to_the_dependency(environment, monkeypatch):
    write_build(environment, "opencv-python", "4.10.0.84")
    write_build(environment, "opencv-python-headless", "4.11.0.86")
    monkeypatch.setattr(opencv, "import_cv2", lambda: None)
    monkeypatch.setattr(opencv, "_has_libgl", lambda: True)
    problem, commands = opencv.installation_problem()
    assert problem == (
        "expected one build, got opencv-python 4.10.0.84 and opencv-python-headless 4.11.0.86: "
        "each overwrites files of the other"
    )
    assert commands == {
        "pip": "'/my env/bin/python' -m pip uninstall --yes opencv-python opencv-python-headless "
        "&& '/my env/bin/python' -m pip install --no-deps --force-reinstall "
        "opencv-python==4.10.0.84",
        "uv": "uv pip uninstall --python '/my env/bin/python' opencv-python opencv-python-headless "
        "&& uv pip install --python '/my env/bin/python' --no-deps --reinstall "
        "opencv-python==4.10.0.84",
    }
    monkeypatch.setattr(opencv, "_has_libgl", lambda: False)
    _, commands = opencv.installation_problem()
    assert commands["pip"].endswith("opencv-python-headless==4.11.0.86")
    assert set(commands) == {"pip", "uv"}


def test_one_build_that_imports_is_no_problem(environment, monkeypatch):
    monkeypatch.setattr(opencv, "import_cv2", lambda: None)
    write_build(environment, "opencv-python", "4.10.0.84", files=("METADATA",))  # as conda does
    assert opencv.installed_builds() == {} and opencv.installation_problem() == ("", {})
    write_build(environment, "opencv-contrib-python", "4.10.0.84")
    assert opencv.installed_builds() == {"opencv-contrib-python": "4.10.0.84"}
    assert opencv.installation_problem() == ("", {})


@pytest.mark.parametrize(
    ("error", "build"),
    [
        (ImportError(LIBGL), "opencv-python-headless==4.8.0.74"),
        (AttributeError("module 'cv2' has no attribute 'gapi'"), "opencv-python==4.8.0.74"),
        (RuntimeError("numpy\nABI"), "opencv-python==4.8.0.74"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_any_error_of_cv2_is_one_line_with_commands(environment, monkeypatch, broken, error, build):
    write_build(environment, "opencv-python", "4.8.0.74")
    monkeypatch.setattr(opencv, "_has_libgl", lambda: True)
    broken(error)
    with pytest.raises(MissingPackageError, match="expected cv2 to import") as raised:
        opencv.import_cv2()
    message = str(raised.value)
    assert "\n" not in message and build in message and "uv pip install" in message
    problem, commands = opencv.installation_problem()
    assert problem in message and commands["uv"] in message


def test_an_absent_opencv_is_installed_without_a_removal(environment, monkeypatch, broken):
    monkeypatch.setattr(opencv, "_has_libgl", lambda: True)
    broken(ModuleNotFoundError("No module named 'cv2'"))
    _, commands = opencv.installation_problem()
    assert "uninstall" not in "".join(commands.values())
    assert commands["uv"].endswith("--no-deps --reinstall opencv-python")


def test_a_folder_that_a_removed_build_left_is_no_opencv(environment):
    (environment / "cv2").mkdir()
    with pytest.raises(MissingPackageError, match="SIFT_create"):
        opencv.import_cv2()
