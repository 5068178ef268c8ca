"""Which of timm's ViT-like architectures semattn reads, as the sweep over all of them found it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any

STATUSES = ("works", "refused", "wrong", "not tried")


@dataclass(frozen=True)
class Known:
    """One architecture: its family (timm's module), how it fared, and why if it does not work.

    `patches` (h, w) and `layers` are those of the sweep, at the model's own input size and with its
    depth cut; `left_out` are modules whose attention is not between patches.
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
    """The architectures of one of timm's modules: how many there are, and how many of each status.

    `example` is one that works, "" where none does.
    """

    name: str
    counts: Counter[str]
    example: str

    @property
    def total(self) -> int:
        """How many architectures there are."""
        return sum(self.counts.values())


def known() -> dict[str, Known]:
    """Every architecture that the sweep has seen, by name.

    Examples
    --------
    >>> known()["beit_base_patch16_224"].status
    'works'
    """
    return {name: _row(name, row) for name, row in sweep()["models"].items()}


def families(models: dict[str, Known]) -> list[Family]:
    """The families of some models, the largest first."""
    names = Counter(one.family for one in models.values())
    made = []
    for name, _ in sorted(names.items(), key=lambda pair: (-pair[1], pair[0])):
        mine = [one for one in models.values() if one.family == name]
        works = [one.name for one in mine if one.status == "works"]
        counts = Counter(one.status for one in mine)
        made.append(Family(name, counts, min(works, key=len) if works else ""))
    return made


def sweep() -> dict[str, Any]:
    """The sweep's own file: versions, and a row a model."""
    text = resources.files("semattn").joinpath("data/models.json").read_text(encoding="utf-8")
    return json.loads(text)


def _row(name: str, row: dict[str, Any]) -> Known:
    return Known(
        name,
        row["family"],
        row["status"],
        row.get("reason", ""),
        tuple(row.get("patches", ())),
        row.get("layers", 0),
        tuple(row.get("left_out", ())),
    )
