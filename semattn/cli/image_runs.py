"""Loop over images that explain, compare and prompt share, and its console report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Interrupted, SemattnError, TargetError, UnsupportedModelError, plain
from ..utils.result_folder import OutputError, ResultFolder
from .inputs import ImageInput, ImageInputs
from .json_output import Content, result_content
from .outputs import INDEX, PAGE, ImageFolders
from .printing import MAX_SKIPPED, bar, busy, collected_warnings, print_model, verbatim
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from torch import nn

    from ..explain import Explanation

Say = Callable[[str], None]
MAX_ROWS = 20  # of the table on the console


@dataclass(frozen=True)
class ImageResult:
    """Results of one image.

    Parameters
    ----------
    files : path of each file, by name
    notes : notes on the result, for example on how the input was read
    headline : the prediction in a few words
    show : print the results of a single image, with more notes
    """

    files: dict[str, Path]
    notes: tuple[str, ...]
    headline: str
    show: Callable[[list[str]], None]


@dataclass(frozen=True)
class _Row:
    """Finished image of a run over several images."""

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
    network: nn.Module,
    picture: str,
    is_wide: bool = False,
) -> Content:
    """Run `work` for each image, report on the console, and return the content for `--json`.

    With several images, those that cannot be read or explained are skipped, and an index page is
    written, also if the run is interrupted.

    Parameters
    ----------
    work : function that computes and writes the results of one image
    notes : notes on the whole run, such as those about the model
    network : the model, which the report names first
    picture : name of the file that the index page shows for each image
    is_wide : whether this picture is a wide figure

    Raises
    ------
    SemattnError
        If no image is left, or the error concerns the model and not the image.
    Interrupted
        At control-C, if at least one image is finished.
    """
    top = folders.top
    if top is None:
        with busy("reading the picture") as say, collected_warnings() as image_notes:
            result = work(inputs.images[0], folders.each[0], say)
        print_model(network)
        result.show([*notes, *image_notes])
        return result_content(result.files["result"], result.files, [*notes, *image_notes])
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []

    def write_index() -> None:
        _write_index(inputs, top, rows, skipped, picture, is_wide)

    with _indexed(write_index, rows, len(inputs.images), top.path), bar() as progress:
        for number, (image, folder) in enumerate(zip(inputs.images, folders.each, strict=True)):
            progress("images", number, len(inputs.images))
            try:
                with collected_warnings() as image_notes:
                    result = work(image, folder, _ignore_status)
            except OutputError:
                raise
            except SemattnError as error:
                if not rows and isinstance(error, (UnsupportedModelError, TargetError)):
                    raise
                skipped.append((image.label, str(error)))
                continue
            combined = tuple(dict.fromkeys([*result.notes, *image_notes]))
            rows.append(_Row(image.label, folder, result.files, combined, result.headline))
        if not rows:
            raise inputs.nothing_left(skipped)
    common = [*notes, *_input_notes(inputs, folders)]
    print_model(network)
    _report(rows, skipped, common, top)
    return {
        "images": [result_content(row.files["result"], row.files, row.notes) for row in rows],
        "index": top.path / INDEX,
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "notes": common,
    }


def headline_of(explanation: Explanation) -> str:
    """Return the prediction with its probability, and the explained class if it is another one."""
    from .image_writers import predicted_classes

    target = explanation.target_answer(0)
    best = predicted_classes(explanation, top=1)
    if not best:
        return explanation.target_description or "the model's own feature direction"
    share = explanation.share_text(0, best[0]["class"]).replace(" %", "%")
    text = f"{best[0]['name']} {share}"
    if target is not None and target != best[0]["class"]:
        text += f", explained: {explanation.answer_label(target)}"
    return text


def _ignore_status(_: str) -> None:
    """Ignore a status text: the progress bar is shown instead."""


@contextmanager
def _indexed(
    write_index: Callable[[], None], rows: list[_Row], count: int, folder: Path
) -> Iterator[None]:
    """Write the index page at the end; if the run stops early, write it for finished images."""
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


def _input_notes(inputs: ImageInputs, folders: ImageFolders) -> list[str]:
    """Return notes on the images as a whole."""
    notes = []
    if inputs.repeated:
        notes.append(f"{inputs.repeated} of the files were named more than once; each is used once")
    if earlier := folders.earlier():
        shown = ", ".join(earlier[:3]) + (", …" if len(earlier) > 3 else "")
        notes.append(f"the index leaves out results of earlier runs in the folder: {shown}")
    return notes


def _report(
    rows: list[_Row], skipped: list[tuple[str, str]], notes: list[str], top: ResultFolder
) -> None:
    """Print one row per image, skipped images with reasons, each note once, and the files."""
    console = open_console()
    table = new_table(3, header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in rows[:MAX_ROWS]:
        table.add_row(verbatim(row.name), f"[bold]{verbatim(row.headline)}[/]")
    print_table(console, table)
    if len(rows) > MAX_ROWS:
        console.print(f"… the other {len(rows) - MAX_ROWS} are in {INDEX}")
    if skipped:
        console.print(f"\n[yellow]skipped:[/] {len(skipped)}", soft_wrap=True)
        for name, reason in skipped[:MAX_SKIPPED]:
            console.print(f"  {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
        if len(skipped) > MAX_SKIPPED:
            console.print(f"  … the others are in {INDEX}", soft_wrap=True)
    for note, names in _by_note(rows).items():
        affected = "all images" if len(names) == len(rows) > 1 else _summarise_names(names)
        console.print(f"[yellow]note:[/] {verbatim(note)} ({verbatim(affected)})", soft_wrap=True)
    for note in dict.fromkeys(notes):
        console.print(f"[yellow]note:[/] {verbatim(note)}", soft_wrap=True)
    count = f"{len(rows)} image{'s' * (len(rows) != 1)}"
    folder = verbatim(plain(str(top.path)))
    console.print(
        f"{count} in [bold]{folder}[/]: {INDEX}, and a folder for each image", soft_wrap=True
    )


def _by_note(rows: list[_Row]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            names.setdefault(note, []).append(row.name)
    return names


def _summarise_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} images, such as {names[0]}"
