"""`semattn audit FOLDER|ARCHIVES|LIST|DATASET`."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..utils.class_names import class_names
from ..utils.processes import Progress
from ..utils.ray_session import check_engine, ray_session
from ..utils.result_folder import ResultFolder
from . import audit_options, options
from .inputs import is_remote, local_inputs, source_identity
from .json_output import Content, json_output, result_content
from .model_options import EMBEDDED, ModelOptions, model_options
from .outputs import pages, result_folder
from .parsing import display_stem, read_bounds, read_names
from .printing import (
    MAX_SKIPPED,
    bar,
    busy,
    collected_warnings,
    print_files,
    print_model,
    print_notes,
    progress_phases,
    verbatim,
)
from .remote_output import writes_to_store
from .terminal import resumable_in

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from ..audit import Audit
    from ..data import Source

UNSAFE_CHARACTERS = re.compile(r"[^\w.-]+")  # in the name of a folder
FILES = ("explain.parquet", "skipped.parquet", "audit.json", "maps/")
ARCHIVES = ".audit/.archives"  # index of tar archives
SEARCH = ".audit/search"  # unfinished search for cues


def _place(text: str | None) -> tuple[int, int]:
    """Return the index of this process and the number of processes.

    They come from `--process`, or from torchrun's environment variables.
    """
    if text is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(
            f"process: expected K/N with K from 0 up to N - 1, got {text!r} — 0/1 is one process"
        )
    return int(match[1]), int(match[2])


@json_output
@model_options
@writes_to_store(_place)
def audit(
    source: audit_options.AuditSource,
    jobs: audit_options.Jobs = "explain,analyze",
    chosen_model: ModelOptions = EMBEDDED,
    method: options.Method = "sift-patch-interrelation",
    density: options.Density = "count",
    detector: options.Detector = "sift",
    batch_size: audit_options.AuditBatch = None,
    workers: audit_options.ReadingWorkers = None,
    process: audit_options.Process = None,
    engine: audit_options.EngineName = "local",
    address: audit_options.Address = None,
    actors: audit_options.Actors = None,
    gpus_per_actor: audit_options.GpusPerActor = None,
    seed: options.Seed = 0,
    report: options.Report = True,
    out: audit_options.AuditFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content | None:
    """Explain and analyse a whole data set, in one process, in many, or on a Ray cluster.

    [bold]explain[/] computes a map of every image and one table row: prediction,
    probability, number of keypoints, spread and centre of the map, and the share of
    the map on patches without keypoints. [bold]analyze[/] and [bold]spurious[/] run those
    commands over all images. Finished work is stored on disk: after an interruption
    or a kill, the same command resumes, and no image is lost or counted twice.
    Several processes can share the work, on one machine or on machines with a shared
    disk: [bold]torchrun --nproc-per-node 8 -m semattn audit …[/], or [bold]--process 3/64[/]
    for each process; the tables equal those of a single process. [bold]--engine ray[/] runs
    the work on a Ray cluster, which shares it itself and repeats what dead machines
    lose. Images that cannot
    be read, or on which the model fails, are skipped and listed.

    Writes [bold]explain.parquet[/] (one row per image), [bold]maps/[/] (the maps; columns `unit`
    and `row` of the table locate them), [bold]skipped.parquet[/], [bold]audit.json[/] (counts,
    means, settings), [bold]analyze/[/] and [bold]spurious/[/] (the files of those commands).
    """
    from ..attention.output_meaning import declared_classes
    from ..audit import JOBS, audit as run, check_jobs
    from ..data import has_archives, open_source
    from .analyze import write_analysis

    stem = PurePosixPath(source).stem if is_remote(source) else display_stem(Path(source))
    name = f"semattn-audit-{UNSAFE_CHARACTERS.sub('_', stem)}"
    results = result_folder(
        None if out is None else Path(out), name, "audit", local_inputs(source), FILES,
        force=force, source=source_identity(source),
    )  # fmt: skip
    folder = results.path
    requested_jobs = read_names(jobs) or []
    check_jobs(requested_jobs, (*JOBS, "spurious"))
    place = _place(process)
    check_engine(engine, address)
    bounds, gpus = read_bounds(actors), gpus_per_actor
    if engine == "ray":
        gpus = _gpus_of(chosen_model.device) if gpus is None else gpus
        chosen_model = replace(chosen_model, device="cpu")  # each actor moves its copy
    part = "-{}-of-{}".format(*place)
    shows = os.environ.get("LOCAL_RANK", "0") == "0"  # one process of each machine reports
    library_jobs = tuple(job for job in requested_jobs if job != "spurious")
    with collected_warnings() as notes, ExitStack() as stack:
        with busy("loading the model (its weights are downloaded at the first use)") as say:
            network = chosen_model.load(os.environ.get("LOCAL_RANK"))
            say("listing the images")
            names = class_names(network) or ()
            holds_index = has_archives(source)  # it is in the folder, which must exist
            with results.running(FILES, part) if holds_index else nullcontext():
                index_dir = folder / ARCHIVES if holds_index else None
                dataset = open_source(source, names, declared_classes(network) or 0, index_dir)
            if engine == "ray":
                say("starting Ray")
                stack.enter_context(ray_session(address))
        shown: AbstractContextManager[Progress | None]
        audit_result = None
        if library_jobs:
            shown = bar() if shows else nullcontext()
            with resumable_in(folder), results.running(FILES, part), shown as progress:
                audit_result = run(
                    network, dataset, folder, jobs=library_jobs, method=method, density=density,
                    detector=detector, batch_size=batch_size, workers=workers, seed=seed,
                    process=place, engine=engine, actors=bounds, gpus=gpus, progress=progress,
                )  # fmt: skip
        files = dict(audit_result.files) if audit_result else {}
        if audit_result is not None and audit_result.analysis is not None:
            with busy("drawing"):
                page = pages(report, analysis=audit_result.analysis)
                write_analysis(
                    audit_result.analysis, replace(results, path=folder / "analyze"), page
                )
            files["analyze"] = folder / "analyze"
        searched = True
        if "spurious" in requested_jobs:
            with resumable_in(folder), results.running(FILES, part):
                searched = _search(
                    network, dataset, results, detector, batch_size, seed, place, report, shows,
                    engine,
                )  # fmt: skip
        if "spurious" in requested_jobs and searched:
            files["spurious"] = folder / "spurious"
    notes = [*_labels_note(dataset, "spurious" in requested_jobs), *notes]
    if shows or files:
        print_model(network)
        _report(audit_result, dataset, files, notes, searched)
    return _content(audit_result, dataset, files, notes) if shows else None


def _labels_note(source: Source, searches: bool) -> list[str]:
    """Return a note on images without a label, as a list of one note or none."""
    note = source.data.note
    if not note or searches:
        return [note] if note else []
    reason = note.partition(": every image")[0]
    return [f"{reason}: images without a label count for no accuracy"]


def _content(
    audit_result: Audit | None, source: Source, files: dict[str, Path], notes: list[str]
) -> Content:
    """Return the content for `--json`: counts, means, skipped images, waiting units, files."""
    from ..audit.audit_runner import SUMMARY

    result = next((path for path in files.values() if path.name == SUMMARY), None)
    audit_skipped = () if audit_result is None else audit_result.skipped
    skipped = [*source.data.broken, *((image.name, image.reason) for image in audit_skipped)]
    waiting = 0 if audit_result is None else audit_result.waiting
    return result_content(result, files, notes, skipped) | {"waiting_units": waiting}


def _gpus_of(device: str) -> float | None:
    """Return the GPUs of each copy of the model on a cluster; None if the cluster decides."""
    gpus = {"auto": None, "cpu": 0.0, "cuda": 1.0}
    if device not in gpus:
        raise ValueError(
            f"device: expected auto, cpu or cuda with Ray, got {device!r} — Ray chooses the GPU"
        )
    return gpus[device]


def _search(
    network: nn.Module, source: Source, results: ResultFolder, detector: str, batch: int | None,
    seed: int, process_index: tuple[int, int], report: bool, is_reporter: bool, engine: str,
) -> bool:  # fmt: skip
    """Run this process's part of the search; return whether this process finished the search."""
    from ..spurious import Search
    from ..utils.processes import LockedError
    from .spurious import write_spurious

    with progress_phases() if is_reporter else nullcontext() as progress:
        search = Search(
            network, source.data, detector=detector, batch_size=batch or 16, seed=seed,
            cache_dir=results.path / SEARCH, engine=engine, progress=progress,
        )  # fmt: skip
        if not search.extract(process_index):
            return False
        try:
            discovery = search.discover()
        except LockedError:  # another process is finishing the search
            return False
    with busy("drawing"):
        spurious = replace(results, path=results.path / "spurious")
        write_spurious(discovery, spurious, pages(report, discovery=discovery))
    return True


