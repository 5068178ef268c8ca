"""`semattn spurious FOLDER|SOURCE`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.class_names import class_names, normalized, resolve_class
from ..utils.ray_session import check_engine
from ..utils.result_folder import FolderLike
from . import audit_options, options, search_options
from .inputs import check_folder, local_inputs, source_identity
from .json_output import Content, json_output, result_content
from .model_options import EMBEDDED, ModelOptions, model_options
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
from .parsing import read_names
from .printing import (
    busy,
    collected_warnings,
    print_files,
    print_model,
    print_skipped,
    progress_phases,
    verbatim,
)
from .terminal import new_table, open_console, print_table, resumable_in

if TYPE_CHECKING:
    from ..spurious import Discovery


SEARCH = ".search"  # unfinished search
MAX_CUES = 12  # rows of the table
SPURIOUS_FILES = {
    "figure": "spurious.png",
    "table": "spurious.csv",
    "images": "spurious-images.csv",
    "result": "spurious.json",
    "cues": "spurious.npz",
}
EFFECTS = ("removal", "transplant")
COLUMNS = (
    "class", "target", "confirmed", "score", "score_low", "score_high", "p", "inside", "outside",
    *(f"{name}{part}" for name in EFFECTS for part in ("", "_low", "_high", "_p", "_images")),
    "where", "tag", "keypoints", "covers", "fixed", "off_object",
)  # fmt: skip
IMAGE_COLUMNS = ("cue", "cue_class", "confirmed", "image", "class", "in_class")


@json_output
@model_options
def spurious(
    folder: search_options.LabelledFolder,
    chosen_model: ModelOptions = EMBEDDED,
    only: search_options.OnlyClasses = None,
    max_candidates: search_options.MaxCandidates = 2,
    alpha: search_options.Alpha = 0.05,
    min_relative_risk: search_options.MinRelativeRisk = 3.0,
    detector: options.Detector = "sift",
    batch_size: options.Batch = 16,
    seed: search_options.SearchSeed = 0,
    engine: audit_options.EngineName = "local",
    address: audit_options.Address = None,
    report: options.Report = True,
    out: search_options.SpuriousFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Find spurious cues: features off the object that a model uses for a class.

    Candidates are patches off the object that are several times as frequent in one class
    as in the others. A cue is [bold]confirmed[/] if three tests pass: it is more frequent
    in the class, on images that it was not learned from; removing it lowers the
    log-odds of the class; and transplanting it into images of other classes raises
    them. The tests use the significance level of --alpha, corrected for the number of
    candidates that were judged and tested. Recurring marks, such as watermarks, logos
    and labels, are candidates at any place, size and rotation, and are erased and pasted
    in these tests. A class needs at least six images; some
    dozens are recommended. Files that cannot be read are skipped and listed. The
    unfinished search is stored in a hidden folder of --out: after an interruption, the
    same command resumes.

    Writes [bold]spurious.png[/] (the first cues), [bold]spurious.csv[/] (one row per cue),
    [bold]spurious-images.csv[/] (every compared image that shows a cue), [bold]spurious.json[/]
    (all results), [bold]spurious.npz[/] (the cues, for
    [bold]load_discovery[/]: to find them in other images and to bias attention away from
    them) and [bold]report.html[/] (an interactive page with pictures of each cue).
    """
    from ..spurious import discover_spurious
    from ..spurious.search import check_options

    names = [*SPURIOUS_FILES.values(), PAGE]
    results = result_folder(
        out, "semattn-spurious", "spurious", local_inputs(folder), names, force=force,
        source=source_identity(folder),
    )  # fmt: skip
    out_dir = results.path
    check_options(alpha, min_relative_risk)
    check_engine(engine, address)
    with collected_warnings() as notes:
        with busy("reading the folder") as say:
            check_folder(folder)  # fail before the model is loaded, which may take long
            say("loading the model (its weights are downloaded at the first use)")
            network = chosen_model.load()
            searched = _resolve_classes(only, class_names(network))
        with (
            resumable_in(out_dir),
            results.running(names),
            removed_if_refused(out_dir / SEARCH),
            progress_phases() as progress,
        ):
            discovery = discover_spurious(
                network, folder, classes=searched, alpha=alpha,
                min_relative_risk=min_relative_risk, max_candidates=max_candidates,
                batch_size=batch_size, detector=detector, seed=seed, cache_dir=out_dir / SEARCH,
                engine=engine, address=address, progress=progress,
            )  # fmt: skip
        with busy("drawing"):
            files = write_spurious(discovery, results, pages(report, discovery=discovery))
        shutil.rmtree(out_dir / SEARCH, ignore_errors=True)
    print_model(network)
    report_discovery(discovery, files, notes)
    return result_content(files["result"], files, notes)


def _resolve_classes(text: str | None, names: tuple[str, ...] | None) -> list[Any] | None:
    """Return the classes to search: as numbers if the model has class names, else as text."""
    parts = read_names(text)
    if parts is None or not names:
        return parts
    # A class name may contain commas, as ImageNet's do.
    if text is not None and normalized(text) in {normalized(name) for name in names}:
        return [resolve_class(text, names)]
    return [resolve_class(part, names) for part in parts]


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
    print_skipped(console, discovery.skipped)
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


def write_spurious(
    discovery: Discovery, folder: FolderLike, extra_files: ExtraFiles = None
) -> dict[str, Path]:
    """Write figure, table, result and cues of a search into `folder`; return the path of each.

    ``spurious.csv`` has one row per cue, confirmed cues first; ``spurious-images.csv`` has one row
    per image that shows a cue; ``spurious.json`` is `Discovery.summary`;
    `semattn.spurious.load_discovery` reads ``spurious.npz``.

    Parameters
    ----------
    discovery : result of `semattn.discover_spurious`
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
    from ..spurious import save_discovery

    result = discovery.summary()
    writers: dict[str, Callable[[Path], object]] = {
        "figure": viz.spurious(discovery).savefig,
        "table": partial(write_csv, columns=COLUMNS, rows=map(_row, result["cues"])),
        "images": partial(write_csv, columns=IMAGE_COLUMNS, rows=_image_rows(result["cues"])),
        "result": partial(write_json, content=result),
        "cues": partial(save_discovery, discovery),
    }
    return write_result_files(folder, SPURIOUS_FILES, writers, extra_files)


def _row(cue: dict[str, Any]) -> dict[str, Any]:
    """Return a cue of the summary as a flat row; unknown values are empty."""
    low, high = cue["interval"]
    flat = {name: cue[name] for name in COLUMNS if name in cue and name not in EFFECTS}
    flat |= {"score_low": low, "score_high": high}
    for name in EFFECTS:
        effect = cue[name]
        flat |= {name: effect["mean"], f"{name}_images": effect["count"]}
        flat |= {f"{name}_{part}": effect[part] for part in ("low", "high", "p")}
    return flat


def _image_rows(cues: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each image of each cue; cues are numbered as the rows of the table."""
    for number, cue in enumerate(cues, 1):
        for image in cue["cue_images"]:
            yield {
                "cue": number, "cue_class": cue["class"], "confirmed": cue["confirmed"],
                "image": image["name"], "class": image["class"], "in_class": image["in_class"],
            }  # fmt: skip
