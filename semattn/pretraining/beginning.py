"""The beginning of a run: its pictures are those that the run in the folder was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..utils.provenance import versions
from ..utils.result_folder import RECORDS
from .checkpoints import RUN, check_run, latest, read_run, write_json
from .inputs import Inputs, check_inputs, check_unchanged, read_inputs

PICTURES, VALIDATION = "pictures", "validation"

Say = Callable[[str, int, int], None]


def begin(
    place: Path,
    pictures: Sequence[Any],
    validation: Sequence[Any] | None,
    main: bool,
    workers: int | None,
    say: Say,
) -> tuple[Inputs, Inputs | None]:
    """Return the pictures of a run that can be read, and those of its validation.

    The main process reads them; the others take what it has kept.

    Raises
    ------
    RunError
        Where something was trained in the folder with other pictures.
    """
    if not main:
        held = None if validation is None else read_inputs(validation, records(place, VALIDATION))
        return read_inputs(pictures, records(place, PICTURES)), held
    latest(place, tidy=True)
    inputs = _checked(PICTURES, pictures, place, workers, say)
    if validation is None:
        return inputs, None
    held = _checked(VALIDATION, validation, place, workers, say)
    if held.skipped:
        name, reason = held.skipped[0]
        warnings.warn(
            f"validation: {len(held.skipped)} pictures that cannot be read are left out, such as "
            f"{name}: {reason}",
            stacklevel=3,
        )
    return inputs, held


def keep_beginning(
    place: Path, settings: dict[str, Any], spent: float, inputs: Inputs, held: Inputs | None
) -> None:
    """Write the settings of a run and the identities of its pictures.

    Parameters
    ----------
    spent : seconds that finding the keypoints took
    """
    before = read_run(place)
    old = {} if before is None else before["settings"]
    if before is None or (
        not _is_trained(place) and any(old.get(x) != settings[x] for x in settings)
    ):
        about = {"keypoints_seconds": round(spent, 3), "versions": versions()}
        write_json(place / RUN, {"settings": settings, **about, "finished": False})
    check_run(place, settings)
    inputs.keep(records(place, PICTURES))
    if held is not None:
        held.keep(records(place, VALIDATION))


def warn_of_edits(inputs: Inputs) -> None:
    """Warn of pictures that changed while the model was trained on them."""
    if names := inputs.changed():
        warnings.warn(
            f"{len(names)} pictures changed while the model was trained on them: "
            f"{', '.join(names[:3])}",
            stacklevel=3,
        )


def records(place: Path, what: str) -> Path:
    """Return the file in the folder of a run that keeps the identities of its inputs."""
    return place / RECORDS / f"{what}.jsonl"


def _checked(
    what: str, pictures: Sequence[Any], place: Path, workers: int | None, say: Say
) -> Inputs:
    file = records(place, what)
    inputs = check_inputs(
        pictures, file, workers, lambda done, total: say(f"reading the {what}", done, total)
    )
    is_trained = _is_trained(place)
    if said := check_unchanged(what, file, inputs, place, is_trained=is_trained):
        warnings.warn(
            f"{what}: {said} since the run was begun; nothing was trained yet, and it begins again "
            "with these",
            stacklevel=4,
        )
    return inputs


def _is_trained(place: Path) -> bool:
    run = read_run(place) or {}
    return bool(run.get("finished")) or latest(place, tidy=False) is not None
