"""Start of a run: check its pictures against the run in the folder and save its settings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.progress import Progress
from ..utils.provenance import versions
from ..utils.result_folder import RECORDS
from .checkpoints import RUN, check_run, latest, read_run, write_json
from .inputs import Inputs, check_inputs, check_unchanged, read_inputs

PICTURES, VALIDATION = "pictures", "validation"


def begin(
    out_dir: Path,
    pictures: Sequence[Any],
    validation: Sequence[Any] | None,
    is_main: bool,
    workers: int | None,
    progress: Progress,
) -> tuple[Inputs, Inputs | None]:
    """Return the readable training pictures and validation pictures of a run.

    The main process reads the pictures; the other processes read its records.

    Raises
    ------
    RunError
        If the folder holds a run that was trained on other pictures.
    """
    if not is_main:
        validation_inputs = (
            None
            if validation is None
            else read_inputs(validation, records_path(out_dir, VALIDATION))
        )
        return read_inputs(pictures, records_path(out_dir, PICTURES)), validation_inputs
    latest(out_dir, tidy=True)
    inputs = _read_checked(PICTURES, pictures, out_dir, workers, progress)
    if validation is None:
        return inputs, None
    validation_inputs = _read_checked(VALIDATION, validation, out_dir, workers, progress)
    if validation_inputs.skipped:
        name, reason = validation_inputs.skipped[0]
        warnings.warn(
            f"validation: {len(validation_inputs.skipped)} pictures cannot be read and are "
            f"skipped, for example {name}: {reason}",
            stacklevel=3,
        )
    return inputs, validation_inputs


def save_run_start(
    out_dir: Path,
    settings: dict[str, Any],
    keypoints_seconds: float,
    inputs: Inputs,
    validation_inputs: Inputs | None,
) -> None:
    """Save the settings of a run and the identities of its pictures.

    Parameters
    ----------
    spent : seconds that finding the keypoints took
    """
    old_run = read_run(out_dir)
    old_settings = {} if old_run is None else old_run["settings"]
    if old_run is None or (
        not _is_trained(out_dir) and any(old_settings.get(x) != settings[x] for x in settings)
    ):
        details = {"keypoints_seconds": round(keypoints_seconds, 3), "versions": versions()}
        write_json(out_dir / RUN, {"settings": settings, **details, "finished": False})
    check_run(out_dir, settings)
    inputs.save(records_path(out_dir, PICTURES))
    if validation_inputs is not None:
        validation_inputs.save(records_path(out_dir, VALIDATION))


def warn_about_edits(inputs: Inputs) -> None:
    """Warn about pictures that changed during training."""
    if names := inputs.changed():
        warnings.warn(
            f"{len(names)} pictures changed during training: {', '.join(names[:3])}",
            stacklevel=3,
        )


def records_path(out_dir: Path, list_name: str) -> Path:
    """Return the path of the identities of a list of inputs, in the folder of a run."""
    return out_dir / RECORDS / f"{list_name}.jsonl"


def _read_checked(
    list_name: str,
    pictures: Sequence[Any],
    out_dir: Path,
    workers: int | None,
    progress: Progress,
) -> Inputs:
    path = records_path(out_dir, list_name)
    inputs = check_inputs(pictures, path, workers, progress, f"reading the {list_name}")
    is_trained = _is_trained(out_dir)
    if difference := check_unchanged(list_name, path, inputs, out_dir, is_trained=is_trained):
        warnings.warn(
            f"{list_name}: {difference} since the run started; there is no checkpoint yet, so the "
            "run restarts with the current files",
            stacklevel=4,
        )
    return inputs


def _is_trained(out_dir: Path) -> bool:
    run = read_run(out_dir) or {}
    return bool(run.get("finished")) or latest(out_dir, tidy=False) is not None
