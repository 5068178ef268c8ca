"""Settings and checkpoints of a run in its folder.

transformers writes a checkpoint file by file. A marker file is added atomically after all processes
have finished; a checkpoint without it is incomplete and is removed. Weights are safetensors. The
states of optimizer, schedule and random numbers are read with `weights_only`, so that no file can
run code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import SemattnError
from ..utils.atomic_files import write_text

MARK = "complete.json"
CHECKPOINTS, RUN, LOG = "checkpoints", "pretrain.json", "metrics.jsonl"

# Values of settings that runs of earlier versions did not store.
ADDED_SETTINGS: dict[str, Any] = {"target": "pixels", "window": None, "words": None}


class RunError(SemattnError, ValueError):
    """Error for a folder that holds another run."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def mark(checkpoint: Path, step: int) -> None:
    """Mark a checkpoint as complete."""
    write_json(checkpoint / MARK, {"step": step})


def latest(out_dir: Path, *, tidy: bool) -> Path | None:
    """Return the newest complete checkpoint of a run; with `tidy`, remove incomplete ones."""
    complete: list[tuple[int, Path]] = []
    for path in (out_dir / CHECKPOINTS).glob("checkpoint-*"):
        if (path / MARK).exists():
            complete.append((int(path.name.rpartition("-")[2]), path))
        elif tidy:
            shutil.rmtree(path, ignore_errors=True)
    return max(complete)[1] if complete else None


def read_run(out_dir: Path) -> dict[str, Any] | None:
    """Return the saved settings and state of a run, or None if the folder holds no run."""
    try:
        run: dict[str, Any] = json.loads((out_dir / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"out: expected a folder with a readable {RUN}, got {out_dir} ({error}) — choose "
            "another folder"
        ) from error
    return run


def check_run(out_dir: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the saved run in a folder, or None; raise if it has other settings.

    Raises
    ------
    RunError
        If the run has other pictures or settings.
    """
    run = read_run(out_dir)
    if run is None:
        return None
    old_settings = ADDED_SETTINGS | run.get("settings", {})
    changed = [name for name in settings if settings[name] != old_settings.get(name)]
    if changed:
        name = changed[0]
        raise RunError(
            f"out: expected a run with {name} {settings[name]!r}, got one in {out_dir} with "
            f"{old_settings.get(name)!r} — choose another folder, or resume with the same settings"
        )
    return run
