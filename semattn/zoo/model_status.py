"""Support status of timm's ViT-like architectures, from a sweep over all of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any

STATUSES = ("works", "refused", "wrong", "not tried")


@dataclass(frozen=True)
class ModelStatus:
    """Status of one architecture, with its family (timm module) and the reason of a failure.

    `patches` (h, w) and `layers` are from the sweep, at the default input size and with reduced
    depth. `left_out` are modules whose attention is not between patches.
    """

    name: str
    family: str
    status: str
    reason: str = ""
    patches: tuple[int, ...] = ()
    layers: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Number of architectures of each status in one timm module.

    `example` is an architecture that works, "" without one.
    """

    name: str
    counts: Counter[str]
    example: str

    @property
    def total(self) -> int:
        """Number of architectures."""
        return sum(self.counts.values())


def model_statuses() -> dict[str, ModelStatus]:
    """Return all architectures of the sweep, by name.

    Examples
    --------
    >>> model_statuses()["beit_base_patch16_224"].status
    'works'
    """
    return {name: _parse_row(name, row) for name, row in sweep()["models"].items()}


def families(models: dict[str, ModelStatus]) -> list[Family]:
    """Return the families of the models, the largest first."""
    names = Counter(model.family for model in models.values())
    result = []
    for name, _ in sorted(names.items(), key=lambda pair: (-pair[1], pair[0])):
        members = [model for model in models.values() if model.family == name]
        works = [model.name for model in members if model.status == "works"]
        counts = Counter(model.status for model in members)
        result.append(Family(name, counts, min(works, key=len) if works else ""))
    return result


def sweep() -> dict[str, Any]:
    """Return the sweep file: versions, and one row for each model."""
    text = resources.files("semattn").joinpath("zoo/assets/models.json").read_text(encoding="utf-8")
    return json.loads(text)


def _parse_row(name: str, row: dict[str, Any]) -> ModelStatus:
    return ModelStatus(
        name,
        row["family"],
        row["status"],
        row.get("reason", ""),
        tuple(row.get("patches", ())),
        row.get("layers", 0),
        tuple(row.get("left_out", ())),
    )
