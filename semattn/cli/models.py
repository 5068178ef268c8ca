"""`semattn models [PATTERN|MODEL]`."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..utils.registry import unknown_name_message
from . import options
from .json_output import Content, json_output
from .model_options import EMBEDDED, ModelOptions, model_options
from .printing import busy, collected_warnings, print_model, print_notes, verbatim
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from ..attention.model_summary import ModelSummary
    from ..images import Preprocessing
    from ..zoo.model_status import ModelStatus

SHOWN_CLASSES = 5
COLOURS = {"works": "green", "refused": "yellow", "wrong": "red", "not tried": "dim"}


@json_output
@model_options
def models(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN|MODEL",
            help="A family, part of a model name, or a pattern such as 'swin*'; by default, all "
            "families. Or a model as for --model of the other commands: it is loaded and checked.",
        ),
    ] = None,
    chosen_model: ModelOptions = EMBEDDED,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """List the models that semattn supports, or check one model.

    The list contains every ViT-like architecture of timm, with the reason if it is refused.
    A model of another library, a folder or a file is loaded, and so is a name of timm after
    [bold]timm:[/], or with [bold]--random-weights[/] or [bold]--checkpoint[/]. The command
    then prints how the model is read: its input, its output, the layout of its tokens, the
    layers, the tokens that the output is read from, and what is left out.
    """
    from ..zoo.model_status import model_statuses, sweep

    is_configured = chosen_model.random_weights or chosen_model.checkpoint or chosen_model.labels
    if model is not None and (_is_specification(model) or is_configured):
        return _check(replace(chosen_model, model=model))
    pattern = model
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


def _is_specification(text: str) -> bool:
    """Return whether a text is a model of `semattn.load` and not a pattern of names of timm."""
    return ":" in text or text.endswith(".py") or Path(text).is_dir()


def _check(chosen_model: ModelOptions) -> Content:
    """Load a model and print how it is read."""
    import torch

    from ..attention.model_call import model_device
    from ..attention.model_summary import summarize_model
    from ..images import Preprocessing

    loading = "loading the model (its weights are downloaded at the first use)"
    with busy(loading) as say, collected_warnings() as notes:
        network = chosen_model.load()
        preprocessing = Preprocessing.of(network)
        say("reading the model")
        generator = torch.Generator(device="cpu").manual_seed(0)
        shape = (1, len(preprocessing.mean), *preprocessing.size)
        inputs = torch.randn(shape, generator=generator, device="cpu")
        parameter = next(network.parameters(), inputs)
        summary = summarize_model(
            network, inputs.to(device=model_device(network), dtype=parameter.dtype)
        )
    print_model(network)
    console = open_console()
    table = new_table(2, header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _summary_rows(summary, preprocessing):
        table.add_row(name, verbatim(text))
    print_table(console, table)
    print_notes(console, [*summary.notes, *notes])
    console.print("[green]works[/]")
    return summary.content() | {
        "model": getattr(network, "specification", None),
        "preprocessing": asdict(preprocessing),
        "notes": [*summary.notes, *notes],
    }


def _summary_rows(summary: ModelSummary, preprocessing: Preprocessing) -> list[tuple[str, str]]:
    """Return the lines of the summary: a name and a text each."""
    grid, kinds = summary.grid, Counter(module for _, module, _ in summary.layers)
    height, width = preprocessing.size
    cell = " × ".join(f"{side:g}" for side in grid.cell)
    order = "in order" if summary.in_order else "in windows or on several grids"
    names = "no class names"
    if summary.classes:
        more = ", …" if len(summary.classes) > SHOWN_CLASSES else ""
        names = f"classes: {'; '.join(summary.classes[:SHOWN_CLASSES])}{more}"
    read = [f"prefix token {i}: {share:.0%}" for i, share in enumerate(summary.readout[:-1])]
    texts = {
        "input": f"{len(preprocessing.mean)} × {height} × {width} pixels, crop mode "
        f"{preprocessing.crop_mode}, {preprocessing.interpolation}",
        "output": f"{summary.output_kind}, {summary.n_outputs}; {names}",
        "tokens": f"{grid.shape[0]} × {grid.shape[1]} patches of {cell} pixels, "
        f"{grid.prefix} prefix tokens, {order}",
        "layers": ", ".join(f"{number} {module}" for module, number in kinds.items()),
        "read from": ", ".join([*read, f"patches: {summary.readout[-1]:.0%}"]),
    }
    return list(texts.items())


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
