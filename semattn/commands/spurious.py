"""`semattn spurious FOLDER`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..class_names import class_names, normalized, resolve_class
from ..errors import SemattnError
from . import options
from .console import busy, phases, told
from .discovery import report_discovery
from .folders import result_folder
from .interruption import kept_in
from .json_output import Content, json_output, result_content
from .pages import PAGE, pages
from .reading import load_model, read_device, read_names

SEARCH = ".search"  # what is done of a search, until all is


@json_output
def spurious(
    folder: options.LabelledFolder,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    classes: options.ClassNames = None,
    search: options.Search = None,
    most: options.Most = 2,
    level: options.Level = 0.05,
    lift: options.Lift = 3.0,
    detector: options.Detector = "sift",
    batch_size: options.Batch = 16,
    seed: options.SearchSeed = 0,
    device: options.Device = "cpu",
    report: options.Report = True,
    out: options.SpuriousFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Find what a model uses for a class that is not the class's object.

    Patches off the object that a class shows several times as often as others are
    tried. A cue is [bold]confirmed[/] where it is more frequent in the class, on images
    that it was not learned from; where the log-odds of the class fall when it is
    removed; and where those of other classes' images rise when it is put there: all
    at the level asked for, corrected for how many were judged and tried. A class needs
    six images; give some dozens. What cannot be read is skipped and listed. The
    search is kept in a hidden folder of --out as it goes: after an interruption,
    the same command goes on.

    Writes [bold]spurious.png[/] (the first cues), [bold]spurious.csv[/] (a row a cue),
    [bold]spurious.json[/] (all figures), [bold]spurious.npz[/] (the cues, for
    [bold]load_discovery[/], to find them in other images and to lead attention away from
    them) and [bold]report.html[/] (a page to look into, with pictures of each).
    """
    from .. import output
    from ..images import listed
    from ..spurious import discover_spurious
    from ..spurious.search import check

    names = [*output.SPURIOUS_FILES.values(), PAGE]
    place = result_folder(out, "semattn-spurious", "spurious", (folder,), names, force=force)
    made = place.path
    check(level, lift)
    with told() as notes:
        with busy("reading the folder") as say:
            listed(folder)  # before the model, which may take long to fetch, is asked for
            say("loading the model, which fetches its weights the first time")
            network = load_model(
                model, checkpoint, names=classes, pretrained=not random_weights,
                device=read_device(device),
            )  # fmt: skip
            wanted = _searched(search, class_names(network))
        with kept_in(made), place.running(names), _kept(made / SEARCH), phases() as progress:
            found = discover_spurious(
                network, folder, classes=wanted, level=level, lift=lift, most=most,
                batch_size=batch_size, detector=detector, seed=seed, folder=made / SEARCH,
                progress=progress,
            )  # fmt: skip
        with busy("drawing"):
            files = output.write_spurious(found, place, pages(report, discovery=found))
        shutil.rmtree(made / SEARCH, ignore_errors=True)
    report_discovery(found, files, notes)
    return result_content(files["result"], files, notes)


def _searched(given: str | None, names: tuple[str, ...] | None) -> list[Any] | None:
    """The classes to search: numbers where the model names its classes, else as they are."""
    wanted = read_names(given)
    if wanted is None or not names:
        return wanted
    # A name may have commas of its own, as ImageNet's have.
    if given is not None and normalized(given) in {normalized(one) for one in names}:
        return [resolve_class(given, names)]
    return [resolve_class(one, names) for one in wanted]


@contextmanager
def _kept(search: Path) -> Iterator[None]:
    """Leave the beginning of a search behind, unless it is one that is refused."""
    began, there = search.exists(), search.parent.exists()
    try:
        yield
    except (SemattnError, ValueError):
        if not began:
            shutil.rmtree(search, ignore_errors=True)
            if not there and search.parent.exists() and not any(search.parent.iterdir()):
                search.parent.rmdir()
        raise
