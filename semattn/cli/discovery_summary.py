"""Console report of `semattn spurious`: confirmed cues and the extent of the search."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .printing import MAX_SKIPPED, print_files, verbatim
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from ..spurious import Discovery

MAX_CUES = 12  # rows of the table


def report_discovery(discovery: Discovery, files: dict[str, Path], notes: list[str]) -> None:
    """Print the confirmed cues, the tested candidates, skipped files and result files."""
    from ..viz.texts import format_nats, format_p, format_percent, search_outcome

    console = open_console()
    confirmed = discovery.confirmed[:MAX_CUES]
    if confirmed:
        table = new_table(2)
        table.add_column("class", style="bold", min_width=6)
        table.add_column("where", min_width=8)
        table.add_column("keypoints")
        for title in ("in class", "in others", "removal", "transplant", "p"):
            table.add_column(title, justify="right", no_wrap=title == "p")
        for cue in confirmed:
            table.add_row(
                verbatim(cue.name), cue.where, cue.tag.removeprefix("keypoint-"),
                format_percent(cue.inside), format_percent(cue.outside), format_nats(cue.removal),
                format_nats(cue.transplant), format_p(cue.p),
            )  # fmt: skip
        print_table(console, table)
        console.print(
            "[dim]in class, in others: share of images of the class and of the other classes with "
            "the cue; removal, transplant: log-odds that the class loses, or gains, nats "
            "[95 %][/]\n",
            soft_wrap=True,
        )
    console.print(f"[bold]{verbatim(search_outcome(discovery))}[/]", soft_wrap=True)
    if len(discovery.confirmed) > MAX_CUES:
        console.print("… the other confirmed cues are in the result files", soft_wrap=True)
    for reason_text, names in _unconfirmed(discovery).items():
        console.print(f"[dim]not confirmed:[/] {verbatim(names)}: {reason_text}", soft_wrap=True)
    accuracy_text = (
        ""
        if discovery.accuracy is None
        else f", accuracy of the model {format_percent(discovery.accuracy)}"
    )
    classes = ", ".join(label.name for label in discovery.classes[:8])
    more = ", …" if len(discovery.classes) > 8 else ""
    console.print(
        f"[dim]{discovery.images} images{accuracy_text}; searched: {verbatim(classes)}{more}[/]",
        soft_wrap=True,
    )
    if discovery.skipped:
        console.print(f"\n[yellow]skipped:[/] {len(discovery.skipped)}", soft_wrap=True)
        for record in discovery.skipped[:MAX_SKIPPED]:
            console.print(f"  {verbatim(record.name)}: {verbatim(record.reason)}", soft_wrap=True)
        if len(discovery.skipped) > MAX_SKIPPED:
            console.print("  … the others are in the result", soft_wrap=True)
    print_files(console, [*discovery.notes, *notes], "", files)


def _unconfirmed(discovery: Discovery) -> dict[str, str]:
    """Return the classes of unconfirmed cues, by the reason why they were not confirmed."""
    from ..viz.texts import rejection_reason

    counts: dict[str, Counter[str]] = {}
    for cue in discovery.cues:
        if not cue.confirmed:
            counts.setdefault(rejection_reason(cue, discovery), Counter())[cue.name] += 1
    return {
        reason_text: ", ".join(
            name + (f" ({count})" if count > 1 else "") for name, count in classes.items()
        )
        for reason_text, classes in counts.items()
    }
