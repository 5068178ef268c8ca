"""Statistics of an analysis: means over images, confidence intervals, and tests against nulls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.loading import Skipped
from ..grid import PatchGrid
from ..utils.registry import unknown_name_message
from ..utils.text import to_json_number
from .accumulate import METRICS, Tally
from .nulls import NULLS

Array = NDArray[np.float64]

MIN_IMAGES = 10  # for an interval
FALSE_DISCOVERY_RATE = 0.05  # among the values marked significant
STRATA = ("EMPTY", "LOW", "HIGH")


class MetricInfo(NamedTuple):
    """Title and unit of a metric, and its value under uniform attention (None if it varies)."""

    title: str
    unit: str = "× uniform"
    chance: float | None = 1.0


METRIC_INFO = {
    "lift": MetricInfo("lift between strata"),
    "alignment": MetricInfo("alignment"),
    "alignment_plain": MetricInfo("alignment, queries alike"),
    "class_alignment": MetricInfo("alignment of the class token"),
    "alignment_matched": MetricInfo("alignment at the same distances", "× as far"),
    "distance": MetricInfo("attention distance", "pixels", None),
    "entropy": MetricInfo("entropy", "nats", None),
    "self_attention": MetricInfo("attention to itself", "share", None),
    "prefix_mass": MetricInfo("given to prefix tokens", "share", None),
    "outlier_mass": MetricInfo("given to outlier tokens", "share", None),
}
METRIC_INFO |= {
    f"{name}_without_outliers": METRIC_INFO[name]._replace(
        title=f"{METRIC_INFO[name].title}, without outlier tokens"
    )
    for name in ("lift", "alignment", "alignment_plain")
}


@dataclass(frozen=True, eq=False, repr=False)
class AnalysisResult:
    """Metrics over a set of images.

    Parameters
    ----------
    tally : the sums over images
    grid : the patch grid
    skipped : images that are left out, with reasons
    manifest : model, weights, options and versions
    """

    tally: Tally
    grid: PatchGrid
    skipped: tuple[Skipped, ...]
    manifest: dict[str, Any]

    @property
    def images(self) -> int:
        """The number of images in the analysis."""
        return self.tally.images

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """The number of each layer, and its number of heads."""
        return self.tally.layers

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that are defined for this model."""
        return tuple(name for name in METRICS if not np.isnan(self.mean(name)).all())

    def mean(self, name: str) -> Array:
        """Return the mean over images, (L, H), or (L, H, 3, 3) for a lift; NaN where undefined."""
        return self.tally.mean(self._check_name(name))

    def interval(self, name: str, of: Callable[[Array], Array] | None = None) -> Array:
        """Return the 95 % interval of the mean, (2, …), by Poisson bootstrap over images.

        Parameters
        ----------
        of : function of the means, (1 + R, L, H, …) to (1 + R, …), whose interval is computed;
            None is the identity

        Returns
        -------
        Array
            NaN if there are fewer than 10 images, or no replicates.
        """
        means = self.tally.replicated(self._check_name(name))
        means = means if of is None else of(means)
        if self.images < MIN_IMAGES or len(means) < 2:
            return np.full((2, *means.shape[1:]), np.nan)
        undefined = np.isnan(means[1:]).all(axis=0)
        bounds = np.nanquantile(np.where(undefined, 0.0, means[1:]), [0.025, 0.975], axis=0)
        return np.where(undefined, np.nan, bounds)

    def nulls(self, name: str) -> tuple[str, ...]:
        """Return the nulls that a metric is compared with, in the order of `NULLS`.

        The order of the sums depends on the order of the images, so it is not used.
        """
        metric = self._check_name(name)
        return tuple(null for null in NULLS if f"{metric}/{null}" in self.tally.nulls)

    def against(self, name: str, null: str) -> dict[str, Array]:
        """Return `expected`, `z`, `p_value` and `significant` for a null, (L, H, …) each.

        `significant` controls the false discovery rate over all heads of the metric at 5 %
        (Benjamini and Hochberg, 1995).
        """
        from scipy.stats import false_discovery_control

        if null not in self.nulls(name):
            raise ValueError(
                f"null: expected one of {', '.join(self.nulls(name)) or 'none'} for {name!r}, got "
                f"{null!r}"
            )
        test = self.tally.against(name, null)
        defined = np.isfinite(test["p_value"])
        significant = np.zeros(defined.shape, bool)
        if defined.any():
            adjusted = false_discovery_control(test["p_value"][defined])
            significant[defined] = adjusted <= FALSE_DISCOVERY_RATE
        return test | {"significant": significant}

    def table(self) -> dict[str, list[Any]]:
        """Return a table as columns, ready for `pandas.DataFrame`: one row per metric, layer, head.

        Lifts have one row per pair of strata, `query_stratum` and `key_stratum`. Columns of nulls
        are None for metrics that are not compared with nulls.
        """
        rows = [row for name in self.metrics for row in self._rows(name)]
        return {column: [row[column] for row in rows] for column in rows[0]}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        mean = self.mean(name)
        low, high = self.interval(name)
        nulls = {null: self.against(name, null) for null in self.nulls(name)}
        null_names = {key.rpartition("/")[2] for key in self.tally.nulls}
        used_nulls = [null for null in NULLS if null in null_names]
        info, rows = METRIC_INFO[name], []
        for index in np.ndindex(mean.shape):
            layer, head, *strata = index
            if head >= self.layers[layer][1]:
                continue
            names: list[str | None] = [STRATA[i] for i in strata]
            query_stratum, key_stratum = names or (None, None)
            row = {
                "metric": name, "unit": info.unit, "layer": self.layers[layer][0],
                "head": head, "query_stratum": query_stratum, "key_stratum": key_stratum,
                "mean": to_json_number(mean[index]), "low": to_json_number(low[index]),
                "high": to_json_number(high[index]), "images": self.images,
            }  # fmt: skip
            for null in used_nulls:
                test = nulls.get(null)
                for column in ("expected", "z", "p_value", "significant"):
                    row[f"{column}_{null}"] = (
                        None if test is None else to_json_number(test[column][index])
                    )
            rows.append(row)
        return rows

    def _check_name(self, name: str) -> str:
        if name not in self.tally.sums:
            raise ValueError(unknown_name_message("metric", name, self.tally.sums))
        return name
