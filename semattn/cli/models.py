"""`semattn models [PATTERN]`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..utils.registry import unknown_name_message
from . import options
from .json_output import Content, json_output
from .printing import verbatim
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from ..zoo.model_status import ModelStatus

COLOURS = {"works": "green", "refused": "yellow", "wrong": "red", "not tried": "dim"}


@json_output
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN",
            help="A family, part of a model name, or a pattern such as 'swin*'; by default, all "
            "families.",
        ),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """List the models that semattn supports and those that it refuses, with the reason.

    The list contains every ViT-like architecture of timm. Models of transformers,
    torchvision and OpenCLIP are supported in the same way, but they are not listed.
    """
    from ..zoo.model_status import model_statuses, sweep

    entries = model_statuses()
    console = open_console()
    if pattern is None:
        print_table(console, _families(entries))
        works = sum(entry.status == "works" for entry in entries.values())
        console.print(
            f"\n[bold]{works}[/] of {len(entries)} architectures of timm {sweep()['timm']} "
            "work; [bold]semattn models FAMILY[/] lists the models of a family, with reasons",
            soft_wrap=True,
        )
        return _content(entries.values())
    matches = _matching(entries, pattern)
    print_table(console, _names(matches))
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in matches:
        if remark := _remark(entry):
            reasons.setdefault((entry.status, remark), []).append(entry.name)
    for (status, remark), names in reasons.items():
        affected = "all of them" if len(names) == len(matches) > 1 else ", ".join(names)
        console.print(
            f"\n[{COLOURS[status]}]{status}:[/] {affected}\n  {verbatim(remark)}", soft_wrap=True
        )
    return _content(matches)


def _content(entries: Iterable[ModelStatus]) -> Content:
    """Return the models ready for JSON, and the version of timm that they were tested with."""
    from ..zoo.model_status import sweep

    return {"timm": sweep()["timm"], "models": [asdict(model) for model in entries]}


def _families(entries: dict[str, ModelStatus]) -> Table:
    """Return a table with one row per family and a column for each status that occurs."""
    from ..zoo.model_status import STATUSES, families

    rows = families(entries)
    statuses = [status for status in STATUSES if any(row.counts[status] for row in rows)]
    table = _table("family")
    for title in ("models", *statuses):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("for example")
    for row in rows:
        counts = [
            f"[{COLOURS[status]}]{row.counts[status]}[/]" if row.counts[status] else "[dim]–[/]"
            for status in statuses
        ]
        table.add_row(row.name, str(row.total), *counts, row.example or "[dim]–[/]")
    return table


def _names(matches: list[ModelStatus]) -> Table:
    """Return a table with one row per model: its patch grid and its status."""
    table = _table("model")
    table.add_column("patches", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for entry in matches:
        patches = "×".join(map(str, entry.patches)) or "[dim]–[/]"
        table.add_row(entry.name, patches, f"[{COLOURS[entry.status]}]{entry.status}[/]")
    return table


def _table(first: str) -> Table:
    table = new_table(2)
    table.add_column(first, style="bold", no_wrap=True)
    return table


def _remark(entry: ModelStatus) -> str:
    """Return why a model does not work, or which attention its map leaves out."""
    if entry.left_out:
        kinds = ", ".join(entry.left_out)
        return f"the map is without {kinds}, which is not attention between patches"
    return entry.reason


def _matching(entries: dict[str, ModelStatus], pattern: str) -> list[ModelStatus]:
    lowered = pattern.casefold()
    matches = [entry for entry in entries.values() if entry.family == lowered]
    matches = matches or [entry for name, entry in entries.items() if lowered in name]
    matches = matches or [
        entry for name, entry in entries.items() if fnmatch.fnmatch(name, lowered)
    ]
    if not matches:
        families = {entry.family for entry in entries.values()}
        names = [*entries, *families, *(name.split("_")[0] for name in entries)]
        message = unknown_name_message("pattern", pattern, names).partition(" choose from ")[0]
        raise ValueError(f"{message} semattn models lists the families")
    return matches
