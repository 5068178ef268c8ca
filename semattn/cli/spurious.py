"""`semattn spurious FOLDER`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import SemattnError
from ..utils.class_names import class_names, normalized, resolve_class
from . import options
from .discovery_summary import report_discovery
from .folders import result_folder
from .interruption import resumable_in
from .json_output import Content, json_output, result_content
from .pages import PAGE, pages
from .parsing import load_model, read_device, read_names
from .printing import busy, collected_warnings, progress_phases

SEARCH = ".search"  # unfinished search


@json_output
def spurious(
    folder: options.LabelledFolder,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    class_names_file: options.ClassNames = None,
    only: options.OnlyClasses = None,
    max_candidates: options.MaxCandidates = 2,
    alpha: options.Alpha = 0.05,
    min_relative_risk: options.MinRelativeRisk = 3.0,
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
    """Find spurious cues: features off the object that a model uses for a class.

    Candidates are patches off the object that are several times as frequent in one class
    as in the others. A cue is [bold]confirmed[/] if three tests pass: it is more frequent
    in the class, on images that it was not learned from; removing it lowers the
    log-odds of the class; and transplanting it into images of other classes raises
    them. The tests use the significance level of --alpha, corrected for the number of
    candidates that were judged and tested. A class needs at least six images; some
    dozens are recommended. Files that cannot be read are skipped and listed. The
    unfinished search is stored in a hidden folder of --out: after an interruption, the
    same command resumes.

    Writes [bold]spurious.png[/] (the first cues), [bold]spurious.csv[/] (one row per cue),
    [bold]spurious.json[/] (all results), [bold]spurious.npz[/] (the cues, for
    [bold]load_discovery[/]: to find them in other images and to bias attention away from
    them) and [bold]report.html[/] (an interactive page with pictures of each cue).
    """
    from ..data import list_images
    from ..spurious import discover_spurious
    from ..spurious.search import check_options
    from . import writers

    names = [*writers.SPURIOUS_FILES.values(), PAGE]
    results = result_folder(out, "semattn-spurious", "spurious", (folder,), names, force=force)
    out_dir = results.path
    check_options(alpha, min_relative_risk)
    with collected_warnings() as notes:
        with busy("reading the folder") as say:
            list_images(folder)  # fail before the model is loaded, which may take long
            say("loading the model (its weights are downloaded at the first use)")
            network = load_model(
                model, checkpoint, names=class_names_file, pretrained=not random_weights,
                device=read_device(device),
            )  # fmt: skip
            searched = _resolve_classes(only, class_names(network))
        with (
            resumable_in(out_dir),
            results.running(names),
            _removed_if_refused(out_dir / SEARCH),
            progress_phases() as progress,
        ):
            discovery = discover_spurious(
                network, folder, classes=searched, alpha=alpha,
                min_relative_risk=min_relative_risk, max_candidates=max_candidates,
                batch_size=batch_size, detector=detector, seed=seed, cache_dir=out_dir / SEARCH,
                progress=progress,
            )  # fmt: skip
        with busy("drawing"):
            files = writers.write_spurious(discovery, results, pages(report, discovery=discovery))
        shutil.rmtree(out_dir / SEARCH, ignore_errors=True)
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


@contextmanager
def _removed_if_refused(search: Path) -> Iterator[None]:
    """Remove the folder of a new search that is refused; keep it after an interruption."""
    search_existed, folder_existed = search.exists(), search.parent.exists()
    try:
        yield
    except (SemattnError, ValueError):
        if not search_existed:
            shutil.rmtree(search, ignore_errors=True)
            if not folder_existed and search.parent.exists() and not any(search.parent.iterdir()):
                search.parent.rmdir()
        raise
