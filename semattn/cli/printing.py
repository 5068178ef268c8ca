"""Console output of the commands: progress, results, notes and result files."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as ProgressBar,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..errors import NoKeypointWarning, plain
from ..utils.processes import Progress, ignore_progress
from .terminal import VERBOSITY, new_table, open_console, print_table

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from ..data.loading import Skipped
    from ..evaluation import Results, Table
    from ..explain import Explanation
    from ..explain.comparison import Comparison
    from ..interrelation import Analysis
    from ..prompting.strength_sweep import StrengthSweep


SECONDS_OF_PROGRESS = 10  # between lines of progress, with -v and without a terminal
MPS_FALLBACK = r"The operator .* fall back to run on the CPU"
MAX_SKIPPED = 10  # skipped files that are listed


def verbatim(text: str) -> str:
    r"""Return a text without rich markup and without control characters.

    Examples
    --------
    >>> print(verbatim("[red]cat[/]\x1b[2J"))
    \[red]cat\[/]\x1b[2J
    """
    return escape(plain(text))


@contextmanager
def busy(initial_text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with a status text on a terminal; show nothing elsewhere.

    Yields a function that replaces the status text. With `-v`, the seconds of each stage are
    printed when it ends.
    """
    console = open_console(error=True)
    stage, began = initial_text, time.monotonic()

    def say(text: str) -> None:
        nonlocal stage, began
        if VERBOSITY.get() > 0:
            console.print(f"[dim]{stage}: {time.monotonic() - began:.1f} s[/]", soft_wrap=True)
        stage, began = text, time.monotonic()
        status.update(f"{text} …")

    with console.status(f"{initial_text} …", spinner="dots") as status:
        yield say
        say("")


def _progress_without_terminal(console: Console) -> Progress:
    """Return a function that prints progress as lines with `-v`, else one that ignores it."""
    if VERBOSITY.get() <= 0:
        return ignore_progress  # a disabled bar of rich < 14.3 prints an empty line
    printed = time.monotonic()

    def print_progress(stage: str, done: int, total: int | None) -> None:
        nonlocal printed
        if done == total or time.monotonic() - printed >= SECONDS_OF_PROGRESS:
            printed = time.monotonic()
            of_total = "" if total is None else f" of {total}"
            console.print(f"[dim]{verbatim(stage)}: {done}{of_total}[/]", soft_wrap=True)

    return print_progress


class _Speed(ProgressColumn):
    """Progress column with the speed in images per second."""

    def render(self, task: Task) -> Text:
        """Return the speed, or an empty text while it is unknown."""
        return Text("" if not task.speed else f"{task.speed:.1f}/s")


@contextmanager
def bar() -> Iterator[Progress]:
    """Show a progress bar on a terminal, with images per second and the remaining time."""
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
        yield _progress_without_terminal(console)
        return
    with ProgressBar(*columns, console=console, transient=True) as progress_bar:
        task = progress_bar.add_task("", total=None)
        yield lambda _, done, total: progress_bar.update(task, completed=done, total=total)


@contextmanager
def progress_phases() -> Iterator[Progress]:
    """Show a progress bar on a terminal for consecutive phases, with the remaining time of each."""
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
        yield _progress_without_terminal(console)
        return
    # A step may take a minute: the speed is that of the last hour, not of the last half minute.
    with ProgressBar(
        *columns, console=console, transient=True, speed_estimate_period=3600
    ) as progress_bar:
        tasks: dict[str, Any] = {}

        def show_phase(stage: str, done: int, total: int | None) -> None:
            for name, task in tasks.items():
                if name != stage:
                    progress_bar.update(task, visible=False)
            if stage not in tasks:
                tasks[stage] = progress_bar.add_task(verbatim(stage), total=total)
            progress_bar.update(tasks[stage], completed=done, total=total, visible=True)

        yield show_phase


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the library; each is printed once, after the result."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        for category in (UserWarning, RuntimeWarning):
            warnings.filterwarnings("always", category=category, module=r"semattn\.")
        # PyTorch's warning about an operator that MPS lacks names the operator.
        warnings.filterwarnings("always", message=MPS_FALLBACK, category=UserWarning)
        warnings.simplefilter(
            "ignore", NoKeypointWarning
        )  # the notes of the explanation contain it
        yield notes
    notes += dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)


