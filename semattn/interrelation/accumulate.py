"""Sums of the metrics over images, in constant memory; tallies of parts can be merged.

For each metric, a tally holds the sum over images and the sums of Poisson bootstrap replicates
(each image counts a random, Poisson-distributed number of times, seeded by its pixels), which give
the intervals. For each null, it holds the sums of differences and of variances, which give the
z-scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measure import DISTRIBUTION_METRICS, PLAIN_METRICS, BatchMetrics
from .nulls import PatchDistributions

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


Array = NDArray[np.float64]

WITHOUT_OUTLIERS = ("lift", "alignment", "alignment_plain")  # also computed without outlier tokens
MIN_DEVIATION = 1e-6  # z is undefined for a smaller standard deviation
METRICS = (
    *DISTRIBUTION_METRICS,
    *(f"{name}_without_outliers" for name in WITHOUT_OUTLIERS),
    *PLAIN_METRICS,
)

_MAX_IMAGES_AT_ONCE = 256  # keeps `ExactSum.add` exact
_COUNT_FIELDS = ("counts", "null_counts", "dof")


@dataclass
class Tally:
    """Sums of every metric over images.

    Parameters
    ----------
    layers : as in `BatchMetrics`
    n_bootstrap : R, bootstrap samples of the images
    images : number of images in the tally
    sums, counts : by metric, (1 + R, L, H, …), all images first; counts is the number of images for
        which the metric is defined
    nulls : by "metric/null", three sums (L, H, …): of the null's mean, of the difference to it, and
        of the variance of that difference
    null_counts : by "metric/null", the number of images for which it is defined
    dof : by "metric/null", degrees of freedom of the variance, (L, H, …)
    """

    layers: tuple[tuple[int, int], ...]
    n_bootstrap: int
    images: int = 0
    sums: dict[str, ExactSum] = field(default_factory=dict)
    counts: dict[str, IntArray] = field(default_factory=dict)
    nulls: dict[str, ExactSum] = field(default_factory=dict)
    null_counts: dict[str, IntArray] = field(default_factory=dict)
    dof: dict[str, IntArray] = field(default_factory=dict)

    def add(
        self,
        measured: BatchMetrics,
        distributions: PatchDistributions,
        keys: dict[int, int],
        seed: int,
    ) -> None:
        """Add some images of a batch to the sums.

        Parameters
        ----------
        measured : metrics of the batch
        distributions : weights of the patches that the metrics were computed for
        keys : for each image to add, its index in the batch and its number from `image_keys`,
            which seeds the bootstrap
        seed : seed of the bootstrap

        Raises
        ------
        ValueError
            If `measured` has other layers than the tally.
        """
        if measured.layers != self.layers:
            raise ValueError(f"layers: expected {self.layers}, got {measured.layers}")
        if len(keys) > _MAX_IMAGES_AT_ONCE:
            items = list(keys.items())
            for start in range(0, len(items), _MAX_IMAGES_AT_ONCE):
                part = dict(items[start : start + _MAX_IMAGES_AT_ONCE])
                self.add(measured, distributions, part, seed)
            return
        if not keys:
            return
        indices = list(keys)
        by_distribution = {
            name: values[indices] for name, values in _to_arrays(measured.by_distribution).items()
        }
        metrics = {name: values[:, :, :, 0] for name, values in by_distribution.items()}
        for name in WITHOUT_OUTLIERS:
            metrics[f"{name}_without_outliers"] = by_distribution[name][:, :, :, 1]
        metrics |= {name: values[indices] for name, values in _to_arrays(measured.plain).items()}
        rngs = [np.random.default_rng([seed, key]) for key in keys.values()]
        resamples = [rng.poisson(1.0, self.n_bootstrap) for rng in rngs]
        times = np.stack([np.concatenate([[1], counts]) for counts in resamples], axis=1)
        times = times.astype(np.int64)
        for name, values in metrics.items():
            self._add_values(name, values, times)
        for name, values in by_distribution.items():
            for null, draws in distributions.nulls.items():
                self._add_null(f"{name}/{null}", values[:, :, :, 0], values[:, :, :, draws])
        self.images += len(indices)

    def merge(self, other: Tally) -> None:
        """Add the images of another tally, of the same model and settings."""
        if (other.layers, other.n_bootstrap) != (self.layers, self.n_bootstrap):
            raise ValueError(
                f"tally: expected layers {self.layers} and {self.n_bootstrap} replicates, got "
                f"{other.layers} and {other.n_bootstrap} — merge tallies of one model and setting"
            )
        for own_sums, other_sums in ((self.sums, other.sums), (self.nulls, other.nulls)):
            for name, exact_sum in other_sums.items():
                own_sums.setdefault(name, ExactSum.zeros(exact_sum.high.shape)).merge(exact_sum)
        for kind in _COUNT_FIELDS:
            own_counts = getattr(self, kind)
            for name, count in getattr(other, kind).items():
                own_counts[name] = own_counts.get(name, 0) + count
        self.images += other.images

    def mean(self, name: str) -> Array:
        """Return the mean over images, (L, H, …); NaN where a metric is never defined."""
        return self.replicated(name)[0]

    def replicated(self, name: str) -> Array:
        """Return the mean of all images, then of each bootstrap sample: (1 + R, L, H, …)."""
        with np.errstate(invalid="ignore"):
            return self.sums[name].value() / np.where(self.counts[name], self.counts[name], np.nan)

    def against(self, name: str, null: str) -> dict[str, Array]:
        """Test a metric against a null; every value is (L, H, …).

        `expected` is the mean under the null, `z` the difference to it in standard errors, and
        `p_value` the two-sided p-value of Student's t with the degrees of freedom of the draws.
        """
        from scipy.stats import t

        mean, difference, variance = self.nulls[f"{name}/{null}"].value()
        count = self.null_counts[f"{name}/{null}"]
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.where(variance > MIN_DEVIATION**2 * count, variance, np.nan)
            z = difference / np.sqrt(spread)
            p_value = 2 * t.sf(np.abs(z), self.dof[f"{name}/{null}"])
            return {"expected": mean / np.where(count, count, np.nan), "z": z, "p_value": p_value}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays of the tally by name, in alphabetical order, for a file."""
        arrays: dict[str, NDArray[Any]] = {
            "layers": np.array(self.layers, np.int64),
            "images": np.array([self.images, self.n_bootstrap], np.int64),
        }
        for kind in ("sums", "nulls"):
            for name, exact_sum in getattr(self, kind).items():
                arrays[f"{kind}/{name}/high"] = exact_sum.high
                arrays[f"{kind}/{name}/low"] = exact_sum.low
        for kind in _COUNT_FIELDS:
            arrays |= {f"{kind}/{name}": counts for name, counts in getattr(self, kind).items()}
        return dict(sorted(arrays.items()))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Tally:
        """Return the tally of the result of `arrays`."""
        images, n_bootstrap = (int(number) for number in arrays["images"])
        layers = tuple((int(layer), int(heads)) for layer, heads in arrays["layers"])
        tally = cls(layers, n_bootstrap, images)
        for key in arrays:
            kind, _, name = key.partition("/")
            if kind in _COUNT_FIELDS:
                getattr(tally, kind)[name] = arrays[key]
            elif kind in ("sums", "nulls") and key.endswith("/high"):
                name = name.removesuffix("/high")
                low = arrays[f"{kind}/{name}/low"]
                getattr(tally, kind)[name] = ExactSum(arrays[key], low)
        return tally

    def _add_values(self, name: str, values: Array, times: IntArray) -> None:
        """Add values (B, L, H, …) to the sums, counting each image `times` (1 + R, B)."""
        shape = (len(times), *values.shape[1:])
        if name not in self.sums:
            self.sums[name], self.counts[name] = ExactSum.zeros(shape), np.zeros(shape, np.int64)
        defined = np.isfinite(values)
        self.sums[name].add(np.where(defined, values, 0.0), times)
        count = np.tensordot(times.astype(np.float64), defined.astype(np.float64), 1)
        self.counts[name] += count.astype(np.int64)

    def _add_null(self, name: str, value: Array, draws: Array) -> None:
        """Add values (B, L, H, …) and their R draws under a null, (B, L, H, R, …)."""
        count = np.isfinite(draws).sum(axis=3)
        defined = np.isfinite(value) & (count > 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(draws, axis=3) / count
            squares = np.nansum((draws - mean[:, :, :, None]) ** 2, axis=3)
            variance = squares / (count - 1) * (1 + 1 / count)
            sums = np.stack([mean, value - mean, variance], axis=1)
        if name not in self.nulls:
            self.nulls[name] = ExactSum.zeros(sums.shape[1:])
            self.null_counts[name] = np.zeros(value.shape[1:], np.int64)
            self.dof[name] = np.zeros(value.shape[1:], np.int64)
        for image_sums in np.where(defined[:, None], sums, 0.0):
            self.nulls[name].add(image_sums)
        self.null_counts[name] += defined.sum(axis=0)
        self.dof[name] += (defined * (count - 1)).sum(axis=0)


def _to_arrays(tensors: Mapping[str, Any]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
