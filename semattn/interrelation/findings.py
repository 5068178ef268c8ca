"""Findings of an analysis as sentences, each with its interval and its nulls.

Layers are grouped into fixed thirds of the depth, so that no group is selected by its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .estimates import AnalysisResult, Array

QUERY_STRATUM, KEY_STRATUM = 2, 2  # HIGH, in a lift
NULL_PHRASES = {
    "shifted": "with the keypoints shifted",
    "other": "with another image's keypoints",
    "permuted": "with the patches shuffled",
}


@dataclass(frozen=True)
class Finding:
    """One sentence and the numbers in it.

    Parameters
    ----------
    text : the sentence
    metric : the name of the metric
    layers : the first and the last layer, both included
    value, low, high : mean over heads and images, and its 95 % interval (None: too few images)
    nulls : the mean under each null, by name
    """

    text: str
    metric: str
    layers: tuple[int, int]
    value: float
    low: float | None = None
    high: float | None = None
    nulls: dict[str, float] | None = None


def find_findings(analysis: AnalysisResult) -> list[Finding]:
    """Return the findings of an analysis, from the first layers to the last."""
    results = []
    for first, last in _thirds(len(analysis.layers)):
        results += [build_finding(analysis, first, last) for build_finding in _BUILDERS]
    results += [_removed_finding(analysis, name) for name in ("prefix_mass", "outlier_mass")]
    return [finding for finding in results if finding is not None]


def _thirds(layers: int) -> list[tuple[int, int]]:
    """Return the indices of the first and last layer of each third; later thirds are larger.

    >>> _thirds(12), _thirds(4), _thirds(1)
    ([(0, 3), (4, 7), (8, 11)], [(0, 0), (1, 1), (2, 3)], [(0, 0)])
    """
    edges = [layers * third // 3 for third in range(4)]
    return [(start, stop - 1) for start, stop in pairwise(edges) if stop > start]


def _ratio_finding(
    metric: str, words: str, cell: Callable[[Array], Array] = lambda values: values
) -> Callable[[AnalysisResult, int, int], Finding | None]:
    """Return a builder of findings on a ratio to uniform attention; `words` name its two sides."""

    def build_finding(analysis: AnalysisResult, first: int, last: int) -> Finding | None:
        average = _average(analysis, metric, first, last, cell)
        if average is None:
            return None
        value, interval, nulls = average
        return Finding(
            f"{_layers_text(analysis, first, last)}: {words} is {value:.2f}x"
            f"{_interval_text(interval)} uniform attention; {_null_text(nulls)}.",
            metric, _layer_range(analysis, first, last), value, *interval, nulls,
        )  # fmt: skip

    return build_finding


_dense_finding = _ratio_finding(
    "lift",
    "attention from HIGH to HIGH patches",
    lambda lift: lift[..., QUERY_STRATUM, KEY_STRATUM],
)
_plain_finding = _ratio_finding("alignment_plain", "attention from all patches to dense patches")
_class_finding = _ratio_finding("class_alignment", "attention from class token to dense patches")


def _matched_finding(analysis: AnalysisResult, first: int, last: int) -> Finding | None:
    """Return the finding on alignment at equal distances."""
    average = _average(analysis, "alignment_matched", first, last)
    if average is None:
        return None
    value, interval, _ = average
    return Finding(
        f"{_layers_text(analysis, first, last)}: attention between dense patches is {value:.2f}x"
        f"{_interval_text(interval)} the average at the same distances (1.00x: explained by "
        "distance alone).",
        "alignment_matched", _layer_range(analysis, first, last), value, *interval,
        {"nearness": 1.0},
    )  # fmt: skip


def _heads_finding(analysis: AnalysisResult, first: int, last: int) -> Finding | None:
    """Return the finding on the number of heads that differ from each null."""
    in_range = slice(first, last + 1)
    heads = int(np.isfinite(analysis.mean("alignment")[in_range]).sum())
    above, below = {}, {}
    for null in analysis.nulls("alignment"):
        test = analysis.against("alignment", null)
        significant = test["significant"][in_range].astype(bool)
        above[null] = int((significant & (test["z"][in_range] > 0)).sum())
        below[null] = int((significant & (test["z"][in_range] < 0)).sum())
    if not heads or not above:
        return None

    def describe(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} than {NULL_PHRASES[null]}" for null, count in counts.items())

    return Finding(
        f"{_layers_text(analysis, first, last)}: of {heads} heads, attention between dense patches "
        f"is higher in {describe(above)}, and lower in {describe(below)} "
        "(false discovery rate 5 %).",
        "alignment", _layer_range(analysis, first, last), float(heads),
    )  # fmt: skip


def _distance_finding(analysis: AnalysisResult, first: int, last: int) -> Finding | None:
    """Return the finding on the attention distance."""
    average = _average(analysis, "distance", first, last)
    if average is None:
        return None
    value, interval, _ = average
    uniform = _mean_distance(analysis)
    return Finding(
        f"{_layers_text(analysis, first, last)}: the mean attention distance is "
        f"{value:.0f}{_interval_text(interval, 0)} pixels; uniform attention over the image would "
        f"give {uniform:.0f}.",
        "distance", _layer_range(analysis, first, last), value, *interval, {"even": uniform},
    )  # fmt: skip


def _removed_finding(analysis: AnalysisResult, name: str) -> Finding | None:
    """Return the finding on attention to prefix tokens or outlier tokens."""
    average = _average(analysis, name, 0, len(analysis.layers) - 1)
    if average is None:
        return None
    value, interval, _ = average
    tokens = "prefix tokens (class token, registers)" if name == "prefix_mass" else (
        "register-like outlier tokens"
    )  # fmt: skip
    low, high = interval
    span = "" if low is None or high is None else f" [{low:.2%}, {high:.2%}]"
    remark = (
        "which the analysis leaves out"
        if name == "prefix_mass"
        else "without which lift and alignment are also reported"
    )
    return Finding(
        f"All layers: {value:.2%}{span} of the attention of patches goes to {tokens}, {remark}.",
        name, _layer_range(analysis, 0, len(analysis.layers) - 1), value, low, high,
    )  # fmt: skip


_BUILDERS = (
    _dense_finding,
    _plain_finding,
    _matched_finding,
    _heads_finding,
    _class_finding,
    _distance_finding,
)

Interval = tuple[float | None, float | None]


def _average(
    analysis: AnalysisResult,
    name: str,
    first: int,
    last: int,
    cell: Callable[[Array], Array] = lambda values: values,
) -> tuple[float, Interval, dict[str, float]] | None:
    """Return the mean over heads of some layers, its interval and null means; None: undefined."""

    def over_heads(values: Array) -> Array:
        """Average values (…, L, H) over the selected layers and heads, (…)."""
        in_range = values[..., first : last + 1, :]
        count = np.isfinite(in_range).sum(axis=(-2, -1))
        return np.nansum(in_range, axis=(-2, -1)) / np.where(count, count, np.nan)

    value = float(over_heads(cell(analysis.mean(name))))
    if not np.isfinite(value):
        return None
    low, high = (
        float(bound) if np.isfinite(bound) else None
        for bound in analysis.interval(name, lambda means: over_heads(cell(means)))
    )
    nulls = {
        null: float(over_heads(cell(analysis.against(name, null)["expected"])))
        for null in analysis.nulls(name)
    }
    return value, (low, high), nulls


def _mean_distance(analysis: AnalysisResult) -> float:
    """Return the mean distance between all pairs of patches in pixels."""
    (h, w), (height, width) = analysis.grid.shape, analysis.grid.cell
    down = np.abs(np.subtract.outer(np.arange(h), np.arange(h))) * height
    across = np.abs(np.subtract.outer(np.arange(w), np.arange(w))) * width
    return float(np.hypot(down[:, :, None, None], across[None, None]).mean())


def _layer_range(analysis: AnalysisResult, first: int, last: int) -> tuple[int, int]:
    return analysis.layers[first][0], analysis.layers[last][0]


def _layers_text(analysis: AnalysisResult, first: int, last: int) -> str:
    low, high = _layer_range(analysis, first, last)
    return f"Layer {low}" if low == high else f"Layers {low} to {high}"


def _interval_text(interval: Interval, places: int = 2) -> str:
    low, high = interval
    if low is None or high is None:
        return ""
    return f" [{low:.{places}f}, {high:.{places}f}]"


def _null_text(nulls: dict[str, float]) -> str:
    """Return the mean under each null as a phrase."""
    return ", ".join(
        f"{value:.2f}x {NULL_PHRASES.get(name, name)}" for name, value in nulls.items()
    )
