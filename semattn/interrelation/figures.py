"""What the sums say: means over images, their intervals, and how they stand to the nulls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..grid import PatchGrid
from ..registry import choices
from .nulls import NULLS
from .tally import FIGURES, Tally

Array = NDArray[np.float64]

LEAST = 10  # images: no interval from fewer
LEVEL = 0.05  # rate of false discoveries among what is marked significant
STRATA = ("EMPTY", "LOW", "HIGH")


class Skipped(NamedTuple):
    """An image that has no part in the figures, and why."""

    name: str
    reason: str


class Figure(NamedTuple):
    """What a figure is called, its unit, and its value under uniform attention (None: no such)."""

    title: str
    unit: str = "× uniform"
    chance: float | None = 1.0


MEANING = {
    "lift": Figure("lift between strata"),
    "alignment": Figure("alignment"),
    "alignment_plain": Figure("alignment, queries alike"),
    "class_alignment": Figure("alignment of the class token"),
    "alignment_matched": Figure("alignment at the same distances", "× as far"),
    "distance": Figure("attention distance", "pixels", None),
    "entropy": Figure("entropy", "nats", None),
    "self_attention": Figure("attention to itself", "share", None),
    "prefix_mass": Figure("given to prefix tokens", "share", None),
    "outlier_mass": Figure("given to outlier tokens", "share", None),
}
MEANING |= {
    f"{name}_without_outliers": MEANING[name]._replace(
        title=f"{MEANING[name].title}, without outlier tokens"
    )
    for name in ("lift", "alignment", "alignment_plain")
}


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of some images, over all of them.

    Parameters
    ----------
    tally : the sums that everything comes from
    grid : of the patches
    skipped : images that have no part in it, with reasons
    manifest : model, weights, options and versions
    """

    tally: Tally
    grid: PatchGrid
    skipped: tuple[Skipped, ...]
    manifest: dict[str, Any]

    @property
    def images(self) -> int:
        """How many images are in it."""
        return self.tally.images

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """The number of each layer, and its number of heads."""
        return self.tally.layers

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of what is defined for this model."""
        return tuple(name for name in FIGURES if not np.isnan(self.mean(name)).all())

    def mean(self, name: str) -> Array:
        """The mean over images, (L, H), or (L, H, 3, 3) of a lift; NaN where undefined."""
        return self.tally.mean(self._known(name))

    def interval(self, name: str, of: Callable[[Array], Array] | None = None) -> Array:
        """The 95 % interval of the mean, (2, …), by Poisson bootstrap over images.

        Parameters
        ----------
        of : what is made of the means, (1 + R, L, H, …) to (1 + R, …); the means themselves if
            left out

        Returns
        -------
        NaN where there are fewer than 10 images, or no replicates.
        """
        every = self.tally.replicated(self._known(name))
        every = every if of is None else of(every)
        if self.images < LEAST or len(every) < 2:
            return np.full((2, *every.shape[1:]), np.nan)
        undefined = np.isnan(every[1:]).all(axis=0)
        bounds = np.nanquantile(np.where(undefined, 0.0, every[1:]), [0.025, 0.975], axis=0)
        return np.where(undefined, np.nan, bounds)

    def nulls(self, name: str) -> tuple[str, ...]:
        """Return the nulls that a figure is compared with, in the order of `NULLS`.

        The order of the sums is that in which images came, so it is not used.
        """
        figure = self._known(name)
        return tuple(null for null in NULLS if f"{figure}/{null}" in self.tally.nulls)

    def against(self, name: str, null: str) -> dict[str, Array]:
        """How a figure stands to a null: `expected`, `z`, `p_value`, `significant`, (L, H, …) each.

        `significant` keeps the false discovery rate over all of the figure's heads at 5 %
        (Benjamini and Hochberg, 1995).
        """
        from scipy.stats import false_discovery_control

        if null not in self.nulls(name):
            raise ValueError(
                f"null: expected one of {', '.join(self.nulls(name)) or 'none'} for {name!r}, got "
                f"{null!r}"
            )
        found = self.tally.against(name, null)
        defined = np.isfinite(found["p_value"])
        significant = np.zeros(defined.shape, bool)
        if defined.any():
            significant[defined] = false_discovery_control(found["p_value"][defined]) <= LEVEL
        return found | {"significant": significant}

    def table(self) -> dict[str, list[Any]]:
        """One row a figure, layer and head, as columns: `pandas.DataFrame` takes it as it is.

        Lifts have a row for each pair of strata, `asking` and `asked`. Columns of nulls are None
        for figures that are not held against them.
        """
        rows = [row for name in self.figures for row in self._rows(name)]
        return {column: [row[column] for row in rows] for column in rows[0]}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        mean = self.mean(name)
        low, high = self.interval(name)
        nulls = {null: self.against(name, null) for null in self.nulls(name)}
        used = {key.rpartition("/")[2] for key in self.tally.nulls}
        every = [null for null in NULLS if null in used]
        meaning, rows = MEANING[name], []
        for place in np.ndindex(mean.shape):
            layer, head, *strata = place
            if head >= self.layers[layer][1]:
                continue
            asking, asked = (STRATA[one] for one in strata) if strata else (None, None)
            row = {
                "figure": name, "unit": meaning.unit, "layer": self.layers[layer][0],
                "head": head, "asking": asking, "asked": asked, "mean": number(mean[place]),
                "low": number(low[place]), "high": number(high[place]), "images": self.images,
            }  # fmt: skip
            for null in every:
                found = nulls.get(null)
                for part in ("expected", "z", "p_value", "significant"):
                    row[f"{part}_{null}"] = None if found is None else number(found[part][place])
            rows.append(row)
        return rows

    def _known(self, name: str) -> str:
        if name not in self.tally.sums:
            raise ValueError(choices("figure", name, self.tally.sums))
        return name


def number(value: Any) -> float | bool | None:
    """A number for JSON: None where it is NaN."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return float(value) if np.isfinite(value) else None
