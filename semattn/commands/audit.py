"""`semattn audit FOLDER|ARCHIVES|LIST`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..class_names import class_names
from ..result_folder import ResultFolder
from . import options
from .console import MOST_SKIPPED, bar, busy, closing, phases, print_notes, told, verbatim
from .folders import result_folder
from .interruption import kept_in
from .json_output import Content, json_output, result_content
from .pages import pages
from .reading import load_model, name_of, read_device, read_names

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from ..audit import Audit, Source

UNFIT = re.compile(r"[^\w.-]+")  # in the name of a folder
FILES = ("explain.parquet", "skipped.parquet", "audit.json", "maps/")
SEARCH = ".audit/search"  # what is done of a search


@json_output
def audit(
    source: options.AuditSource,
    jobs: options.Jobs = "explain,analyze",
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    classes: options.ClassNames = None,
    method: options.Method = "sift-patch-interrelation",
    density: options.Density = "count",
    detector: options.Detector = "sift",
    batch_size: options.AuditBatch = None,
    workers: options.ReadingWorkers = None,
    process: options.Process = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    report: options.Report = True,
    out: options.AuditFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content | None:
    """Explain and analyse a whole data set, in one process or many.

    [bold]explain[/] makes a map of every image and a row of a table: prediction,
    probability, keypoints, how far the map spreads, where its centre is, and its
    share on patches without a keypoint. [bold]analyze[/] and [bold]spurious[/] are those
    commands, over all images. What is done lies on the disk: after a kill the
    same command goes on, with nothing lost or doubled. Several processes share
    the work, on one machine or many with a common disk:
    [bold]torchrun --nproc-per-node 8 -m semattn audit …[/], or [bold]--process 3/64[/] on
    each; the tables are those of one process. What cannot be read, and what the
    model fails on, is skipped and listed.

    Writes [bold]explain.parquet[/] (a row an image), [bold]maps/[/] (the maps; `unit` and `row`
    of the table say where), [bold]skipped.parquet[/], [bold]audit.json[/] (counts, means,
    settings), [bold]analyze/[/] and [bold]spurious/[/] (as those commands do).
    """
    from .. import output
    from ..audit import JOBS, audit as run, check_jobs, open_source

    name = f"semattn-audit-{UNFIT.sub('_', name_of(Path(source)))}"
    inputs = (Path(source),)
    results = result_folder(out, name, "audit", inputs, FILES, force=force)
    folder = results.path
    wanted = read_names(jobs) or []
    check_jobs(wanted, (*JOBS, "spurious"))
    place = _place(process)
    part = "-{}-of-{}".format(*place)
    shows = os.environ.get("LOCAL_RANK", "0") == "0"  # the first of torchrun's, on its machine
    own = tuple(one for one in wanted if one != "spurious")
    with told() as notes:
        with busy("loading the model, which fetches its weights the first time") as say:
            network = load_model(
                model, checkpoint, names=classes, pretrained=not random_weights,
                device=read_device(_local(device)),
            )  # fmt: skip
            say("listing the images")
            names = class_names(network) or ()
            found = open_source(source, names, getattr(network, "num_classes", 0) or len(names))
        shown: AbstractContextManager[Callable[[int, int | None], None] | None]
        made = None
        if own:
            shown = bar() if shows else nullcontext()
            with kept_in(folder), results.running(FILES, part), shown as progress:
                made = run(
                    network, found, folder, jobs=own, method=method, density=density,
                    detector=detector, batch_size=batch_size, workers=workers, seed=seed,
                    process=place, progress=progress,
                )  # fmt: skip
        files = dict(made.files) if made else {}
        if made is not None and made.analysis is not None:
            with busy("drawing"):
                page = pages(report, analysis=made.analysis)
                output.write_analysis(
                    made.analysis, replace(results, path=folder / "analyze"), page
                )
            files["analyze"] = folder / "analyze"
        searched = True
        if "spurious" in wanted:
            with kept_in(folder), results.running(FILES, part):
                searched = _search(
                    network, found, results, detector, batch_size, seed, place, report, shows
                )
        if "spurious" in wanted and searched:
            files["spurious"] = folder / "spurious"
    notes = [*_labels_note(found, "spurious" in wanted), *notes]
    if shows or files:
        _report(made, found, files, notes, searched)
    return _content(made, found, files, notes) if shows else None


def _labels_note(source: Source, searches: bool) -> list[str]:
    """Return what is to be said of images without a label, as a list of one note or none."""
    note = source.data.note
    if not note or searches:
        return [note] if note else []
    reason = note.partition(": every image")[0]
    return [f"{reason}: images without a label count for no accuracy"]


def _content(
    made: Audit | None, source: Source, files: dict[str, Path], notes: list[str]
) -> Content:
    """Return counts and means, the images and units that are left, and where the files are."""
    from ..audit.work import SUMMARY

    result = next((path for path in files.values() if path.name == SUMMARY), None)
    own = () if made is None else made.skipped
    skipped = [*source.broken, *((image.name, image.reason) for image in own)]
    waiting = 0 if made is None else made.waiting
    return result_content(result, files, notes, skipped) | {"waiting_units": waiting}


def _place(given: str | None) -> tuple[int, int]:
    """The place of this process and how many there are: as told, or as torchrun says."""
    if given is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", given)
    if not found or not int(found[1]) < int(found[2]):
        raise ValueError(
            f"process: expected K/N with K from 0 up to N - 1, got {given!r} — 0/1 is one process"
        )
    return int(found[1]), int(found[2])


def _local(device: str) -> str:
    """A device of its own for each process of a machine."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if device == "cuda" and number else device


