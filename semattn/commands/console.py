"""What a command says to a person: what it is doing, what came out, where the files are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import NoKeypointWarning

if TYPE_CHECKING:
    from ..explain import Explanation


@contextmanager
def busy(first: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal that says what is going on; nothing where nobody looks."""
    with Console(stderr=True).status(f"{first} …", spinner="dots") as status:
        yield lambda text: status.update(f"{text} …")


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


def report(
    made: Explanation, predictions: list[dict[str, Any]], files: dict[str, Path], notes: list[str]
) -> None:
    """A short table on standard output: the prediction, what was explained, where the files are."""
    console = Console(highlight=False)
    target = None if made.target is None else int(made.target[0])
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column()
    for one in predictions:
        chosen = one["class"] == target
        name = escape(one["name"])
        table.add_row(
            f"{one['probability']:.1%}", f"[bold]{name}[/]  ← explained" if chosen else name
        )
    console.print(table)
    if target is None:
        console.print("explained: the model's own feature direction")
    elif all(one["class"] != target for one in predictions):
        console.print(f"explained: [bold]{escape(made.label(target))}[/], not among those above")
    for note in dict.fromkeys([*made.notes, *notes]):
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    names = ", ".join(path.name for path in files.values())
    folder = next(iter(files.values())).parent
    console.print(f"in [bold]{escape(str(folder))}[/]: {names}", soft_wrap=True)