def print_model(network: nn.Module) -> None:
    """Print which model is used, on which device and in which precision."""
    from ..attention.model_call import model_device
    from ..utils.devices import device_name
    from ..utils.provenance import SPECIFICATION

    name = getattr(network, SPECIFICATION, None) or type(network).__name__
    parameter = next(network.parameters(), None)
    precision = "" if parameter is None else f", {str(parameter.dtype).removeprefix('torch.')}"
    open_console().print(
        f"[dim]{verbatim(str(name))} on {device_name(model_device(network))}{precision}[/]",
        soft_wrap=True,
    )


def report_explanation(
    explanation: Explanation,
    predictions: list[dict[str, Any]],
    files: dict[str, Path],
    notes: list[str],
) -> None:
    """Print the prediction, the explained class, notes and result files."""
    console = open_console()
    _prediction(console, explanation, predictions)
    print_files(console, [*explanation.notes, *notes], explanation.target_description, files)


def report_comparison(
    compared: Comparison,
    predictions: list[dict[str, Any]],
    files: dict[str, Path],
    notes: list[str],
) -> None:
    """Print the prediction and one row per method: time, memory, sensitivity to the target."""
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
            "sensitivity: share of the map that moves when "
            f"[bold]{verbatim(first.label(compared.other))}[/] is explained instead, "
            "from 0 (none) to 1 (all)",
            soft_wrap=True,
        )
    for reason, names in _by_reason(compared).items():
        console.print(f"[yellow]refused:[/] {', '.join(names)}: {verbatim(reason)}", soft_wrap=True)
    print_files(console, [*compared.notes, *notes], first.target_description, files)


def report_strength_sweep(
    sweep: StrengthSweep, files: dict[str, Path], notes: list[str], top: int
) -> None:
    """Print the probability of each class at each strength, prediction changes, result files."""
    console = open_console()
    first, predicted = sweep.explanation, sweep.predicted
    table = new_table(3)
    table.add_column("strength", style="bold")
    for strength in sweep.strengths:
        table.add_column(f"{strength:g}", justify="right", no_wrap=True)
    for class_index in sweep.leading(top):
        shares = [share.replace(" %", "%") for share in sweep.share_texts(class_index)]
        table.add_row(
            verbatim(first.answer_label(class_index)),
            *(
                f"[bold]{share}[/]" if best == class_index else share
                for share, best in zip(shares, predicted, strict=True)
            ),
        )
    print_table(console, table)
    console.print(f"\nattention is biased {verbatim(sweep.prompt)}", soft_wrap=True)
    for strength, before, after in sweep.flips():
        console.print(
            f"from strength {strength:g} on: [bold]{verbatim(first.answer_label(after))}[/] "
            f"instead of {verbatim(first.answer_label(before))}",
            soft_wrap=True,
        )
    if not sweep.flips():
        console.print("the prediction does not change", soft_wrap=True)
    print_files(console, [*first.notes, *notes], "", files)


def report_analysis(analysis: Analysis, files: dict[str, Path], notes: list[str]) -> None:
    """Print the metrics of each layer, the findings, skipped images and result files."""
    import numpy as np

    console = open_console()
    table = new_table(3)
    table.add_column("layer", justify="right", style="bold")
    columns = {
        "HIGH→HIGH": analysis.mean("lift")[..., 2, 2],
        "alignment": analysis.mean("alignment"),
        "same distances": analysis.mean("alignment_matched"),
        "class token": analysis.mean("class_alignment"),
        "distance": analysis.mean("distance"),
    }
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for position, (layer, heads) in enumerate(analysis.layers):
        means = [values[position, :heads].mean() for values in columns.values()]
        formats = [".2f"] * 4 + [".0f"]
        cells = [
            _number(None if np.isnan(mean) else float(mean), form)
            for mean, form in zip(means, formats, strict=True)
        ]
        table.add_row(str(layer), *cells)
    print_table(console, table)
    console.print(
        "[dim]means over heads, relative to uniform attention (×); distance in pixels[/]\n",
        soft_wrap=True,
    )
    for finding in analysis.findings():
        console.print(f"· {verbatim(finding.text)}", soft_wrap=True)
    print_skipped(console, analysis.skipped)
    print_files(console, notes, "", files)