def _search(
    network: nn.Module, source: Source, results: ResultFolder, detector: str, batch: int | None,
    seed: int, place: tuple[int, int], report: bool, shows: bool,
) -> bool:  # fmt: skip
    """The part of this process in the search for cues; whether it was the one to end it."""
    from .. import output
    from ..locks import LockedError
    from ..spurious import Search

    with phases() if shows else nullcontext() as progress:
        search = Search(
            network, source.data, detector=detector, batch_size=batch or 16, seed=seed,
            folder=results.path / SEARCH, progress=progress,
        )  # fmt: skip
        if not search.look(place):
            return False
        try:
            found = search.discover()
        except LockedError:  # another process looked at its last images at the same moment
            return False
    with busy("drawing"):
        spurious = replace(results, path=results.path / "spurious")
        output.write_spurious(found, spurious, pages(report, discovery=found))
    return True


def _report(
    made: Audit | None, source: Source, files: dict[str, Path], notes: list[str], searched: bool
) -> None:
    """Counts, means, speed, what was skipped and why, where the files are."""
    from .terminal import open_console

    console = open_console()
    if made is not None:
        _report_images(console, made, source)
    if not searched:
        console.print(
            "the search for cues is left to the process that looks at the last images: where all "
            "is looked at, the first one of the next run",
            soft_wrap=True,
        )
    if files:
        closing(console, notes, "", files)
    else:
        print_notes(console, notes)


def _report_images(console: Console, made: Audit, source: Source) -> None:
    """What came of the explanations and analyses."""
    if made.images:
        speed = made.images / made.seconds
        console.print(f"{made.images} images in {made.seconds:,.0f} s, {speed:.1f} a second")
    told_of = made.summary
    if told_of is None:
        console.print(
            f"{made.waiting} units are left to other processes: the last one writes the tables",
            soft_wrap=True,
        )
    elif told_of["explained"]:
        right = told_of["accuracy"]
        means = told_of["means"]
        said = "" if right is None else f", the model is right on {right:.1%}"
        console.print(
            f"[bold]{told_of['explained']}[/] explained{said}; on average "
            f"{means['keypoints']:.0f} keypoints, a map on {means['spread']:.0%} of the "
            f"patches, {means['on_empty']:.0%} of it on patches without a keypoint",
            soft_wrap=True,
        )
    for name, reason in source.broken:
        console.print(f"[yellow]broken:[/] {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
    if made.skipped:
        console.print(f"[yellow]skipped:[/] {len(made.skipped)}")
        for one in made.skipped[:MOST_SKIPPED]:
            console.print(f"  {verbatim(one.name)}: {verbatim(one.reason)}", soft_wrap=True)
        if len(made.skipped) > MOST_SKIPPED:
            console.print("  … the others are in skipped.parquet", soft_wrap=True)
