"""Units of an audit on the disk: which of them are of the images as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..data.sources import Source
from ..utils.identity import all_unchanged, combined, from_array, to_array
from ..utils.redone import Redone
from ..utils.run_store import Shelf
from .partial_sums import Sums
from .tables import SKIPPED, TABLE
from .units import Unit

MAPS, SUMMARY = "maps", "audit.json"
PREFIX = "unit-"  # of the arrays of a unit
COMPLETE = "complete"  # row that is there once all units are done
THREADS = 16  # that look at files; they wait for the disk most of the time
STATE = ("identities", "analysed")  # of a unit's arrays


class KeptUnits:
    """What is kept of each unit, by the images that it was computed from.

    Each unit is compared with the images once; a file with the size and times that were noted is
    not read.

    Parameters
    ----------
    shelf, source : of the audit
    out : folder of the results
    units : all units
    process : place of this process, and how many there are
    """

    def __init__(
        self, shelf: Shelf, source: Source, out: Path, units: Sequence[Unit],
        process: tuple[int, int],
    ) -> None:  # fmt: skip
        self.shelf, self.source, self.out, self.units = shelf, source, out, units
        self.place, self.count = process
        self.sums = Sums(shelf.folder, self.place, len(units))
        self._states: dict[int, tuple[str, bool]] = {}  # digest of the images, whether analysed
        self._own = {unit.number for unit in units[self.place :: self.count]}
        self._is_complete = shelf.row(COMPLETE) is not None
        self._drop()

    def todo(self) -> list[Unit]:
        """Return the units of this process that are to be done."""
        return [unit for unit in self.units if unit.number in self._own and not self._done(unit)]

    def waiting(self) -> int:
        """Return how many units of all processes are to be done yet."""
        kept = self.shelf.numbered(PREFIX)
        missing = [unit for unit in self.units if unit.number not in kept]
        if missing:  # other processes are at work: the last one compares
            return len(missing)
        self.sums.read()
        self._compare(self.units)
        return sum(not self._done(unit) for unit in self.units)

    def arrays(self, unit: Unit) -> dict[str, np.ndarray]:
        """Return the arrays of a unit that is done."""
        kept = self.shelf.arrays(f"{PREFIX}{unit.name}")
        assert kept is not None
        return kept

    def keep(self, unit: Unit, arrays: dict[str, np.ndarray], identities: Sequence[str],
             analysed: bool) -> str:  # fmt: skip
        """Keep a unit that was done, and return the digest of its images."""
        state = {"identities": to_array(identities), "analysed": np.array(analysed)}
        self.shelf.keep_arrays(f"{PREFIX}{unit.name}", arrays | state)
        self.redone.again(identities)
        self._states[unit.number] = combined(identities), analysed
        return self._states[unit.number][0]

    def complete(self) -> str:
        """Note that all units are done; return the digest of all images."""
        self.shelf.keep_row(COMPLETE, {"images": len(self.source)})
        return combined(line for unit in self.units for line in self._lines(unit.name))

    def note(self) -> str:
        """Return a line on what was not used; "" for nothing."""
        return self.redone.note(self.source.names, self._is_complete, self.count == 1)

    def _done(self, unit: Unit) -> bool:
        state = self._states.get(unit.number)
        return state is not None and (not state[1] or self.sums.has(unit.number, state[0]))

    def _drop(self) -> None:
        """Remove what was computed from other images, and what lies beyond the last unit."""
        kept = self.shelf.numbered(PREFIX)
        own = self._own & kept.keys()
        summed = {
            unit for units in self.sums.files.values() if not own.isdisjoint(units)
            for unit in units if unit < len(self.units) and unit in kept
        }  # fmt: skip
        self._compare([self.units[number] for number in sorted(own | summed)])
        beyond = {number for number in kept if number >= len(self.units)}
        in_sums = {unit for units in self.sums.files.values() for unit in units}
        ended = {number for number in in_sums if number >= len(self.units)}
        self.sums.drop(self._is_current, self._own | ended)
        self.sums.go_on()
        self.redone = Redone(("unit", "units"), len(own | beyond))
        changed = {number for number in own if number not in self._states}
        again = {number for number in own & in_sums if not self._done(self.units[number])}
        for number in sorted(changed | beyond | again):
            self.redone.drop(self._lines(f"{number:06d}"))
        if changed or beyond:
            self.shelf.remove(COMPLETE)
            for name in (TABLE, SKIPPED, SUMMARY):  # they are of images that are no more
                (self.out / name).unlink(missing_ok=True)
        for number in changed | beyond:
            self.shelf.remove(kept[number])
        for file in (self.out / MAPS).glob("[0-9]*.npz"):
            if file.stem.isdigit() and (
                int(file.stem) in changed or int(file.stem) >= len(self.units)
            ):
                file.unlink(missing_ok=True)

    def _is_current(self, number: int, digest: str) -> bool:
        return self._states.get(number, ("", False))[0] == digest

    def _compare(self, units: Iterable[Unit]) -> None:
        """Compare units with the images as they are now, except those that were compared."""
        some = [unit for unit in units if unit.number not in self._states]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="semattn-identity") as pool:
            for unit, state in zip(some, pool.map(self._state, some), strict=True):
                if state is not None:
                    self._states[unit.number] = state

    def _state(self, unit: Unit) -> tuple[str, bool] | None:
        """Return the state of a unit whose images are those that it was computed from."""
        kept = self.shelf.arrays(f"{PREFIX}{unit.name}", STATE)
        if kept is None or "analysed" not in kept:
            return None
        lines = from_array(kept.get("identities"))
        data, part = self.source.data, slice(unit.first, unit.stop)
        sources, labels = data.sources[part], data.labels[part]
        if not all_unchanged(lines, sources, self.source.names[part], labels):
            return None
        return combined(lines), bool(kept["analysed"])

    def _lines(self, name: str) -> list[str]:
        kept = self.shelf.arrays(f"{PREFIX}{name}", STATE) or {}
        return from_array(kept.get("identities"))
