"""Pictures of a run: reading, and the check that a resumed run uses the same pictures.

The identities of all pictures are saved in the folder of the run. A picture with the recorded size
and modification time is not read again. Unreadable pictures are tried again each time.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError, SemattnError
from ..images import read
from ..utils.atomic_files import write_text
from ..utils.input_identity import (
    content_digests,
    find_changes,
    identify_inputs,
    input_names,
    stored_identities,
)
from ..utils.processes import Progress
from ..utils.provenance import versions
from ..utils.result_folder import RECORDS
from .checkpoints import RUN, RunError, check_run, latest, read_run, write_json

PROGRESS_INTERVAL = 500  # pictures between two calls of `progress`


@dataclass(frozen=True, eq=False)
class Inputs:
    """Readable pictures with their identities, and skipped pictures with reasons.

    Parameters
    ----------
    pictures : readable pictures, in order
    lines : identity of each, as returned by `semattn.utils.input_identity.identity_of`
    skipped : name and reason of each unreadable picture
    text : one line for each input picture, as written by `save`
    """

    pictures: list[Any]
    lines: list[str]
    skipped: tuple[tuple[str, str], ...]
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the content of all pictures, in order, independent of their names."""
        return hashlib.sha256("\n".join(content_digests(self.lines)).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the identities, atomically."""
        if not path.exists() or path.read_text(encoding="utf-8") != self.text:
            write_text(path, self.text)

    def changed(self) -> list[str]:
        """Return the names of the pictures whose content changed."""
        new_lines = identify_inputs(self.pictures, self._names(), stored_identities(self.lines))
        pairs = zip(
            self._names(), content_digests(self.lines), content_digests(new_lines), strict=True
        )
        return [name for name, before, after in pairs if before != after]

    def _names(self) -> list[str]:
        return [str(json.loads(line)[0]) for line in self.lines]


def check_inputs(
    pictures: Sequence[Any],
    path: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    stage: str = "reading the pictures",
) -> Inputs:
    """Read every picture that is not recorded in `path` with the same identity.

    Raises
    ------
    ImageError
        If no picture can be read.
    """
    names = input_names(pictures)
    known_lines = stored_identities(_readable_lines(_read_lines(path)))
    lines = identify_inputs(pictures, names, known_lines, workers)
    new = [i for i, line in enumerate(lines) if known_lines.get(names[i], (None, None))[1] != line]
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda number: _read_error(pictures[number]), new)
        for done, (number, reason) in enumerate(zip(new, results, strict=True), 1):
            if reason:
                reasons[number] = reason
            if progress is not None and (done % PROGRESS_INTERVAL == 0 or done == len(new)):
                progress(stage, done, len(new))
    return _parse_lines(pictures, [
        json.dumps({"skipped": names[i], "reason": reasons[i]}) if i in reasons else line
        for i, line in enumerate(lines)
    ])  # fmt: skip


def read_inputs(pictures: Sequence[Any], path: Path) -> Inputs:
    """Return the inputs that the main process of a run recorded for the same list."""
    return _parse_lines(pictures, _read_lines(path))


def check_unchanged(
    list_name: str, path: Path, inputs: Inputs, out_dir: Path, *, is_trained: bool
) -> str:
    """Check that the pictures of a run did not change after training started.

    Parameters
    ----------
    list_name : "pictures" or "validation", for the message
    path : recorded identities of the run; may be missing
    is_trained : true if the run has a checkpoint; otherwise the pictures may change

    Returns
    -------
    str
        Description of the changes, "" for none.

    Raises
    ------
    RunError
        If pictures changed and the run has a checkpoint.
    """
    old_lines = _read_lines(path)
    old_readable = _readable_lines(old_lines)
    if not old_lines or (difference := find_changes(old_readable, inputs.lines)) is None:
        return ""
    message = str(difference)
    reasons = dict(inputs.skipped)
    unreadable = [f"{name} cannot be read: {reasons[name]}" for name in difference.removed
              if name in reasons]  # fmt: skip
    if unreadable:
        message += f" — {unreadable[0]}"
    if is_trained:
        raise RunError(
            f"{list_name}: expected the {len(old_readable)} pictures of the run in {out_dir}, got "
            f"{len(inputs.lines)}: {message} — restore them to resume, or choose another folder"
        )
    return message


def _parse_lines(pictures: Sequence[Any], lines: list[str]) -> Inputs:
    rows = [json.loads(line) for line in lines]
    readable = [i for i, row in enumerate(rows) if isinstance(row, list)]
    skipped = tuple((row["skipped"], row["reason"]) for row in rows if isinstance(row, dict))
    if not readable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ImageError(
            f"pictures: expected at least one readable picture, got {len(skipped)} unreadable: "
            f"{reasons or 'none'} — pass photographs"
        )
    if len(rows) != len(pictures):
        raise RunError(
            f"pictures: expected the {len(rows)} of the main process, got {len(pictures)} — "
            "pass the same list to all processes"
        )
    text = "".join(f"{line}\n" for line in lines)
    return Inputs([pictures[i] for i in readable], [lines[i] for i in readable], skipped, text)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file, or an empty list if it is missing or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        content_digests(_readable_lines(lines))
        return lines
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _readable_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("[")]


def _read_error(picture: Any) -> str:
    """Return the reason why a picture cannot be read, "" if it can."""
    try:
        read(picture)
    except (SemattnError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


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
    words_seconds: float = 0.0,
) -> None:
    """Save the settings of a run and the identities of its pictures.

    Parameters
    ----------
    keypoints_seconds : time of keypoint detection
    words_seconds : time of fitting words
    """
    old_run = read_run(out_dir)
    old_settings = {} if old_run is None else old_run["settings"]
    if old_run is None or (
        not _is_trained(out_dir) and any(old_settings.get(x) != settings[x] for x in settings)
    ):
        details: dict[str, Any] = {"keypoints_seconds": round(keypoints_seconds, 3)}
        if words_seconds:
            details["words_seconds"] = round(words_seconds, 3)
        details["versions"] = versions()
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
