"""Sums whose result does not depend on the order, so that parts can be merged.

A float64 is cut into two whole numbers, and whole numbers are added. Adding is then associative and
commutative to the last bit, whichever process did which part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]

_HIGH, _LOW = 12, 52  # binary places of the two numbers
AT_ONCE = 2**11
MOST = 2.0**29  # of a value, such as the square of a lift; with 2^20 images, sums are below 2^62


@dataclass
class ExactSum:
    """A sum of float64 arrays of one shape, exact to 2^-52.

    Examples
    --------
    >>> one = ExactSum.zeros((2,))
    >>> one.add(np.array([0.5, 1e6])); one.add(np.array([0.25, 1.0]))
    >>> one.value().tolist()
    [0.75, 1000001.0]
    """

    high: Whole
    low: Whole

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> ExactSum:
        """A sum of nothing."""
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def add(self, values: NDArray[np.float64], times: Whole | None = None) -> None:
        """Add `values`; or, of values (B, …) and `times` (R, B), R sums of so many times each.

        The sums over B are of whole numbers in float64, which holds them exactly as long as no row
        of `times` comes to `AT_ONCE`.
        """
        if not bool((np.abs(values) < MOST).all()):
            raise ValueError(
                f"values: expected finite ones below {MOST:g}, got "
                f"[{values.min():g}, {values.max():g}]"
            )
        high = np.floor(np.ldexp(values, _HIGH))
        low = np.rint(np.ldexp(values - np.ldexp(high, -_HIGH), _LOW))
        if times is not None:
            if int(times.sum(axis=1).max()) >= AT_ONCE:
                raise ValueError(f"times: expected sums below {AT_ONCE}, got more — add in parts")
            high, low = (np.tensordot(times.astype(np.float64), one, 1) for one in (high, low))
        self.high += high.astype(np.int64)
        self.low += low.astype(np.int64)

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        self.high += other.high
        self.low += other.low

    def value(self) -> NDArray[np.float64]:
        """The sum, rounded once."""
        carried = self.low >> (_LOW - _HIGH)
        rest = self.low - (carried << (_LOW - _HIGH))
        return np.ldexp((self.high + carried).astype(np.float64), -_HIGH) + np.ldexp(
            rest.astype(np.float64), -_LOW
        )
