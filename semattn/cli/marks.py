"""`semattn marks FOLDER|SOURCE`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.ray_session import check_engine
from ..utils.result_folder import FolderLike
from . import audit_options, options, search_options
from .erased_copies import check_folder_of_copies, erase_from_folder
from .inputs import check_folder, local_inputs, source_identity
from .json_output import Content, json_output, result_content
from .outputs import (
    PAGE,
    ExtraFiles,
    pages,
    removed_if_refused,
    result_folder,
    write_csv,
    write_json,
    write_result_files,
)
from .printing import (
    busy,
    collected_warnings,
    print_files,
    print_skipped,
    progress_phases,
    verbatim,
)
from .terminal import new_table, open_console, print_table, resumable_in

if TYPE_CHECKING:
    from ..spurious import Mark, MarkDiscovery

SEARCH = ".marks"  # unfinished search
MAX_ROWS = 12  # rows of the table
MARKS_FILES = {
    "figure": "marks.png",
    "table": "marks.csv",
    "images": "marks-images.csv",
    "result": "marks.json",
    "marks": "marks.npz",
}
COLUMNS = (
    "mark", "class", "target", "significant", "p", "images", "n_inside", "n_outside", "inside",
    "outside", "clearest",
)  # fmt: skip
IMAGE_COLUMNS = ("mark", "mark_class", "image", "class", "in_class", "outline")


@json_output
def marks(
    folder: search_options.MarkedFolder,
    alpha: search_options.MarkAlpha = 0.05,
    top: search_options.TopMarks = 20,
    erase: search_options.EraseFolder = None,
    engine: audit_options.EngineName = "local",
    address: audit_options.Address = None,
    report: options.Report = True,
    out: search_options.MarksFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Find recurring marks: watermarks, logos, tags and stamps in the images of a class.

    A mark is the same small picture in several images, at any place, size and rotation, also
    mirrored. Marks are found by matching SIFT descriptors between all images. No model is used:
    check a data set before you train on it. A mark is [bold]significant[/] if one class shows
    it more often than the other classes, at the level of --alpha for the whole search. At
    most 4,000 images are compared. Files that cannot be read are skipped and listed. The
    unfinished search is stored in a hidden folder of --out: after an interruption, the
    same command resumes.

    Writes [bold]marks.png[/] (the first significant marks), [bold]marks.csv[/] (one row per
    mark), [bold]marks-images.csv[/] (every image of every listed mark, with the outline of the
    mark: to repair the data set), [bold]marks.json[/] (all results), [bold]marks.npz[/] (the
    marks, for [bold]load_marks[/]: to locate and erase them in other images) and
    [bold]report.html[/] (a page with pictures of each mark).
    """
    from ..spurious import find_marks
    from ..spurious.marks.search import check_options

    names = [*MARKS_FILES.values(), PAGE]
    results = result_folder(
        out, "semattn-marks", "marks", local_inputs(folder), names, force=force,
        source=source_identity(folder),
    )  # fmt: skip
    out_dir = results.path
    check_options(alpha, top)
    check_engine(engine, address)
    if erase is not None:
        check_folder_of_copies(folder, erase)
    with collected_warnings() as notes:
        with busy("reading the folder"):
            check_folder(folder)
        with (
            resumable_in(out_dir),
            results.running(names),
            removed_if_refused(out_dir / SEARCH),
            progress_phases() as progress,
        ):
            discovery = find_marks(
                folder, alpha=alpha, max_marks=top, cache_dir=out_dir / SEARCH,
                engine=engine, address=address, progress=progress,
            )  # fmt: skip
            erased = None
            if erase is not None:
                temporary = out_dir / SEARCH / "erased"
                erased = erase_from_folder(discovery.significant, Path(folder), temporary, progress)
        with busy("drawing"):
            files = write_marks(discovery, results, pages(report, marks=discovery))
        if erase is not None and erased is not None:
            erased.move(erase, force=force)
        shutil.rmtree(out_dir / SEARCH, ignore_errors=True)
    copies = [] if erased is None else [name.as_posix() for name in erased.names]
    if erase is not None:
        notes.append(_erased_note(discovery, erase, len(copies)))
    report_marks(discovery, folder, files, notes)
    content = result_content(files["result"], files, notes)
    return content if erase is None else content | {"erased": {"folder": erase, "names": copies}}


def _erased_note(discovery: MarkDiscovery, erase: Path, count: int) -> str:
    if not discovery.significant:
        return f"no significant mark to erase: nothing was written to {erase}"
    return f"{count} {'copy' if count == 1 else 'copies'} without the marks: {erase}"


