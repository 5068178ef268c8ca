"""A kind of patches that is tried, and how it lies on the shelf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import Candidate
from .detector import Detector
from .evidence import lift

# Of one kind, on the shelf.
ARRAYS = ("rows", "mine", "fixed", "like", "bears", "marks", "weights", "numbers")


@dataclass(frozen=True, eq=False)
class Tried:
    """A candidate that is tried: the rows that it was judged on, and what finds it in the space.

    `mine` says which rows are of the class, `fixed` (P,) which patches stand out there at a fixed
    place, `marks` which patches of the class's rows it is found in.
    """

    target: int
    rows: np.ndarray
    mine: np.ndarray
    fixed: np.ndarray
    one: Candidate
    detector: Detector
    marks: np.ndarray

    @property
    def lift(self) -> float:
        """How many times as many images of the class show it as of the others, at least."""
        return lift(self.one.bears[self.mine], self.one.bears[~self.mine])


def packed(judged: int, some: Sequence[Tried]) -> dict[str, np.ndarray]:
    """The kinds of one class that are kept, of so many that were judged, as arrays."""
    made = {"judged": np.array(judged), "kept": np.array(len(some))}
    for number, tried in enumerate(some):
        made |= {f"{name}-{number}": value for name, value in _arrays(tried).items()}
    return made


def unpacked(target: int, kept: dict[str, np.ndarray]) -> tuple[int, list[Tried]]:
    """What `packed` was given, of a class."""
    every = [
        _of_arrays(target, {name: kept[f"{name}-{number}"] for name in ARRAYS})
        for number in range(int(kept["kept"]))
    ]
    return int(kept["judged"]), every


def _arrays(tried: Tried) -> dict[str, np.ndarray]:
    """One kind as arrays: `ARRAYS`."""
    one, found = tried.one, tried.detector
    numbers = np.array([one.p, found.offset, found.slope, found.start], np.float64)
    values = (
        tried.rows, tried.mine, tried.fixed, np.packbits(one.like), one.bears,
        np.packbits(tried.marks), found.weights, numbers,
    )  # fmt: skip
    return dict(zip(ARRAYS, values, strict=True))


def _of_arrays(target: int, own: dict[str, np.ndarray]) -> Tried:
    """What `_arrays` was given."""
    rows, mine, fixed = own["rows"], own["mine"], own["fixed"]
    p, *numbers = own["numbers"].tolist()
    one = Candidate(_patches(own["like"], len(rows), len(fixed)), own["bears"], p)
    marks = _patches(own["marks"], int(mine.sum()), len(fixed))
    return Tried(target, rows, mine, fixed, one, Detector(own["weights"], *numbers), marks)


def _patches(bits: np.ndarray, images: int, patches: int) -> np.ndarray:
    """What was packed, (images, patches)."""
    return np.unpackbits(bits, count=images * patches).astype(bool).reshape(images, patches)
