"""The scripts in examples/ run, as a person would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS_WEIGHTS = {
    "batches.py", "captum_pipeline.py", "explain_photo.py", "grad_cam_users.py",
    "interrelation.py", "prompting.py", "spurious.py",
}  # fmt: skip


def scripts():
    for path in sorted(EXAMPLES.glob("*.py")):
        marks = [pytest.mark.weights] if path.name in NEEDS_WEIGHTS else []
        yield pytest.param(path, id=path.name, marks=marks)


@pytest.mark.parametrize("script", [*scripts()])
def test_the_script_runs(script, tmp_path):
    run = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout
    warnings_shown = [line for line in run.stderr.splitlines() if "Warning" in line]
    assert all(
        "mtime may not be reliable" in line for line in warnings_shown
    )  # transformers: see pyproject
    for picture in re.findall(r"^picture: (.+)$", run.stdout, flags=re.MULTILINE):
        assert (tmp_path / picture).stat().st_size
