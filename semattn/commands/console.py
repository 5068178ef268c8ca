"""What a command says to a person: what it is doing, what came out, where the files are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..errors import NoKeypointWarning, plain
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from ..comparison import Comparison
    from ..evaluation import Results, Table
    from ..explain import Explanation
    from ..interrelation import Analysis
    from ..steps import Steps

MOST_SKIPPED = 10  # that are listed one by one


def verbatim(text: str) -> str:
    r"""A text as the console shows it: no markup of rich's, nothing that moves the cursor.

    Examples
    --------
    >>> print(verbatim("[red]cat[/]\x1b[2J"))
    \[red]cat\[/]\x1b[2J
    """
    return escape(plain(text))


@contextmanager
def busy(first: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal that says what is going on; nothing where nobody looks."""
    with open_console(error=True).status(f"{first} …", spinner="dots") as status:
        yield lambda text: status.update(f"{text} …")


class _Speed(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        return Text("" if not task.speed else f"{task.speed:.1f}/s")


def _unseen(*_: object) -> None:
    """Nobody looks: no terminal. Even a disabled bar of rich < 14.3 leaves an empty line."""


@contextmanager
def bar() -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal, with images a second and the time that is left."""
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("images"),
        _Speed(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = open_console(error=True)
    if not console.is_terminal:
        yield _unseen
        return
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal for one thing after another, each with the time that is left."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = open_console(error=True)
    if not console.is_terminal:
        yield _unseen
        return
    # A step may take a minute: the speed is that of the last hour, not of the last half minute.
    with Progress(*columns, console=console, transient=True, speed_estimate_period=3600) as shown:
        tasks: dict[str, Any] = {}

        def say(what: str, done: int, total: int) -> None:
            for other, task in tasks.items():
                if other != what:
                    shown.update(task, visible=False)
            if what not in tasks:
                tasks[what] = shown.add_task(verbatim(what), total=total)
            shown.update(tasks[what], completed=done, total=total, visible=True)

        yield say


@contextmanager
def told() -> Iterator[list[str]]:
    """Collect what the library warns of, to be said once, in plain words, after the result."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        for kind in (UserWarning, RuntimeWarning):
            warnings.filterwarnings("always", category=kind, module=r"semattn\.")
        warnings.simplefilter("ignore", NoKeypointWarning)  # the explanation's own notes say it
        yield notes
    notes += dict.fromkeys(" ".join(str(one.message).split()) for one in caught)


def report_explanation(
    made: Explanation, predictions: list[dict[str, Any]], files: dict[str, Path], notes: list[str]
) -> None:
    """A short table on standard output: the prediction, what was explained, where the files are."""
    console = open_console()
    _prediction(console, made, predictions)
    closing(console, [*made.notes, *notes], made.explains, files)


def report_comparison(
    compared: Comparison,
    predictions: list[dict[str, Any]],
    files: dict[str, Path],
    notes: list[str],
) -> None:
    """The prediction, then a row a method: what it cost, and how much it minds the target."""
    console = open_console()
    first = compared.explanation
    _prediction(console, first, predictions)
    table = new_table(3)
    table.add_column("method", style="bold", no_wrap=True)
    for title in ("seconds", "MiB", "sensitivity"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in compared.rows:
        if row.refusal:
            table.add_row(row.method, "", "", "[yellow]refused[/]")
            continue
        table.add_row(
            row.method,
            _number(row.seconds, ".2f"),
            _number(row.peak_mib, ".0f"),
            _number(row.sensitivity, ".2f"),
        )
    console.print()
    print_table(console, table)
    console.print()
    if compared.other is not None:
        console.print(
            "sensitivity: how much of the map moves when "
            f"[bold]{verbatim(first.label(compared.other))}[/] is explained instead, "
            "from 0 (nothing) to 1 (all of it)",
            soft_wrap=True,
        )
    for reason, names in _by_reason(compared).items():
        console.print(f"[yellow]refused:[/] {', '.join(names)}: {verbatim(reason)}", soft_wrap=True)
    closing(console, [*compared.notes, *notes], first.explains, files)


def report_steps(made: Steps, files: dict[str, Path], notes: list[str], top: int) -> None:
    """The share of each class at each strength, where the prediction flips, where the files are."""
    console = open_console()
    first, predicted = made.explanation, made.predicted
    table = new_table(3)
    table.add_column("strength", style="bold")
    for strength in made.strengths:
        table.add_column(f"{strength:g}", justify="right", no_wrap=True)
    for number in made.leading(top):
        shares = [share.replace(" %", "%") for share in made.share_texts(number)]
        table.add_row(
            verbatim(first.answer_label(number)),
            *(
                f"[bold]{share}[/]" if best == number else share
                for share, best in zip(shares, predicted, strict=True)
            ),
        )
    print_table(console, table)
    console.print(f"\nattention is led {verbatim(made.prompt)}", soft_wrap=True)
    for strength, before, after in made.flips():
        console.print(
            f"from strength {strength:g} on: [bold]{verbatim(first.answer_label(after))}[/] "
            f"in place of {verbatim(first.answer_label(before))}",
            soft_wrap=True,
        )
    if not made.flips():
        console.print("the prediction does not change", soft_wrap=True)
    closing(console, [*first.notes, *notes], "", files)


def report_analysis(found: Analysis, files: dict[str, Path], notes: list[str]) -> None:
    """The figures by layer, what they say, what was skipped and why, where the files are."""
    import numpy as np

    console = open_console()
    table = new_table(3)
    table.add_column("layer", justify="right", style="bold")
    shown = {
        "HIGH→HIGH": found.mean("lift")[..., 2, 2],
        "alignment": found.mean("alignment"),
        "same distances": found.mean("alignment_matched"),
        "class token": found.mean("class_alignment"),
        "distance": found.mean("distance"),
    }
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for place, (layer, heads) in enumerate(found.layers):
        means = [values[place, :heads].mean() for values in shown.values()]
        forms = [".2f"] * 4 + [".0f"]
        cells = [
            _number(None if np.isnan(mean) else float(mean), form)
            for mean, form in zip(means, forms, strict=True)
        ]
        table.add_row(str(layer), *cells)
    print_table(console, table)
    console.print(
        "[dim]means over heads, × uniform attention; distance in pixels[/]\n", soft_wrap=True
    )
    for finding in found.findings():
        console.print(f"· {verbatim(finding.text)}", soft_wrap=True)
    if found.skipped:
        console.print(f"\n[yellow]skipped:[/] {len(found.skipped)}", soft_wrap=True)
        for one in found.skipped[:MOST_SKIPPED]:
            console.print(f"  {verbatim(one.name)}: {verbatim(one.reason)}", soft_wrap=True)
        if len(found.skipped) > MOST_SKIPPED:
            console.print("  … the others are in the result", soft_wrap=True)
    closing(console, notes, "", files)


def report_benchmark(
    found: Results, made: Table, titles: dict[str, str], files: dict[str, Path], notes: list[str]
) -> None:
    """A row a method: the mean of each metric, and what a map costs."""
    console = open_console()
    table = new_table(2)
    table.add_column("method", style="bold", no_wrap=True)
    for title in (*titles.values(), "seconds"):
        table.add_column(title, justify="right", min_width=6)
    for name in made.methods:
        means = [_number(made.estimates[name, metric].mean, ".3f") for metric in made.metrics]
        shown = f"[dim]{verbatim(name)}[/]" if name in made.controls else verbatim(name)
        table.add_row(shown, *means, _number(made.seconds[name], ".3f"))
    print_table(console, table)
    known = [one for one in found.right if one is not None]
    said = f", the model is right on {sum(known)}" if known else ""
    console.print(f"[dim]{len(found.names)} images{said}; intervals are in the files[/]")
    for name, why in found.refused.items():
        console.print(f"[yellow]refused:[/] {verbatim(name)}: {verbatim(why)}", soft_wrap=True)
    for image, why in found.skipped[:MOST_SKIPPED]:
        console.print(f"[yellow]skipped:[/] {verbatim(image)}: {verbatim(why)}", soft_wrap=True)
    closing(console, notes, "", files)


def _prediction(console: Console, made: Explanation, predictions: list[dict[str, Any]]) -> None:
    """The likeliest classes, the explained one marked; else what was explained."""
    target = made.target_answer(0)
    table = new_table(2, header=False)
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column()
    for one in predictions:
        chosen = one["class"] == target
        name = verbatim(one["name"])
        share = made.share_text(0, one["class"]).replace(" %", "%")
        table.add_row(share, f"[bold]{name}[/]  ← explained" if chosen else name)
    if predictions:
        print_table(console, table)
    if target is None:
        said = made.explains or "the model's own feature direction"
        console.print(f"explained: {verbatim(said)}", soft_wrap=True)
    elif all(one["class"] != target for one in predictions):
        label = made.answer_label(target)
        console.print(f"explained: [bold]{verbatim(label)}[/], not among those above")


def closing(console: Console, notes: list[str], explains: str, files: dict[str, Path]) -> None:
    """Each note once, but for that which says what was explained, and where the files are."""
    print_notes(console, [note for note in notes if not (explains and explains in note)])
    names = ", ".join(verbatim(path.name) for path in files.values())
    folder = next(iter(files.values())).parent
    console.print(f"in [bold]{verbatim(str(folder))}[/]: {names}", soft_wrap=True)


def print_notes(console: Console, notes: list[str]) -> None:
    """Print each note once."""
    for note in dict.fromkeys(notes):
        console.print(f"[yellow]note:[/] {verbatim(note)}", soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _by_reason(compared: Comparison) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in compared.rows:
        if row.refusal:
            found.setdefault(row.refusal, []).append(row.method)
    return found
