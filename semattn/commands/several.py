"""One image after another: the loop that explain, compare and prompt share, and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Interrupted, SemattnError, TargetError, UnsupportedModelError, plain
from ..result_folder import OutputError, ResultFolder
from .console import MOST_SKIPPED, bar, busy, told, verbatim
from .folders import INDEX, ImageFolders
from .images import ImageInput, ImageInputs
from .json_output import Content, result_content
from .pages import PAGE
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from ..explain import Explanation

Say = Callable[[str], None]
MOST_ROWS = 20  # of the table on the console


@dataclass(frozen=True)
class ImageResult:
    """Results of one image.

    Parameters
    ----------
    files : path of each file, by name
    notes : assumptions and limits
    headline : the prediction in a few words
    show : print the results of a single image, with more notes
    """

    files: dict[str, Path]
    notes: tuple[str, ...]
    headline: str
    show: Callable[[list[str]], None]


@dataclass(frozen=True)
class _Row:
    """One finished image of several."""

    name: str
    folder: ResultFolder
    files: dict[str, Path]
    notes: tuple[str, ...]
    headline: str


Work = Callable[[ImageInput, ResultFolder, Say], ImageResult]


def run_images(
    inputs: ImageInputs,
    folders: ImageFolders,
    work: Work,
    notes: Iterable[str],
    *,
    picture: str,
    is_wide: bool = False,
) -> Content:
    """Run `work` for each image, report on the console, and return the content for `--json`.

    Of several images, those that cannot be read or explained are skipped, and an index page is
    written; it is also written where the run is interrupted.

    Parameters
    ----------
    work : makes and writes the results of one image
    notes : of the whole run, such as those about the model
    picture : name of the file that the index page shows of each image
    is_wide : this picture is a wide figure

    Raises
    ------
    SemattnError
        Where no image is left, or the error concerns the model and not the image.
    Interrupted
        At control-C, once an image is finished.
    """
    top = folders.top
    if top is None:
        with busy("reading the picture") as say, told() as own:
            result = work(inputs.images[0], folders.each[0], say)
        result.show([*notes, *own])
        return result_content(result.files["result"], result.files, [*notes, *own])
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []

    def write_index() -> None:
        _write_index(inputs, top, rows, skipped, picture, is_wide)

    with _indexed(write_index, rows, len(inputs.images), top.path), bar() as progress:
        for number, (image, folder) in enumerate(zip(inputs.images, folders.each, strict=True)):
            progress(number, len(inputs.images))
            try:
                with told() as own:
                    result = work(image, folder, _silent)
            except OutputError:
                raise
            except SemattnError as error:
                if not rows and isinstance(error, (UnsupportedModelError, TargetError)):
                    raise
                skipped.append((image.label, str(error)))
                continue
            said = tuple(dict.fromkeys([*result.notes, *own]))
            rows.append(_Row(image.label, folder, result.files, said, result.headline))
        if not rows:
            raise inputs.nothing_left(skipped)
    common = [*notes, *_about(inputs, folders)]
    _report(rows, skipped, common, top)
    return {
        "images": [result_content(row.files["result"], row.files, row.notes) for row in rows],
        "index": top.path / INDEX,
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "notes": common,
    }


def headline_of(made: Explanation) -> str:
    """Return the prediction with its share, and the explained class where it is another one."""
    from ..output import predicted

    target = made.target_answer(0)
    best = predicted(made, top=1)
    if not best:
        return made.explains or "the model's own feature direction"
    share = made.share_text(0, best[0]["class"]).replace(" %", "%")
    text = f"{best[0]['name']} {share}"
    if target is not None and target != best[0]["class"]:
        text += f", explained: {made.answer_label(target)}"
    return text


def _silent(_: str) -> None:
    """Say nothing: the bar shows the progress."""


@contextmanager
def _indexed(
    write_index: Callable[[], None], rows: list[_Row], count: int, folder: Path
) -> Iterator[None]:
    """Write the index page at the end, and of what is finished where the run stops early."""
    try:
        yield
    except BaseException as error:
        if rows:
            with suppress(OSError):
                write_index()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(
                    f"{len(rows)} of {count} images are finished, in {folder}"
                ) from error
        raise
    write_index()


def _write_index(
    inputs: ImageInputs,
    top: ResultFolder,
    rows: list[_Row],
    skipped: list[tuple[str, str]],
    picture: str,
    is_wide: bool,
) -> None:
    from ..report.index_page import IndexCard, index_page

    cards = []
    for row in rows:
        names = {path.name for path in row.files.values()}
        links = {"report": PAGE} if PAGE in names else {}
        links |= {"picture": picture, "data (JSON)": row.files["result"].name}
        cards.append(IndexCard(row.name, row.folder.path.name, picture, (row.headline,), links))
    title = f"{top.command.removesuffix(' index')}: {inputs.title}"
    page = index_page(title, cards, skipped, is_wide=is_wide)
    with top.staged() as stage:
        (stage / INDEX).write_text(page, encoding="utf-8", newline="\n")


def _about(inputs: ImageInputs, folders: ImageFolders) -> list[str]:
    """Notes on the images as a whole."""
    notes = []
    if inputs.repeated:
        notes.append(f"{inputs.repeated} of the files were named again; each is used once")
    if earlier := folders.earlier():
        some = ", ".join(earlier[:3]) + (", …" if len(earlier) > 3 else "")
        notes.append(f"the index leaves out results of earlier runs in the folder: {some}")
    return notes


def _report(
    rows: list[_Row], skipped: list[tuple[str, str]], notes: list[str], top: ResultFolder
) -> None:
    """A row an image, what was skipped and why, each note once, where the files are."""
    console = open_console()
    table = new_table(3, header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(verbatim(row.name), f"[bold]{verbatim(row.headline)}[/]")
    print_table(console, table)
    if len(rows) > MOST_ROWS:
        console.print(f"… the other {len(rows) - MOST_ROWS} are in {INDEX}")
    if skipped:
        console.print(f"\n[yellow]skipped:[/] {len(skipped)}", soft_wrap=True)
        for name, reason in skipped[:MOST_SKIPPED]:
            console.print(f"  {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
        if len(skipped) > MOST_SKIPPED:
            console.print(f"  … the others are in {INDEX}", soft_wrap=True)
    for note, names in _by_note(rows).items():
        of = "all images" if len(names) == len(rows) > 1 else _few(names)
        console.print(f"[yellow]note:[/] {verbatim(note)} ({verbatim(of)})", soft_wrap=True)
    for note in dict.fromkeys(notes):
        console.print(f"[yellow]note:[/] {verbatim(note)}", soft_wrap=True)
    count = f"{len(rows)} image{'s' * (len(rows) != 1)}"
    folder = verbatim(plain(str(top.path)))
    console.print(
        f"{count} in [bold]{folder}[/]: {INDEX}, and a folder for each image", soft_wrap=True
    )


def _by_note(rows: list[_Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            found.setdefault(note, []).append(row.name)
    return found


def _few(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} images, such as {names[0]}"
