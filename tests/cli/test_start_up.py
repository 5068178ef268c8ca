"""A command imports what it uses and nothing else."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PHOTO, ROOT

HEAVY = ("torch", "timm", "captum", "numpy", "matplotlib", "cv2", "PIL", "scipy")
UNUSED = (
    "skimage", "sklearn", "scipy", "pandas", "transformers", "accelerate", "onnx", "pyarrow",
    "packaging.requirements", "semattn.audit", "semattn.explain.comparison", "semattn.evaluation",
    "semattn.interrelation", "semattn.masking", "semattn.metrics", "semattn.pretraining",
    "semattn.spurious",
)  # fmt: skip

WITHOUT_MODEL = f"""
import sys
from semattn.cli.main import main
for command in (["--version"], ["--help"], ["models"], ["models", "swin"], ["bench"], ["explain"],
                ["nothing"], ["analyze", "--help"], ["pretrain", "--help"]):
    main(command)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, (command, loaded)
"""

IMPORT = f"""
import sys
import semattn, semattn.cli, semattn.zoo
names = {(*HEAVY, *UNUSED, "typer", "rich", "faiss", "open_clip", "ray", "gradio", "datasets")!r}
loaded = [name for name in names if name in sys.modules]
assert not loaded, loaded
"""

EXPLAIN = f"""
import sys
from semattn.cli.main import main
status = main(["explain", sys.argv[1], "--model", "test_vit", "--random-weights", "--no-report",
               "--out", sys.argv[2]])
assert status == 0
loaded = [name for name in {UNUSED!r} if name in sys.modules]
loaded += [name for name in sys.modules if name.startswith(("semattn.prompting", "semattn.report"))]
assert not loaded, loaded
"""


def test_the_import_of_semattn_imports_no_other_package():
    run(IMPORT)


def test_commands_that_run_no_model_import_no_model_code():
    run(WITHOUT_MODEL)


def test_explain_imports_what_it_uses(tmp_path):
    run(EXPLAIN, str(PHOTO), str(tmp_path / "out"))


def run(code: str, *arguments: str) -> None:
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == 0, answer.stderr
