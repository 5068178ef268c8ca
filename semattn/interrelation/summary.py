"""Conversion of an analysis to plain lists and numbers, for JSON and for the report page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ..utils.provenance import model_label
from .estimates import MEANING, Array, Figures, number
from .findings import findings


def summary(analysis: Figures) -> dict[str, Any]:
    """Return the settings, every metric with interval and nulls, and the findings.

    A metric is a list of layers, each a list of the layer's heads. A lift ends in 3 lists of 3:
    strata of the queries, then of the keys, in the order EMPTY, LOW, HIGH. Undefined values are
    None.
    """
    lifts = ("lift", "lift_without_outliers")
    metrics = {name: _summarize_metric(analysis, name) for name in analysis.figures}
    return {
        "images": analysis.images,
        "skipped": [{"name": name, "reason": reason} for name, reason in analysis.skipped],
        "model": model_label(analysis.manifest),
        "density": analysis.manifest["options"]["density"],
        "grid": list(analysis.grid.shape),
        "layers": [{"layer": layer, "heads": heads} for layer, heads in analysis.layers],
        "figures": {name: metric for name, metric in metrics.items() if name not in lifts},
        **{name: metric for name, metric in metrics.items() if name in lifts},
        "findings": [asdict(finding) for finding in findings(analysis)],
        "manifest": analysis.manifest,
    }


def _summarize_metric(analysis: Figures, name: str) -> dict[str, Any]:
    low, high = analysis.interval(name)
    nulls = {}
    for null in analysis.nulls(name):
        test = analysis.against(name, null)
        nulls[null] = {column: _to_lists(analysis, values) for column, values in test.items()}
    return {
        **MEANING[name]._asdict(),
        "mean": _to_lists(analysis, analysis.mean(name)),
        "low": _to_lists(analysis, low),
        "high": _to_lists(analysis, high),
        "nulls": nulls,
    }


def _to_lists(analysis: Figures, values: Array) -> list[Any]:
    """Convert (L, H, …) to lists, without the padding of layers that have fewer heads."""

    def to_list(array: Any) -> Any:
        return [to_list(item) for item in array] if np.ndim(array) else number(array)

    layers = zip(values, analysis.layers, strict=True)
    return [to_list(layer_values[:heads]) for layer_values, (_, heads) in layers]
