"""Sums of floats that do not depend on the order of addition, so that partial sums can be merged.

Each float64 is split into two integers, and the integers are added. Addition is then associative
and commutative to the last bit, however the values are distributed over processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

_HIGH_BITS, _LOW_BITS = 12, 52  # fractional bits of the two integers
MAX_TIMES = 2**11
MAX_VALUE = 2.0**29  # of a squared lift, for example; sums of 2^20 images stay below 2^62


@dataclass
class ExactSum:
    """Sum of float64 arrays of one shape, exact to 2^-52.

    Examples
    --------
    >>> total = ExactSum.zeros((2,))
    >>> total.add(np.array([0.5, 1e6])); total.add(np.array([0.25, 1.0]))
    >>> total.value().tolist()
    [0.75, 1000001.0]
    """

    high: IntArray
    low: IntArray

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> ExactSum:
        """Return an empty sum."""
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    def add(self, values: NDArray[np.float64], times: IntArray | None = None) -> None:
        """Add `values`, or with `times` (R, B) add R sums over B of values (B, …) times the counts.

        The sums over B are sums of integers in float64, which are exact as long as every row of
        `times` sums to less than `MAX_TIMES`.
        """
        if not bool((np.abs(values) < MAX_VALUE).all()):
            raise ValueError(
                f"values: expected finite numbers below {MAX_VALUE:g}, got values in "
                f"[{values.min():g}, {values.max():g}]"
            )
        high = np.floor(np.ldexp(values, _HIGH_BITS))
        low = np.rint(np.ldexp(values - np.ldexp(high, -_HIGH_BITS), _LOW_BITS))
        if times is not None:
            if int(times.sum(axis=1).max()) >= MAX_TIMES:
                raise ValueError(
                    f"times: expected sums below {MAX_TIMES}, got more — add fewer images at a time"
                )
            high, low = (np.tensordot(times.astype(np.float64), part, 1) for part in (high, low))
        self.high += high.astype(np.int64)
        self.low += low.astype(np.int64)

    def merge(self, other: ExactSum) -> None:
        """Add another sum to this one."""
        self.high += other.high
        self.low += other.low

    def value(self) -> NDArray[np.float64]:
        """Return the sum, rounded once."""
        carry = self.low >> (_LOW_BITS - _HIGH_BITS)
        remainder = self.low - (carry << (_LOW_BITS - _HIGH_BITS))
        return np.ldexp((self.high + carry).astype(np.float64), -_HIGH_BITS) + np.ldexp(
            remainder.astype(np.float64), -_LOW_BITS
        )
