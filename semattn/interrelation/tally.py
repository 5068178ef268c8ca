"""Figures of many images, added up: memory stays, parts merge, and every image can be drawn again.

What is kept of each figure is its sum over images, and the sums of Poisson bootstrap replicates
(every image counts as often as a Poisson number that its own pixels decide), from which intervals
come; of each null, the sums of differences and of variances, from which z-scores come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exact import ExactSum, Whole
from .measure import ALONE, HELD, Measured
from .nulls import NULLS, Held

Array = NDArray[np.float64]

WITHOUT = ("lift", "alignment", "alignment_plain")  # given without outlier tokens, too
ROUNDING = 1e-6  # a standard deviation below this is no spread: z is undefined
FIGURES = (*HELD, *(f"{name}_without_outliers" for name in WITHOUT), *ALONE)

_AT_ONCE = 256  # images that are summed at once: exact, see `ExactSum.add`
_COUNTS = ("counts", "null_counts", "freedom")


@dataclass
class Tally:
    """Sums over images of every figure.

    Parameters
    ----------
    layers : as in `Measured`
    replicates : R, bootstrap samples of the images
    images : how many are in it
    sums, counts : figure: (1 + R, L, H, …), of all images first; how often it was defined
    nulls : "figure/null": three sums (L, H, …): of the null's mean, of the difference to it, and of
        the variance of that difference
    null_counts : "figure/null": how often it was defined
    freedom : "figure/null": degrees of freedom of the variance, (L, H, …)
    """

    layers: tuple[tuple[int, int], ...]
    replicates: int
    images: int = 0
    sums: dict[str, ExactSum] = field(default_factory=dict)
    counts: dict[str, Whole] = field(default_factory=dict)
    nulls: dict[str, ExactSum] = field(default_factory=dict)
    null_counts: dict[str, Whole] = field(default_factory=dict)
    freedom: dict[str, Whole] = field(default_factory=dict)

    def add(self, measured: Measured, against: Held, keys: dict[int, int], seed: int) -> None:
        """Take in those images of a batch that `keys` has, by place, with a number for each.

        Raises
        ------
        ValueError
            For figures of other layers.
        """
        if measured.layers != self.layers:
            raise ValueError(f"layers: expected {self.layers}, got {measured.layers}")
        if len(keys) > _AT_ONCE:
            every = list(keys.items())
            for start in range(0, len(every), _AT_ONCE):
                self.add(measured, against, dict(every[start : start + _AT_ONCE]), seed)
            return
        if not keys:
            return
        use = list(keys)
        figures = {name: values[use, :, :, 0] for name, values in _arrays(measured.held).items()}
        for name in WITHOUT:
            figures[f"{name}_without_outliers"] = measured.held[name][use, :, :, 1].numpy()
        figures |= {name: values[use] for name, values in _arrays(measured.alone).items()}
        chance = [np.random.default_rng([seed, key]) for key in keys.values()]
        draws = [one.poisson(1.0, self.replicates) for one in chance]
        times = np.stack([np.concatenate([[1], one]) for one in draws], axis=1).astype(np.int64)
        for name, values in figures.items():
            self._count(name, values, times)
        for name, values in _arrays(measured.held).items():
            for null, places in against.nulls.items():
                found = values[use]
                self._hold(f"{name}/{null}", found[:, :, :, 0], found[:, :, :, places])
        self.images += len(use)

    def merge(self, other: Tally) -> None:
        """Add the images of another tally, of the same model and settings."""
        if (other.layers, other.replicates) != (self.layers, self.replicates):
            raise ValueError(
                f"tally: expected layers {self.layers} and {self.replicates} replicates, got "
                f"{other.layers} and {other.replicates} — merge what one model and setting gave"
            )
        for mine, its in ((self.sums, other.sums), (self.nulls, other.nulls)):
            for name, one in its.items():
                mine.setdefault(name, ExactSum.zeros(one.high.shape)).merge(one)
        for kind in _COUNTS:
            known = getattr(self, kind)
            for name, count in getattr(other, kind).items():
                known[name] = known.get(name, 0) + count
        self.images += other.images
        for kind in ("sums", "nulls", *_COUNTS):  # in one order, whichever was merged first
            setattr(self, kind, dict(sorted(getattr(self, kind).items(), key=_place)))

    def mean(self, name: str) -> Array:
        """The mean over images, (L, H, …); NaN where a figure is never defined."""
        return self.replicated(name)[0]

    def replicated(self, name: str) -> Array:
        """That of all images, then of each bootstrap sample: (1 + R, L, H, …)."""
        with np.errstate(invalid="ignore"):
            return self.sums[name].value() / np.where(self.counts[name], self.counts[name], np.nan)

    def against(self, name: str, null: str) -> dict[str, Array]:
        """How a figure stands to a null: (L, H, …) each.

        `expected` is the mean under the null, `z` the difference in its standard errors, `p_value`
        two-sided, by Student's t with the degrees of freedom that the draws leave.
        """
        from scipy.stats import t

        mean, difference, variance = self.nulls[f"{name}/{null}"].value()
        count = self.null_counts[f"{name}/{null}"]
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.where(variance > ROUNDING**2 * count, variance, np.nan)
            z = difference / np.sqrt(spread)
            p_value = 2 * t.sf(np.abs(z), self.freedom[f"{name}/{null}"])
            return {"expected": mean / np.where(count, count, np.nan), "z": z, "p_value": p_value}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is in it, to be written down."""
        found: dict[str, NDArray[Any]] = {
            "layers": np.array(self.layers, np.int64),
            "images": np.array([self.images, self.replicates], np.int64),
        }
        for kind in ("sums", "nulls"):
            for name, one in getattr(self, kind).items():
                found[f"{kind}/{name}/high"], found[f"{kind}/{name}/low"] = one.high, one.low
        for kind in _COUNTS:
            found |= {f"{kind}/{name}": one for name, one in getattr(self, kind).items()}
        return found

    @classmethod
    def of_arrays(cls, found: Mapping[str, NDArray[Any]]) -> Tally:
        """What `arrays` wrote down."""
        images, replicates = (int(one) for one in found["images"])
        made = cls(tuple((int(a), int(b)) for a, b in found["layers"]), replicates, images)
        for key in found:
            kind, _, name = key.partition("/")
            if kind in _COUNTS:
                getattr(made, kind)[name] = found[key]
            elif kind in ("sums", "nulls") and key.endswith("/high"):
                name = name.removesuffix("/high")
                low = found[f"{kind}/{name}/low"]
                getattr(made, kind)[name] = ExactSum(found[key], low)
        return made

    def _count(self, name: str, values: Array, times: Whole) -> None:
        """Figures (B, L, H, …), each as often as `times` (1 + R, B) says."""
        shape = (len(times), *values.shape[1:])
        if name not in self.sums:
            self.sums[name], self.counts[name] = ExactSum.zeros(shape), np.zeros(shape, np.int64)
        defined = np.isfinite(values)
        self.sums[name].add(np.where(defined, values, 0.0), times)
        often = np.tensordot(times.astype(np.float64), defined.astype(np.float64), 1)
        self.counts[name] += often.astype(np.int64)

    def _hold(self, name: str, value: Array, draws: Array) -> None:
        """Figures (B, L, H, …) and what they are under R draws of a null, (B, L, H, R, …)."""
        count = np.isfinite(draws).sum(axis=3)
        defined = np.isfinite(value) & (count > 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(draws, axis=3) / count
            squares = np.nansum((draws - mean[:, :, :, None]) ** 2, axis=3)
            variance = squares / (count - 1) * (1 + 1 / count)
            three = np.stack([mean, value - mean, variance], axis=1)
        if name not in self.nulls:
            self.nulls[name] = ExactSum.zeros(three.shape[1:])
            self.null_counts[name] = np.zeros(value.shape[1:], np.int64)
            self.freedom[name] = np.zeros(value.shape[1:], np.int64)
        for one in np.where(defined[:, None], three, 0.0):
            self.nulls[name].add(one)
        self.null_counts[name] += defined.sum(axis=0)
        self.freedom[name] += (defined * (count - 1)).sum(axis=0)


def _arrays(found: Mapping[str, Any]) -> dict[str, Array]:
    return {name: one.numpy() for name, one in found.items()}


def _place(entry: tuple[str, Any]) -> tuple[int, int]:
    """Return the place of a figure among all, and that of its null."""
    figure, _, null = entry[0].partition("/")
    return FIGURES.index(figure), (*NULLS, "").index(null)
