"""The path of a picture: the files that a reader of ``attribute(model, "x.jpg")`` opens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PATH = [  # in the order in which the data passes
    "explain/base.py",
    "images/batch.py",
    "images/picture.py",
    "images/preprocessing.py",
    "keypoints/detectors.py",
    "explain/request.py",
    "attention/record.py",
    "attention/model_call.py",
    "attention/hooks.py",
    "attention/target.py",
    "attention/attention_record.py",
    "attention/token_layout.py",
    "grid.py",
    "density/scene.py",
    "explain/sift_patch_interrelation.py",
    "affinity.py",
]
MOST_OPENED = 16
# All files with a function that runs; lower it. One is keypoints/opencv.py, whose function imports
# cv2 or says how to repair it.
MOST_ENTERED = 34


def test_the_path_of_a_picture_is_short():
    """`trace_path` defines which of the entered files count as opened, and why."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.explain.trace_path"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    traced = json.loads(run.stdout)
    assert traced["opened"] == PATH, "\n".join(traced["functions"])
    assert len(PATH) <= MOST_OPENED
    assert len(traced["entered"]) <= MOST_ENTERED, "\n".join(traced["entered"])
