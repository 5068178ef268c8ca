"""Sums of the analysis over units; each file holds the sum of some units of one process."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data.loading import Skipped
from ..interrelation import Analysis
from ..interrelation.analysis_files import read_analysis_file, save_analysis
from ..interrelation.estimates import AnalysisResult
from ..utils.atomic_files import DAMAGE, read_arrays

START = "analysis-"
LEAST_UNITS = 16  # units per file, if there are as many
MOST_FILES = 64  # files of all units, if one process does them all


class PartialSums:
    """Files with the sums of the analysis over units.

    A unit cannot be subtracted from a sum, so a file that contains a changed unit is removed.

    Parameters
    ----------
    folder : folder of the files of all processes, present and earlier
    place : index of this process
    units : number of units of the audit, which decides how many a file holds
    """

    def __init__(self, folder: Path, place: int, units: int) -> None:
        self.folder, self.place = folder, place
        self.most = max(LEAST_UNITS, -(-units // MOST_FILES))
        self.files: dict[Path, dict[int, str]] = {}  # digest of each unit's images, by number
        self.file: Path | None = None  # the file that units are added to
        self.result: AnalysisResult | None = None
        self.seconds_between_saves = 0.0  # a file takes up to a second
        self._is_saved, self._saved_at = True, -math.inf
        self.read()

    def read(self) -> None:
        """List the files of all processes."""
        self.files = {}
        for file in sorted(self.folder.glob(f"{START}*.npz")):
            if units := _units(file):
                self.files[file] = units

    def has(self, unit: int, digest: str) -> bool:
        """Return whether a unit is in exactly one file, and its images have the digest `digest`."""
        return [units[unit] for units in self.files.values() if unit in units] == [digest]

    def drop(self, is_current: Callable[[int, str], bool], own_units: set[int]) -> None:
        """Remove files that contain a unit of this process and a unit that is not current.

        Parameters
        ----------
        is_current : called with the number of a unit and the digest of its images
        own_units : numbers of the units of this process
        """
        times = Counter(unit for units in self.files.values() for unit in units)
        for file, units in list(self.files.items()):
            if own_units.isdisjoint(units):
                continue
            if any(times[unit] > 1 or not is_current(unit, units[unit]) for unit in units):
                file.unlink(missing_ok=True)
                del self.files[file]

    def go_on(self) -> None:
        """Continue with the file of this process that has room for more units."""
        for file, units in self.files.items():
            if file.name.startswith(f"{START}{self.place:04d}-") and len(units) < self.most:
                self.file, self.result = file, read_analysis_file(file)[0]

    def add(self, unit: int, digest: str, analysis: Analysis) -> None:
        """Add a unit to a file, which is written at once or by a later `save`."""
        if self.file is None or len(self.files[self.file]) >= self.most:
            self.save()
            # A new name, because another process may be about to remove an older file.
            name = f"{START}{self.place:04d}-{secrets.token_hex(8)}.npz"
            self.file, self.result = self.folder / name, None
            self.files[self.file] = {}
        if self.result is None:
            self.result = AnalysisResult(
                analysis.tally, analysis.grid, analysis.skipped, analysis.manifest
            )
        else:
            self.result.tally.merge(analysis.tally)
            skipped = (*self.result.skipped, *analysis.skipped)
            self.result = AnalysisResult(
                self.result.tally, analysis.grid, skipped, analysis.manifest
            )
        self.files[self.file][unit] = digest
        self._is_saved = False
        if time.monotonic() - self._saved_at >= self.seconds_between_saves:
            self.save()

    def save(self) -> None:
        """Write the units that were added since the last time."""
        if self._is_saved or self.file is None or self.result is None:
            return
        save_analysis(self.result, self.file, units=_pairs(self.files[self.file]))
        self._is_saved, self._saved_at = True, time.monotonic()

    def merged(self, names: Sequence[str]) -> Analysis | None:
        """Return the analysis of all files; None without files.

        Parameters
        ----------
        names : of the images, in the order in which skipped images are listed
        """
        first: AnalysisResult | None = None
        skipped: list[Skipped] = []
        for file in self.files:
            result = read_analysis_file(file)[0]
            skipped += result.skipped
            if first is None:
                first = result
            else:
                first.tally.merge(result.tally)
        if first is None:
            return None
        order = {name: number for number, name in enumerate(names)}
        skipped.sort(key=lambda skipped_image: (order.get(skipped_image.name, -1), skipped_image))
        return Analysis(first.tally, first.grid, tuple(skipped), first.manifest)


def _pairs(units: dict[int, str]) -> list[list[int | str]]:
    return [[unit, digest] for unit, digest in units.items()]


def _units(file: Path) -> dict[int, str]:
    """Return the units in a file, empty for a file of an earlier version."""
    try:
        about = json.loads(str(read_arrays(file, ["about"])["about"]))
        return {int(unit): str(digest) for unit, digest in about["units"]}
    except FileNotFoundError:
        return {}
    except DAMAGE:
        read_analysis_file(file)  # raises an error that describes the damage
        return {}