def _report(
    audit_result: Audit | None,
    source: Source,
    files: dict[str, Path],
    notes: list[str],
    searched: bool,
) -> None:
    """Print counts, means, speed, skipped images with reasons, and the result files."""
    from .terminal import open_console

    console = open_console()
    if audit_result is not None:
        _report_images(console, audit_result, source)
    if not searched:
        console.print(
            "the search for cues is finished by the process that handles the last images; if all "
            "images are handled, by the first process of the next run",
            soft_wrap=True,
        )
    if files:
        print_files(console, notes, "", files)
    else:
        print_notes(console, notes)


def _map_text(spread: float | None, on_empty: float | None) -> str:
    """Return what the maps cover on average; None stands for maps that are 0 everywhere."""
    if spread is None or on_empty is None:
        return "the map of every image is 0"
    return (
        f"the map covers {spread:.0%} of the patches, with {on_empty:.0%} of it on patches without "
        "keypoints"
    )


def _report_images(console: Console, audit_result: Audit, source: Source) -> None:
    """Print the counts and means of the explanations and analyses."""
    if audit_result.images:
        speed = audit_result.images / audit_result.seconds
        console.print(
            f"{audit_result.images} images in {audit_result.seconds:,.0f} s, {speed:.1f} per second"
        )
    summary = audit_result.summary
    if summary is None:
        console.print(
            f"{audit_result.waiting} units are left for other processes; the last process writes "
            "the tables",
            soft_wrap=True,
        )
    elif summary["explained"]:
        accuracy = summary["accuracy"]
        means = summary["means"]
        accuracy_text = "" if accuracy is None else f", accuracy of the model {accuracy:.1%}"
        console.print(
            f"[bold]{summary['explained']}[/] explained{accuracy_text}; on average "
            f"{means['keypoints']:.0f} keypoints; {_map_text(means['spread'], means['on_empty'])}",
            soft_wrap=True,
        )
    for name, reason in source.data.broken:
        console.print(f"[yellow]broken:[/] {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
    if audit_result.skipped:
        console.print(f"[yellow]skipped:[/] {len(audit_result.skipped)}")
        for record in audit_result.skipped[:MAX_SKIPPED]:
            console.print(f"  {verbatim(record.name)}: {verbatim(record.reason)}", soft_wrap=True)
        if len(audit_result.skipped) > MAX_SKIPPED:
            console.print("  … the others are in skipped.parquet", soft_wrap=True)
