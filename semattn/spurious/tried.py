"""Candidate cue that is tested, and its arrays in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import Candidate
from .cue_detector import Detector
from .significance import lift

# Names of the arrays of one candidate in the store.
ARRAYS = ("rows", "mine", "fixed", "like", "bears", "marks", "weights", "numbers")


@dataclass(frozen=True, eq=False)
class CandidateCue:
    """Candidate that is tested: the rows that it was judged on, and its detector in the projection.

    `in_class` tells which rows are of the class, `fixed` (P,) which patches are salient at a fixed
    place there, `marks` which patches of the class's rows the detector matches.
    """

    target: int
    rows: np.ndarray
    in_class: np.ndarray
    fixed: np.ndarray
    candidate: Candidate
    detector: Detector
    marks: np.ndarray

    @property
    def lift(self) -> float:
        """Lower 95 % confidence limit of the relative risk, class against others."""
        return lift(self.candidate.has_cue[self.in_class], self.candidate.has_cue[~self.in_class])


def to_arrays(judged: int, candidates: Sequence[CandidateCue]) -> dict[str, np.ndarray]:
    """Return the candidates of one class, out of `judged`, as arrays."""
    arrays = {"judged": np.array(judged), "kept": np.array(len(candidates))}
    for number, candidate_cue in enumerate(candidates):
        arrays |= {
            f"{name}-{number}": value for name, value in _candidate_arrays(candidate_cue).items()
        }
    return arrays


def from_arrays(target: int, arrays: dict[str, np.ndarray]) -> tuple[int, list[CandidateCue]]:
    """Return the number of judged candidates of a class and its candidates from such arrays."""
    candidates = [
        _candidate_from_arrays(target, {name: arrays[f"{name}-{number}"] for name in ARRAYS})
        for number in range(int(arrays["kept"]))
    ]
    return int(arrays["judged"]), candidates


def _candidate_arrays(candidate_cue: CandidateCue) -> dict[str, np.ndarray]:
    """Return one candidate as arrays: `ARRAYS`."""
    candidate, detector = candidate_cue.candidate, candidate_cue.detector
    numbers = np.array([candidate.p, detector.offset, detector.slope, detector.start], np.float64)
    values = (
        candidate_cue.rows, candidate_cue.in_class, candidate_cue.fixed,
        np.packbits(candidate.patch_mask),
        candidate.has_cue, np.packbits(candidate_cue.marks), detector.weights, numbers,
    )  # fmt: skip
    return dict(zip(ARRAYS, values, strict=True))


def _candidate_from_arrays(target: int, arrays: dict[str, np.ndarray]) -> CandidateCue:
    """Return a candidate from its arrays."""
    rows, in_class, fixed = arrays["rows"], arrays["mine"], arrays["fixed"]
    p, *numbers = arrays["numbers"].tolist()
    candidate = Candidate(_patches(arrays["like"], len(rows), len(fixed)), arrays["bears"], p)
    marks = _patches(arrays["marks"], int(in_class.sum()), len(fixed))
    return CandidateCue(
        target, rows, in_class, fixed, candidate, Detector(arrays["weights"], *numbers), marks
    )


def _patches(bits: np.ndarray, images: int, patches: int) -> np.ndarray:
    """Return unpacked bits as (images, patches)."""
    return np.unpackbits(bits, count=images * patches).astype(bool).reshape(images, patches)