def report_marks(
    discovery: MarkDiscovery, folder: str | Path, files: dict[str, Path], notes: list[str]
) -> None:
    """Print a table of the significant marks, the outcome, skipped files and result files.

    Parameters
    ----------
    discovery : result of `semattn.find_marks`
    folder : the searched folder or other source; names of images are printed relative to it
    files : path of each result file
    notes : notes in addition to those of the discovery
    """
    from ..viz.marks_figure import marks_to_draw
    from ..viz.texts import count_text, format_p, format_percent, marks_outcome

    console = open_console()
    listed = marks_to_draw(discovery)
    has_classes = len(discovery.classes) > 1
    if listed:
        table = new_table(2)
        titles = ("in class", "in others", "p") if has_classes else ("images",)
        table.add_column("class" if has_classes else "mark", style="bold", min_width=6)
        for title in titles:
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("clearest in")
        for number, mark in enumerate(listed[:MAX_ROWS], 1):
            inside = f"{mark.n_inside} ({format_percent(mark.inside)})"
            outside = f"{mark.n_outside} ({format_percent(mark.outside)})"
            cells = (inside, outside, format_p(mark.p)) if has_classes else (inside,)
            name = verbatim(mark.name) if has_classes else str(number)
            table.add_row(name, *cells, verbatim(_clearest(mark, folder)))
        print_table(console, table)
        if len(listed) > MAX_ROWS:
            console.print("… the other marks are in the result files", soft_wrap=True)
        console.print()
    console.print(f"[bold]{verbatim(marks_outcome(discovery))}[/]", soft_wrap=True)
    n_classes = len(discovery.classes)
    extent = count_text(discovery.images, "image")
    if has_classes:
        extent += f" of {n_classes} classes"
    console.print(f"[dim]{extent}[/]", soft_wrap=True)
    print_skipped(console, discovery.skipped)
    print_files(console, [*discovery.notes, *notes], "", files)


def _clearest(mark: Mark, folder: str | Path) -> str:
    """Return the name of the image with the most matches, relative to a folder."""
    if not mark.examples:
        return ""
    name = mark.examples[0].name
    relative = os.path.relpath(name, folder)
    return name if relative.startswith(os.pardir) else relative


def write_marks(
    discovery: MarkDiscovery, folder: FolderLike, extra_files: ExtraFiles = None
) -> dict[str, Path]:
    """Write figure, tables, result and marks of a search into `folder`; return the path of each.

    ``marks.csv`` has one row per mark, significant marks first; ``marks-images.csv`` has one row
    per place of a mark in an image; ``marks.json`` is `MarkDiscovery.summary`;
    `semattn.spurious.load_marks` reads ``marks.npz``.

    Parameters
    ----------
    discovery : result of `semattn.find_marks`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    from .. import viz
    from ..spurious import save_marks

    result = discovery.summary()
    writers: dict[str, Callable[[Path], object]] = {
        "figure": viz.marks(discovery).savefig,
        "table": partial(
            write_csv, columns=COLUMNS, rows=starmap(_row, enumerate(result["marks"], 1))
        ),
        "images": partial(write_csv, columns=IMAGE_COLUMNS, rows=_image_rows(discovery)),
        "result": partial(write_json, content=result),
        "marks": partial(save_marks, discovery),
    }
    return write_result_files(folder, MARKS_FILES, writers, extra_files)


def _row(number: int, mark: dict[str, Any]) -> dict[str, Any]:
    """Return a mark of the summary as a flat row; unknown values are empty."""
    examples = mark["examples"]
    return {name: mark[name] for name in COLUMNS if name in mark} | {
        "mark": number, "clearest": examples[0]["name"] if examples else ""
    }  # fmt: skip


def _image_rows(discovery: MarkDiscovery) -> Iterator[dict[str, Any]]:
    """Yield a row for each place of each listed mark; marks are numbered as in ``marks.csv``."""
    has_classes = len(discovery.classes) > 1
    for number, mark in enumerate(discovery.marks, 1):
        for image in mark.marked_images:
            for region in image.regions:
                yield {
                    "mark": number, "mark_class": mark.name, "image": image.name,
                    "class": image.class_name, "in_class": image.in_class if has_classes else "",
                    "outline": " ".join(f"{x:.1f},{y:.1f}" for x, y in region.outline),
                }  # fmt: skip
