"""Progress bar on a terminal and in notebooks."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..utils.processes import Progress, ignore_progress

SECONDS_BETWEEN_UPDATES = 0.2  # of a notebook, which stores every one


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a progress bar on a terminal's standard error or below a cell of a notebook.

    Elsewhere nothing is shown. A notebook needs no package besides IPython.

    Yields
    ------
    A function for the argument `progress` of `analyze`, `compare`, `discover_spurious` and others.

    Examples
    --------
    >>> from semattn.integrations import progress_bar
    >>> with progress_bar() as progress:
    ...     progress("explaining", 1, 2)
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:  # its `is_terminal` is False
        yield _notebook_bar()
    elif console.is_terminal:
        with _terminal_bar(console) as progress:
            yield progress
    else:
        yield ignore_progress


@contextmanager
def _terminal_bar(console: Any) -> Iterator[Progress]:
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress as Bar,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(escape(stage), total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show


def _notebook_bar() -> Progress:
    """Return a function that shows one line of HTML for each stage."""
    from IPython.display import HTML, display

    lines: dict[str, Any] = {}
    began: dict[str, float] = {}
    shown: dict[str, float] = {}

    def show(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage not in lines:
            began[stage] = now
            lines[stage] = display(HTML(_line(stage, done, total, 0.0)), display_id=True)
        elif done != total and now - shown[stage] < SECONDS_BETWEEN_UPDATES:
            return
        else:
            lines[stage].update(HTML(_line(stage, done, total, now - began[stage])))
        shown[stage] = now

    return show


def _line(stage: str, done: int, total: int | None, seconds: float) -> str:
    """Return the HTML of one stage: a bar, the counts, and the seconds left or needed.

    Examples
    --------
    >>> _line("a & b", 1, 4, 2.0)
    '<progress value="1" max="4"></progress> a &amp; b: 1 of 4, 6 s left'
    >>> _line("reading", 3, None, 2.0)
    'reading: 3, 2 s'
    """
    text = html.escape(stage)
    if total is None:
        return f"{text}: {done}, {seconds:.0f} s"
    bar = f'<progress value="{done}" max="{max(total, 1)}"></progress>'
    if done >= total:
        return f"{bar} {text}: {done} of {total}, {seconds:.0f} s"
    left = f", {seconds * (total - done) / done:.0f} s left" if done and seconds else ""
    return f"{bar} {text}: {done} of {total}{left}"
