"""A kind of patches that is tried, and how it lies on the shelf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import Candidate
from .detector import Detector
from .evidence import lift


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
        detector = tried.detector
        own = {
            "rows": tried.rows, "mine": tried.mine, "fixed": tried.fixed,
            "like": np.packbits(tried.one.like), "bears": tried.one.bears,
            "marks": np.packbits(tried.marks), "weights": detector.weights,
            "numbers": np.array(
                [tried.one.p, detector.offset, detector.slope, detector.start], np.float64
            ),
        }  # fmt: skip
        made |= {f"{name}-{number}": value for name, value in own.items()}
    return made


def unpacked(target: int, kept: dict[str, np.ndarray]) -> tuple[int, list[Tried]]:
    """What `packed` was given, of a class."""
    made = []
    for number in range(int(kept["kept"])):

        def own(name: str, number: int = number) -> np.ndarray:
            return kept[f"{name}-{number}"]

        def patches(name: str, count: int) -> np.ndarray:
            shape = count, len(own("fixed"))
            return np.unpackbits(own(name), count=shape[0] * shape[1]).astype(bool).reshape(shape)

        rows, mine, (p, *numbers) = own("rows"), own("mine"), own("numbers").tolist()
        one = Candidate(patches("like", len(rows)), own("bears"), p)
        finder = Detector(own("weights"), *numbers)
        marks = patches("marks", int(mine.sum()))
        made.append(Tried(target, rows, mine, own("fixed"), one, finder, marks))
    return int(kept["judged"]), made
