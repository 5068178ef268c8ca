"""What `semattn spurious` says at the end: the confirmed cues, and how far the search went."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .console import MOST_SKIPPED, closing, verbatim
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from ..spurious import Discovery

MOST_CUES = 12  # rows of the table


def report_discovery(found: Discovery, files: dict[str, Path], notes: list[str]) -> None:
    """The confirmed cues, what was tried, what was skipped and why, where the files are."""
    from ..viz.cues import figure, nats, outcome, share

    console = open_console()
    shown = found.confirmed[:MOST_CUES]
    if shown:
        table = new_table(2)
        table.add_column("class", style="bold", min_width=6)
        table.add_column("where", min_width=8)
        table.add_column("keypoints")
        for title in ("in", "others", "lost, removed", "gained, put", "p"):
            table.add_column(title, justify="right", no_wrap=title in ("in", "p"))
        for one in shown:
            table.add_row(
                verbatim(one.name), one.where, one.tag.removeprefix("keypoint-"),
                share(one.inside), share(one.outside), nats(one.removed), nats(one.transplanted),
                figure(one.p),
            )  # fmt: skip
        print_table(console, table)
        console.print(
            "[dim]in, others: images of the class and of others that show it; lost, gained: "
            "log-odds of the class, nats [95 %][/]\n",
            soft_wrap=True,
        )
    console.print(f"[bold]{verbatim(outcome(found))}[/]", soft_wrap=True)
    if len(found.confirmed) > MOST_CUES:
        console.print("… the other confirmed ones are in the files", soft_wrap=True)
    for words, names in _unconfirmed(found).items():
        console.print(f"[dim]not confirmed:[/] {verbatim(names)}: {words}", soft_wrap=True)
    right = "" if found.accuracy is None else f", the model is right on {share(found.accuracy)}"
    classes = ", ".join(one.name for one in found.classes[:8])
    more = ", …" if len(found.classes) > 8 else ""
    console.print(
        f"[dim]{found.images} images{right}; searched: {verbatim(classes)}{more}[/]", soft_wrap=True
    )
    if found.skipped:
        console.print(f"\n[yellow]skipped:[/] {len(found.skipped)}", soft_wrap=True)
        for file in found.skipped[:MOST_SKIPPED]:
            console.print(f"  {verbatim(file.name)}: {verbatim(file.reason)}", soft_wrap=True)
        if len(found.skipped) > MOST_SKIPPED:
            console.print("  … the others are in the result", soft_wrap=True)
    closing(console, [*found.notes, *notes], "", files)


def _unconfirmed(found: Discovery) -> dict[str, str]:
    """Why cues were not confirmed, and of which classes they are."""
    from ..viz.cues import reason

    made: dict[str, Counter[str]] = {}
    for one in found.cues:
        if not one.confirmed:
            made.setdefault(reason(one, found), Counter())[one.name] += 1
    return {
        words: ", ".join(name + (f" ({count})" if count > 1 else "") for name, count in of.items())
        for words, of in made.items()
    }
