"""An analysis as plain lists and numbers, for JSON and for a page that draws it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from ..manifest import model_label
from .figures import MEANING, Array, Figures, number
from .findings import findings


def summary(found: Figures) -> dict[str, Any]:
    """What was analysed, every figure with interval and nulls, and what they say.

    Figures are lists of layers of lists of heads, as many as the layer has; lifts end in 3 lists of
    3, who asks before who is asked, each EMPTY, LOW, HIGH. None where a figure is undefined.
    """
    lifts = ("lift", "lift_without_outliers")
    return {
        "images": found.images,
        "skipped": [{"name": one.name, "reason": one.reason} for one in found.skipped],
        "model": model_label(found.manifest),
        "density": found.manifest["options"]["density"],
        "grid": list(found.grid.shape),
        "layers": [{"layer": layer, "heads": heads} for layer, heads in found.layers],
        "figures": {name: _figure(found, name) for name in found.figures if name not in lifts},
        **{name: _figure(found, name) for name in found.figures if name in lifts},
        "findings": [asdict(one) for one in findings(found)],
        "manifest": found.manifest,
    }


def _figure(found: Figures, name: str) -> dict[str, Any]:
    low, high = found.interval(name)
    nulls = {}
    for null in found.nulls(name):
        test = found.against(name, null)
        nulls[null] = {part: _listed(found, values) for part, values in test.items()}
    return {
        **MEANING[name]._asdict(),
        "mean": _listed(found, found.mean(name)),
        "low": _listed(found, low),
        "high": _listed(found, high),
        "nulls": nulls,
    }


def _listed(found: Figures, values: Array) -> list[Any]:
    """(L, H, …) as lists, without the places of heads that a layer does not have."""

    def plain(one: Any) -> Any:
        return [plain(inner) for inner in one] if np.ndim(one) else number(one)

    return [plain(layer[:heads]) for layer, (_, heads) in zip(values, found.layers, strict=True)]
