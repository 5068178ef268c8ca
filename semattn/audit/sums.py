"""The analysis of the units that one process has done, in one file that grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..interrelation import Analysis, Skipped
from ..interrelation.figures import Figures
from ..interrelation.store import load, save

START = "analysis-"


class Sums:
    """Sums over units, which never count one twice.

    Parameters
    ----------
    folder : where they lie, with those of other processes, and of earlier ones
    name : of this process's file
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / f"{START}{name}.npz"
        self.known: set[int] = set()
        self.found: Figures | None = None
        self.own: list[int] = []
        for file in files(folder):
            figures, about = load(file)
            self.known |= set(about["units"])
            if file == self.file:
                self.found, self.own = figures, list(about["units"])

    def add(self, unit: int, found: Analysis) -> None:
        """Take in a unit; on the disk when this returns."""
        if unit in self.known:
            return
        if self.found is None:
            self.found = Figures(found.tally, found.grid, found.skipped, found.manifest)
        else:
            self.found.tally.merge(found.tally)
            skipped = (*self.found.skipped, *found.skipped)
            self.found = Figures(self.found.tally, found.grid, skipped, found.manifest)
        self.own.append(unit)
        self.known.add(unit)
        save(self.found, self.file, units=self.own)


def files(folder: Path) -> list[Path]:
    """Those of all processes."""
    return sorted(folder.glob(f"{START}*.npz"))


def merged(folder: Path, names: Sequence[str]) -> Analysis | None:
    """The analysis of all processes; None where there is none.

    Parameters
    ----------
    folder : where they lie
    names : of the images, in the order in which what is left out is listed
    """
    every = [load(file)[0] for file in files(folder)]
    if not every:
        return None
    first = every[0]
    for other in every[1:]:
        first.tally.merge(other.tally)
    order = {name: number for number, name in enumerate(names)}
    skipped: list[Skipped] = [one for part in every for one in part.skipped]
    skipped.sort(key=lambda one: (order.get(one.name, -1), one))
    return Analysis(first.tally, first.grid, tuple(skipped), first.manifest)
