"""Units of an audit on disk, and whether their images have changed.

The files of a unit are made where it is computed and written by one process, so that no other
needs access to the folder of the results.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.sources import Source
from ..interrelation import Analysis
from ..utils.atomic_files import write_bytes
from ..utils.input_identity import (
    all_unchanged,
    combined_digest,
    identities_from_array,
    identities_to_array,
)
from ..utils.run_store import RecomputedParts, RunStore
from .batch_size import Unit
from .partial_sums import PartialSums
from .tables import SKIPPED, TABLE

MAPS, SUMMARY = "maps", "audit.json"
PREFIX = "unit-"  # name prefix of the arrays of a unit
LEFT_OUT = "left-out"  # row with the numbers of the units that were not computed
COMPLETE = "complete"  # row that exists once all units are done
THREADS = 16  # threads that compare files; mostly they wait for the disk
STATE = ("identities", "analysed")  # arrays that describe the state of a unit


@dataclass(frozen=True)
class UnitResult:
    """Result of a unit.

    Parameters
    ----------
    unit : the unit
    identities : identity of each of its images
    skipped : name, job and reason of the images that a job left out
    analysis : analysis of its images, None if it has none
    rows : content of the file of its rows
    maps : content of the file of its maps, None if it has none
    is_left_out : whether the unit was not computed, because it ends the processes that compute it
    """

    unit: Unit
    identities: list[str]
    skipped: list[tuple[str, str, str]]
    analysis: Analysis | None
    rows: bytes
    maps: bytes | None
    is_left_out: bool = False


def drop_left_out(store: RunStore) -> None:
    """Remove the units that an earlier run left out, so that they are tried again."""
    for number in (store.read_row(LEFT_OUT) or {"units": []})["units"]:
        store.remove(f"{PREFIX}{int(number):06d}")
    store.remove(LEFT_OUT)


def rows_file(arrays: dict[str, np.ndarray], identities: Sequence[str], analysed: bool) -> bytes:
    """Return the content of the file of a unit: its arrays with its state."""
    state = {"identities": identities_to_array(identities), "analysed": np.array(analysed)}
    stream = io.BytesIO()
    np.savez(stream, **(arrays | state))  # type: ignore[arg-type]
    return stream.getvalue()


def maps_file(numbers: np.ndarray, maps: np.ndarray) -> bytes:
    """Return the content of the file with the maps of a unit."""
    stream = io.BytesIO()
    np.savez_compressed(stream, number=numbers, maps=maps)
    return stream.getvalue()


class UnitStore:
    """Stored results of each unit, valid for the images that they were computed from.

    Each unit is compared with its images once; a file whose size and times have not changed is not
    read.

    Parameters
    ----------
    store, source : of the audit
    out : folder of the results
    units : all units
    process : index of this process, and number of processes
    """

    def __init__(
        self, store: RunStore, source: Source, out: Path, units: Sequence[Unit],
        process: tuple[int, int],
    ) -> None:  # fmt: skip
        self.store, self.source, self.out, self.units = store, source, out, units
        self.place, self.count = process
        self.sums = PartialSums(store.folder, self.place, len(units))
        self._states: dict[int, tuple[str, bool]] = {}  # digest of the images, whether analysed
        self._own = {unit.number for unit in units[self.place :: self.count]}
        self._is_complete = store.read_row(COMPLETE) is not None
        self._drop()

    def todo(self) -> list[Unit]:
        """Return the units of this process that are not done."""
        return [unit for unit in self.units if unit.number in self._own and not self._done(unit)]

    def waiting(self) -> int:
        """Return the number of units, over all processes, that are not done."""
        stored = self.store.numbered(PREFIX)
        missing = [unit for unit in self.units if unit.number not in stored]
        if missing:  # other processes are running, and the last one compares
            return len(missing)
        self.sums.read()
        self._compare(self.units)
        return sum(not self._done(unit) for unit in self.units)

    def arrays(self, unit: Unit) -> dict[str, np.ndarray]:
        """Return the arrays of a unit that is done."""
        arrays_of_unit = self.store.read_arrays(f"{PREFIX}{unit.name}")
        assert arrays_of_unit is not None
        return arrays_of_unit

    def record(self, result: UnitResult) -> None:
        """Write the files of a unit, its maps first, and add its analysis to the sums."""
        if result.maps is not None:
            write_bytes(self.out / MAPS / f"{result.unit.name}.npz", result.maps)
        self.store.store_file(f"{PREFIX}{result.unit.name}", result.rows)
        number, digest = result.unit.number, combined_digest(result.identities)
        self.recomputed.again(result.identities)
        self._states[number] = digest, result.analysis is not None
        if result.analysis is not None:
            self.sums.add(number, digest, result.analysis)
        if result.is_left_out:
            units = (self.store.read_row(LEFT_OUT) or {"units": []})["units"]
            self.store.store_row(LEFT_OUT, {"units": [*units, number]})

    def close(self) -> None:
        """Write the sums of all recorded units."""
        self.sums.save()

    def complete(self) -> str:
        """Record that all units are done; return the digest of all images."""
        self.store.store_row(COMPLETE, {"images": len(self.source)})
        return combined_digest(line for unit in self.units for line in self._lines(unit.name))

    def note(self) -> str:
        """Return a note on stored results that were not used, "" for none."""
        return self.recomputed.note(self.source.names, self._is_complete, self.count == 1)

    def _done(self, unit: Unit) -> bool:
        state = self._states.get(unit.number)
        return state is not None and (not state[1] or self.sums.has(unit.number, state[0]))

    def _drop(self) -> None:
        """Remove units that were computed from other images, and units beyond the last one."""
        stored = self.store.numbered(PREFIX)
        own_units = self._own & stored.keys()
        summed = {
            unit for units in self.sums.files.values() if not own_units.isdisjoint(units)
            for unit in units if unit < len(self.units) and unit in stored
        }  # fmt: skip
        self._compare([self.units[number] for number in sorted(own_units | summed)])
        beyond = {number for number in stored if number >= len(self.units)}
        in_sums = {unit for units in self.sums.files.values() for unit in units}
        beyond_in_sums = {number for number in in_sums if number >= len(self.units)}
        self.sums.drop(self._is_current, self._own | beyond_in_sums)
        self.sums.go_on()
        self.recomputed = RecomputedParts(("unit", "units"), len(own_units | beyond))
        changed = {number for number in own_units if number not in self._states}
        to_repeat = {number for number in own_units & in_sums if not self._done(self.units[number])}
        for number in sorted(changed | beyond | to_repeat):
            self.recomputed.drop(self._lines(f"{number:06d}"))
        if changed or beyond:
            self.store.remove(COMPLETE)
            for name in (TABLE, SKIPPED, SUMMARY):  # they describe images that no longer exist
                (self.out / name).unlink(missing_ok=True)
        for number in changed | beyond:
            self.store.remove(stored[number])
        for file in (self.out / MAPS).glob("[0-9]*.npz"):
            if file.stem.isdigit() and (
                int(file.stem) in changed or int(file.stem) >= len(self.units)
            ):
                file.unlink(missing_ok=True)

    def _is_current(self, number: int, digest: str) -> bool:
        return self._states.get(number, ("", False))[0] == digest

    def _compare(self, units: Iterable[Unit]) -> None:
        """Compare units with the present images, except those that were compared before."""
        unknown = [unit for unit in units if unit.number not in self._states]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="semattn-identity") as pool:
            for unit, state in zip(unknown, pool.map(self._state, unknown), strict=True):
                if state is not None:
                    self._states[unit.number] = state

    def _state(self, unit: Unit) -> tuple[str, bool] | None:
        """Return the state of a unit if its images have not changed."""
        state = self.store.read_arrays(f"{PREFIX}{unit.name}", STATE)
        if state is None or "analysed" not in state:
            return None
        lines = identities_from_array(state.get("identities"))
        data, part = self.source.data, slice(unit.first, unit.stop)
        sources, labels = data.sources[part], data.labels[part]
        if not all_unchanged(lines, sources, self.source.names[part], labels):
            return None
        return combined_digest(lines), bool(state["analysed"])

    def _lines(self, name: str) -> list[str]:
        state = self.store.read_arrays(f"{PREFIX}{name}", STATE) or {}
        return identities_from_array(state.get("identities"))
