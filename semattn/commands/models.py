"""`semattn models [PATTERN]`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..registry import choices
from . import options
from .console import verbatim
from .json_output import Content, json_output
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from ..zoo.known import Known

COLOURS = {"works": "green", "refused": "yellow", "wrong": "red", "not tried": "dim"}


@json_output
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN",
            help="A family, a part of a name, or a pattern such as 'swin*'. All families if left "
            "out.",
        ),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """List the models that semattn explains, and those that it refuses, with the reason.

    Every ViT-like architecture of timm was tried; models of transformers,
    torchvision and OpenCLIP work by the same means, though they are not listed.
    """
    from ..zoo.known import known, sweep

    everything = known()
    console = open_console()
    if pattern is None:
        print_table(console, _families(everything))
        works = sum(one.status == "works" for one in everything.values())
        console.print(
            f"\n[bold]{works}[/] of {len(everything)} architectures of timm {sweep()['timm']} "
            "work; [bold]semattn models FAMILY[/] lists those of a family, with reasons",
            soft_wrap=True,
        )
        return _content(everything.values())
    found = _matching(everything, pattern)
    print_table(console, _names(found))
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if said := _remark(one):
            reasons.setdefault((one.status, said), []).append(one.name)
    for (status, said), names in reasons.items():
        of = "all of them" if len(names) == len(found) > 1 else ", ".join(names)
        console.print(f"\n[{COLOURS[status]}]{status}:[/] {of}\n  {verbatim(said)}", soft_wrap=True)
    return _content(found)


def _content(shown: Iterable[Known]) -> Content:
    """Return the models ready for JSON, and the version of timm that they were tried with."""
    from ..zoo.known import sweep

    return {"timm": sweep()["timm"], "models": [asdict(model) for model in shown]}


def _families(everything: dict[str, Known]) -> Table:
    """A row a family, with a column for each status that any model has."""
    from ..zoo.known import STATUSES, families

    rows = families(everything)
    shown = [status for status in STATUSES if any(one.counts[status] for one in rows)]
    table = _table("family")
    for title in ("models", *shown):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("for example")
    for one in rows:
        counts = [
            f"[{COLOURS[status]}]{one.counts[status]}[/]" if one.counts[status] else "[dim]–[/]"
            for status in shown
        ]
        table.add_row(one.name, str(one.total), *counts, one.example or "[dim]–[/]")
    return table


def _names(found: list[Known]) -> Table:
    """A row a model: how it fared, and on what grid of patches."""
    table = _table("model")
    table.add_column("patches", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in found:
        patches = "×".join(map(str, one.patches)) or "[dim]–[/]"
        table.add_row(one.name, patches, f"[{COLOURS[one.status]}]{one.status}[/]")
    return table


def _table(first: str) -> Table:
    table = new_table(2)
    table.add_column(first, style="bold", no_wrap=True)
    return table


def _remark(model: Known) -> str:
    """Why it does not work, or what of it is not in the map."""
    if model.left_out:
        kinds = ", ".join(model.left_out)
        return f"the map is without {kinds}, which is not attention between patches"
    return model.reason


def _matching(everything: dict[str, Known], pattern: str) -> list[Known]:
    wanted = pattern.casefold()
    found = [one for one in everything.values() if one.family == wanted]
    found = found or [one for name, one in everything.items() if wanted in name]
    found = found or [one for name, one in everything.items() if fnmatch.fnmatch(name, wanted)]
    if not found:
        families = {one.family for one in everything.values()}
        names = [*everything, *families, *(name.split("_")[0] for name in everything)]
        nearest = choices("pattern", pattern, names).partition(" choose from ")[0]
        raise ValueError(f"{nearest} semattn models lists the families")
    return found
