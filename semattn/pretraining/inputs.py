"""The pictures of a run: those that can be read, and proof that a run goes on with the same ones.

The identities of all pictures are kept in the folder of the run. A picture that has size and times
of change that were noted is not read again; what could not be read is tried each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError, SemattnError
from ..images import read
from ..utils.atomic_files import write_text
from ..utils.input_list import changes, contents, identify, input_names, lines_by_name
from .checkpoints import RunError

EVERY = 500  # pictures between two calls of `progress`


@dataclass(frozen=True, eq=False)
class Inputs:
    """Pictures that can be read, with their identities, and those that cannot, with reasons.

    Parameters
    ----------
    pictures : those that can be read, in order
    lines : the identity of each, as of `semattn.utils.identity.identity_of`
    skipped : name and reason of the others
    kept : one line for each picture that was given, as `keep` writes them
    """

    pictures: list[Any]
    lines: list[str]
    skipped: tuple[tuple[str, str], ...]
    kept: str

    @property
    def digest(self) -> str:
        """The SHA-256 of the content of all pictures, in order, whatever they are called."""
        return hashlib.sha256("\n".join(contents(self.lines)).encode()).hexdigest()

    def keep(self, file: Path) -> None:
        """Write the identities: whole, or not at all."""
        if not file.exists() or file.read_text(encoding="utf-8") != self.kept:
            write_text(file, self.kept)

    def changed(self) -> list[str]:
        """Return the names of the pictures whose content is another than it was."""
        now = identify(self.pictures, self._names(), lines_by_name(self.lines))
        pairs = zip(self._names(), contents(self.lines), contents(now), strict=True)
        return [name for name, before, after in pairs if before != after]

    def _names(self) -> list[str]:
        return [str(json.loads(line)[0]) for line in self.lines]


def check_inputs(
    pictures: Sequence[Any],
    file: Path,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inputs:
    """Read every picture that is not the one that was noted in `file`.

    Raises
    ------
    ImageError
        Where none can be read.
    """
    names = input_names(pictures)
    known = lines_by_name(_usable(_read(file)))
    lines = identify(pictures, names, known, workers)
    fresh = [i for i, line in enumerate(lines) if known.get(names[i], (None, None))[1] != line]
    reasons: dict[int, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda number: _reason(pictures[number]), fresh)
        for done, (number, reason) in enumerate(zip(fresh, results, strict=True), 1):
            if reason:
                reasons[number] = reason
            if progress is not None and (done % EVERY == 0 or done == len(fresh)):
                progress(done, len(fresh))
    return _inputs(pictures, [
        json.dumps({"skipped": names[i], "reason": reasons[i]}) if i in reasons else line
        for i, line in enumerate(lines)
    ])  # fmt: skip


def read_inputs(pictures: Sequence[Any], file: Path) -> Inputs:
    """Return what the main process of a run has kept of the same list."""
    return _inputs(pictures, _read(file))


def check_unchanged(what: str, file: Path, after: Inputs, out: Path, *, is_trained: bool) -> str:
    """Refuse other pictures than those that a run was begun with.

    Parameters
    ----------
    what : "pictures" or "validation", for the message
    file : identities that the run has kept, if there are any
    is_trained : whether anything was trained with them; if not, they may change

    Returns
    -------
    What changed, "" for nothing.

    Raises
    ------
    RunError
        Where they changed and something was trained.
    """
    kept = _read(file)
    before = _usable(kept)
    if not kept or (differ := changes(before, after.lines)) is None:
        return ""
    said = str(differ)
    skipped = dict(after.skipped)
    broken = [f"{name} cannot be read: {skipped[name]}" for name in differ.removed
              if name in skipped]  # fmt: skip
    if broken:
        said += f" — {broken[0]}"
    if is_trained:
        counts = f"{len(before)} in place of {len(after.lines)}"
        raise RunError(
            f"out: expected the beginning of this run, got one in {out} with {what} {counts}: "
            f"{said} — restore them to go on, or give another folder"
        )
    return said


def _inputs(pictures: Sequence[Any], kept: list[str]) -> Inputs:
    rows = [json.loads(line) for line in kept]
    good = [i for i, row in enumerate(rows) if isinstance(row, list)]
    skipped = tuple((row["skipped"], row["reason"]) for row in rows if isinstance(row, dict))
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ImageError(
            f"pictures: expected one that can be read at least, got {len(skipped)} that cannot: "
            f"{reasons or 'none'} — give photographs"
        )
    if len(rows) != len(pictures):
        raise RunError(
            f"pictures: expected the {len(rows)} of the main process, got {len(pictures)} — give "
            "all processes the same list"
        )
    text = "".join(f"{line}\n" for line in kept)
    return Inputs([pictures[i] for i in good], [kept[i] for i in good], skipped, text)


def _read(file: Path) -> list[str]:
    """Return the lines of a file, none where it is missing or damaged."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        contents(_usable(lines))
        return lines
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _usable(kept: list[str]) -> list[str]:
    return [line for line in kept if line.startswith("[")]


def _reason(picture: Any) -> str:
    """Return why a picture cannot be read, "" for one that can."""
    try:
        read(picture)
    except (SemattnError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""