def report_benchmark(
    results: Results,
    summary: Table,
    titles: dict[str, str],
    files: dict[str, Path],
    notes: list[str],
) -> None:
    """Print one row per method: the mean of each metric and the seconds per map."""
    console = open_console()
    table = new_table(2)
    table.add_column("method", style="bold", no_wrap=True)
    for title in (*titles.values(), "seconds"):
        table.add_column(title, justify="right", min_width=6)
    for name in summary.methods:
        means = [_number(summary.estimates[name, metric].mean, ".3f") for metric in summary.metrics]
        label = f"[dim]{verbatim(name)}[/]" if name in summary.controls else verbatim(name)
        table.add_row(label, *means, _number(summary.seconds[name], ".3f"))
    print_table(console, table)
    answers = [is_right for is_right in results.right if is_right is not None]
    accuracy_text = f", {sum(answers)} classified correctly" if answers else ""
    console.print(f"[dim]{len(results.names)} images{accuracy_text}; intervals are in the files[/]")
    for name, reason in results.refused.items():
        console.print(f"[yellow]refused:[/] {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
    for image, reason in results.skipped[:MAX_SKIPPED]:
        console.print(f"[yellow]skipped:[/] {verbatim(image)}: {verbatim(reason)}", soft_wrap=True)
    print_files(console, notes, "", files)


def _prediction(
    console: Console, explanation: Explanation, predictions: list[dict[str, Any]]
) -> None:
    """Print the most likely classes with a mark at the explained one, and the explained output."""
    target = explanation.target_answer(0)
    table = new_table(2, header=False)
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column()
    for prediction in predictions:
        is_target = prediction["class"] == target
        name = verbatim(prediction["name"])
        probability = explanation.share_text(0, prediction["class"]).replace(" %", "%")
        table.add_row(probability, f"[bold]{name}[/]  ← explained" if is_target else name)
    if predictions:
        print_table(console, table)
    if target is None:
        explained = explanation.target_description or "the model's own feature direction"
        console.print(f"explained: {verbatim(explained)}", soft_wrap=True)
    elif all(prediction["class"] != target for prediction in predictions):
        label = explanation.answer_label(target)
        console.print(f"explained: [bold]{verbatim(label)}[/], not in the list above")


_shown_folder: ContextVar[tuple[str, str]] = ContextVar("shown_folder", default=("", ""))


@contextmanager
def folder_shown_as(folder: Path, address: str) -> Iterator[None]:
    """Show a result folder as the address that it is copied to, until the ``with`` ends."""
    token = _shown_folder.set((str(folder), address))
    try:
        yield
    finally:
        _shown_folder.reset(token)


def print_files(
    console: Console, notes: list[str], target_description: str, files: dict[str, Path]
) -> None:
    """Print each note once, without the note on the explained output, and the result files."""
    print_notes(
        console, [note for note in notes if not (target_description and target_description in note)]
    )
    names = ", ".join(verbatim(path.name) for path in files.values())
    folder = str(next(iter(files.values())).parent)
    local, address = _shown_folder.get()
    shown = address if folder == local else folder
    console.print(f"in [bold]{verbatim(shown)}[/]: {names}", soft_wrap=True)


def print_skipped(console: Console, skipped: Sequence[Skipped]) -> None:
    """Print the number of skipped images, and the first of them with their reasons."""
    if not skipped:
        return
    console.print(f"\n[yellow]skipped:[/] {len(skipped)}", soft_wrap=True)
    for record in skipped[:MAX_SKIPPED]:
        console.print(f"  {verbatim(record.name)}: {verbatim(record.reason)}", soft_wrap=True)
    if len(skipped) > MAX_SKIPPED:
        console.print("  … the others are in the result", soft_wrap=True)


def print_notes(console: Console, notes: list[str]) -> None:
    """Print each note once."""
    for note in dict.fromkeys(notes):
        console.print(f"[yellow]note:[/] {verbatim(note)}", soft_wrap=True)


def _number(value: float | None, format_spec: str) -> str:
    return "–" if value is None else format(value, format_spec)


def _by_reason(compared: Comparison) -> dict[str, list[str]]:
    methods: dict[str, list[str]] = {}
    for row in compared.rows:
        if row.refusal:
            methods.setdefault(row.refusal, []).append(row.method)
    return methods
