"""An analysis as the page shows it, once it is sure to hold what the page reads."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ShapeError


def about_analysis(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of an analysis, with anything that is no number as null.

    Raises
    ------
    ShapeError
        Where a table does not have a row a layer and an entry a head.
    """
    if not isinstance(summary, dict) or not {"layers", "figures", "lift"} <= summary.keys():
        raise ShapeError(
            "analysis: expected a summary with layers, figures and lift — "
            "pass what semattn.interrelation.analyze returned"
        )
    heads = [layer["heads"] for layer in summary["layers"]]
    for name, table in {**summary["figures"], "lift": summary["lift"]}.items():
        for part, values in _tables(table):
            counted = None if values is None else [len(row) for row in values]
            if counted is not None and counted != heads:
                raise ShapeError(
                    f"analysis: expected {heads} heads in {name}.{part}, got {counted} — "
                    "one row a layer, one entry a head"
                )
    return clean(summary)


def _tables(table: dict[str, Any]) -> list[tuple[str, Any]]:
    found = [(name, table.get(name)) for name in ("mean", "low", "high")]
    for null, parts in table.get("nulls", {}).items():
        found += [(f"{null}.{name}", values) for name, values in parts.items()]
    return found


def clean(value: Any) -> Any:
    """Plain lists and numbers; NaN and infinity, which JSON has not, as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): clean(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
