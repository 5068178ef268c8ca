"""Content of the page about an analysis, with a check of its tables."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ShapeError


def about_analysis(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of an analysis, with NaN and infinity as None.

    Raises
    ------
    ShapeError
        If a table does not have one row per layer and one entry per head.
    """
    if not isinstance(summary, dict) or not {"layers", "figures", "lift"} <= summary.keys():
        raise ShapeError(
            "analysis: expected a summary with layers, figures and lift — "
            "pass a result of semattn.interrelation.analyze"
        )
    heads = [layer["heads"] for layer in summary["layers"]]
    for name, table in {**summary["figures"], "lift": summary["lift"]}.items():
        for part, values in _tables(table):
            counted = None if values is None else [len(row) for row in values]
            if counted is not None and counted != heads:
                raise ShapeError(
                    f"analysis: expected {heads} heads in {name}.{part}, got {counted} — "
                    "one row per layer, one entry per head"
                )
    return clean(summary)


def _tables(table: dict[str, Any]) -> list[tuple[str, Any]]:
    tables = [(name, table.get(name)) for name in ("mean", "low", "high")]
    for null, parts in table.get("nulls", {}).items():
        tables += [(f"{null}.{name}", values) for name, values in parts.items()]
    return tables


def clean(value: Any) -> Any:
    """Return plain lists and numbers; NaN and infinity, which JSON lacks, become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): clean(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [clean(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
