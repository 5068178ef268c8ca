"""`semattn models [PATTERN]`."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..registry import choices
from . import options

if TYPE_CHECKING:
    from ..zoo.known import Known

COLOURS = {"works": "green", "refused": "yellow", "wrong": "red", "not tried": "dim"}


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN]",
            help="A family, a part of a name, or a pattern such as 'swin*'. All families if left "
            "out.",
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """List the models that semattn explains, and those that it refuses, with the reason.

    Every ViT-like architecture of timm was tried; models of transformers, torchvision and OpenCLIP
    work by the same means, though they are not listed.
    """
    from ..zoo.known import families, known, sweep

    everything = known()
    console = Console(highlight=False)
    if pattern is None:
        table = Table(
            "family", "models", "work", "refused", "for example", box=None, pad_edge=False
        )
        for one in families(everything):
            refused = one.total - one.counts["works"]
            table.add_row(
                one.name, str(one.total), str(one.counts["works"]), str(refused or "–"),
                one.example or escape(one.reason),
            )  # fmt: skip
        console.print(table)
        works = sum(one.status == "works" for one in everything.values())
        console.print(
            f"{works} of {len(everything)} architectures of timm {sweep()['timm']} work; "
            "semattn models FAMILY lists its names"
        )
        return
    table = Table("model", "", "patches", "", box=None, pad_edge=False)
    for model in _matching(everything, pattern):
        detail = model.reason
        if model.left_out:
            detail = f"without {', '.join(model.left_out)}, which is not attention between patches"
        table.add_row(
            model.name,
            f"[{COLOURS[model.status]}]{model.status}[/]",
            "×".join(map(str, model.patches)),
            escape(detail),
        )
    console.print(table)


def _matching(everything: dict[str, Known], pattern: str) -> list[Known]:
    found = [one for one in everything.values() if one.family == pattern]
    found = found or [one for name, one in everything.items() if pattern in name]
    found = found or [one for name, one in everything.items() if fnmatch.fnmatch(name, pattern)]
    if not found:
        names = [*everything, *(one.family for one in everything.values())]
        nearest = choices("pattern", pattern, names).partition(" choose from ")[0]
        raise ValueError(f"{nearest} semattn models lists the families")
    return found
