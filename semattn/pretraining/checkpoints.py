"""Where a run is kept: its settings, its checkpoints, and which of them are whole.

transformers writes a checkpoint file by file. A mark, renamed into place when all processes have
written theirs, says that it is whole; what has no mark was cut short and is removed. Weights are
safetensors; the states of optimizer, schedule and random numbers are read with `weights_only`, so
that no file can run code.
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


class RunError(SemattnError, ValueError):
    """A folder that holds another run."""


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write an object, indented: whole, or not at all."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def mark(checkpoint: Path, step: int) -> None:
    """Say that a checkpoint is whole."""
    write_json(checkpoint / MARK, {"step": step})


def latest(out: Path, *, tidy: bool) -> Path | None:
    """The newest whole checkpoint of a run; those that were cut short are removed where asked."""
    found: list[tuple[int, Path]] = []
    for path in (out / CHECKPOINTS).glob("checkpoint-*"):
        if (path / MARK).exists():
            found.append((int(path.name.rpartition("-")[2]), path))
        elif tidy:
            shutil.rmtree(path, ignore_errors=True)
    return max(found)[1] if found else None


def read_run(out: Path) -> dict[str, Any] | None:
    """What `claim` wrote; None where there is no run."""
    try:
        made: dict[str, Any] = json.loads((out / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"out: expected a folder with a readable {RUN}, got {out} ({error}) — take another one"
        ) from error
    return made


def check_run(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The run in a folder, if there is one, once it is known to be this one.

    Raises
    ------
    RunError
        Where it is a run of other pictures or settings.
    """
    there = read_run(out)
    if there is None:
        return None
    old = there.get("settings", {})
    differ = [name for name in settings if settings[name] != old.get(name)]
    if differ:
        name = differ[0]
        raise RunError(
            f"out: expected the beginning of this run, got one in {out} with {name} "
            f"{old.get(name)!r} in place of {settings[name]!r} — give another folder, or the same "
            "settings to go on"
        )
    return there
