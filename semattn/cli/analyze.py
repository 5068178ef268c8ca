"""`semattn analyze IMAGE|FOLDER…`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.result_folder import FolderLike, ResultFolder
from . import options
from .inputs import ImageInput, read_images
from .json_output import Content, json_output, result_content
from .model_options import EMBEDDED, ModelOptions, model_options
from .outputs import PAGE, ExtraFiles, pages, result_folder, write_extra_files, write_json
from .parsing import display_stem, enlarged_view, read_layers
from .printing import bar, busy, collected_warnings, print_model, report_analysis

if TYPE_CHECKING:
    from torch import nn

    from ..interrelation import Analysis


PARTIAL = ".semattn-analysis.npz"  # unfinished analysis of a folder
ANALYSIS_FILES = {
    "figure": "analysis.png",
    "table": "analysis.csv",
    "result": "analysis.json",
    "sums": "analysis.npz",
}


@json_output
@model_options
def analyze(
    images: options.ImagesOrFolder,
    chosen_model: ModelOptions = EMBEDDED,
    density: options.Density = "count",
    detector: options.Detector = "sift",
    layers: options.AnalysisLayers = None,
    n_null: options.NullDraws = None,
    batch_size: options.Batch = 4,
    seed: options.Seed = 0,
    report: options.Report = True,
    out: options.AnalysisFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Measure attention between patches with many, few and no keypoints.

    For each layer and head, the command reports the [bold]lift[/] between EMPTY, LOW and
    HIGH patches (attention as a multiple of chance), the [bold]alignment[/] of attention
    with the keypoint concentration, and the attention distance. Each value is compared
    with null distributions: shifted keypoints, keypoints of another image, and shuffled
    keypoints. Images that cannot be read are skipped and listed. After an
    interruption, the same command resumes; it starts again if analysed images changed.

    Writes [bold]analysis.png[/] (the figure), [bold]analysis.csv[/] (one row per metric,
    layer and head), [bold]analysis.json[/] (all metrics and findings), [bold]analysis.npz[/]
    (the sums, which can be merged with those of other images) and [bold]report.html[/] (an
    interactive page; for a single image, with the attention of every patch). For a
    single image, it also writes [bold]keypoints.png[/] (its keypoints on the patch grid).
    """
    from .. import interrelation

    inputs = read_images(images, "analyze")
    names = [*ANALYSIS_FILES.values(), PAGE]
    first = inputs.images[0]
    name = inputs.title
    if inputs.is_single:
        name = first.stem if first.path is None else display_stem(first.path)
    folder = result_folder(
        out, f"semattn-analyze-{name}", "analyze", inputs.paths, names, source=inputs.source,
        force=force, stdin_sha256=inputs.stdin_sha256,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "density": density, "detector": detector, "layers": read_layers(layers),
        "n_null": n_null, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    with collected_warnings() as notes:
        with busy("reading the picture") as say:
            inputs.check()  # fail before the model is loaded, which may take long
            say("loading the model (its weights are downloaded at the first use)")
            network = chosen_model.load()
        if inputs.is_single:
            analysis = interrelation.analyze(network, first.source, **settings)
        else:
            with folder.running(names), bar() as progress:
                analysis = interrelation.analyze(
                    network, [image.source for image in inputs.images],
                    resume_file=folder.path / PARTIAL, progress=progress, **settings,
                )  # fmt: skip
        with busy("drawing"):
            if inputs.is_single:
                extra_files = _single_image_files(first, network, analysis, report, settings)
            else:
                extra_files = pages(report, analysis=analysis)
            files = write_analysis(analysis, folder, extra_files)
    print_model(network)
    report_analysis(analysis, files, notes)
    return result_content(files["result"], files, notes)


def _single_image_files(
    image: ImageInput,
    network: nn.Module,
    analysis: Analysis,
    report: bool,
    settings: dict[str, Any],
) -> dict[str, Callable[[Path], object]]:
    """Return the writers of the extra files of a single image: keypoint figure and report."""
    from .. import viz
    from ..explain import SIFTPatchInterrelation

    options = {name: settings[name] for name in ("density", "detector", "seed")}
    photograph = image.decode()
    explanation = SIFTPatchInterrelation(**options).explain(network, photograph.for_model(network))
    picture = enlarged_view(photograph.picture, network)
    figure = viz.figure(explanation, backdrop=picture)
    page = pages(report, explanation, model=network, analysis=analysis, backdrop=picture)
    return {"keypoints.png": figure.savefig, **page}


def write_analysis(
    analysis: Analysis, folder: FolderLike, extra_files: ExtraFiles = None
) -> dict[str, Path]:
    """Write figure, table, result and sums of an analysis into `folder`; return the path of each.

    ``analysis.csv`` has one row per metric, layer and head; ``analysis.json`` is
    `Analysis.summary`;
    `semattn.interrelation.load_analysis` reads ``analysis.npz``.

    Parameters
    ----------
    analysis : result of `semattn.interrelation.analyze`
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

    columns = analysis.table()
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        viz.analysis(analysis).savefig(stage / ANALYSIS_FILES["figure"])
        with (stage / ANALYSIS_FILES["table"]).open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
        write_json(stage / ANALYSIS_FILES["result"], analysis.summary() | results.inputs_entry())
        analysis.save(stage / ANALYSIS_FILES["sums"])
        files = ANALYSIS_FILES | write_extra_files(stage, extra_files)
    return {name: results.path / file for name, file in files.items()}
