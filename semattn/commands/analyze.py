"""`semattn analyze IMAGE|FOLDER…`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options
from .console import bar, busy, report_analysis, told
from .folders import result_folder
from .images import ImageInput, read_images
from .json_output import Content, json_output, result_content
from .pages import PAGE, pages
from .reading import load_model, name_of, read_device, read_layers, sharp

if TYPE_CHECKING:
    from torch import nn

    from ..interrelation import Analysis

PARTIAL = ".semattn-analysis.npz"  # what is done of a folder, until all is


@json_output
def analyze(
    images: options.ImagesOrFolder,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    density: options.Density = "count",
    detector: options.Detector = "sift",
    layers: options.AnalysisLayers = None,
    draws: options.Draws = None,
    batch_size: options.Batch = 4,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    report: options.Report = True,
    out: options.AnalysisFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Show what attention does between patches with many, few and no keypoints.

    For each layer and head: the [bold]lift[/] between EMPTY, LOW and HIGH patches (how
    many times more attention than chance), the [bold]alignment[/] with the keypoints'
    concentration, how far attention reaches; each beside what it is when the
    keypoints are shifted, those of another image, or shuffled. Of several images,
    what cannot be read is skipped and listed; after an interruption, the same
    command goes on, or starts again where analysed pictures changed.

    Writes [bold]analysis.png[/] (the picture), [bold]analysis.csv[/] (a row a figure, layer
    and head), [bold]analysis.json[/] (all figures and findings), [bold]analysis.npz[/] (the
    sums, which merge with those of other images) and [bold]report.html[/] (a page to look
    into; of one image, with where every patch attends); of one image, also
    [bold]keypoints.png[/] (its keypoints on the patches).
    """
    from .. import interrelation, output

    inputs = read_images(images, "analyze")
    names = [*output.ANALYSIS_FILES.values(), PAGE]
    first = inputs.images[0]
    name = inputs.title
    if inputs.is_single:
        name = first.stem if first.path is None else name_of(first.path)
    folder = result_folder(
        out, f"semattn-analyze-{name}", "analyze", inputs.paths, names, source=inputs.source,
        force=force, stdin_sha256=inputs.stdin_sha256,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "density": density, "detector": detector, "layers": read_layers(layers),
        "draws": draws, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    with told() as notes:
        with busy("reading the picture") as say:
            inputs.check()  # before the model, which may take long to fetch, is asked for
            say("loading the model, which fetches its weights the first time")
            network = load_model(
                model, checkpoint, names=None, pretrained=not random_weights,
                device=read_device(device),
            )  # fmt: skip
        if inputs.is_single:
            found = interrelation.analyze(network, first.source, **settings)
        else:
            with folder.running(names), bar() as progress:
                found = interrelation.analyze(
                    network, [image.source for image in inputs.images],
                    partial=folder.path / PARTIAL, progress=progress, **settings,
                )  # fmt: skip
        with busy("drawing"):
            if inputs.is_single:
                also = _one(first, network, found, report, settings)
            else:
                also = pages(report, analysis=found)
            files = output.write_analysis(found, folder, also)
    report_analysis(found, files, notes)
    return result_content(files["result"], files, notes)


def _one(
    image: ImageInput, network: nn.Module, found: Analysis, report: bool, settings: dict[str, Any]
) -> dict[str, Callable[[Path], object]]:
    """What there is to see of a single image: its keypoints, and the page with its attention."""
    from .. import viz
    from ..explain import SIFTPatchInterrelation

    options = {name: settings[name] for name in ("density", "detector", "seed")}
    made = SIFTPatchInterrelation(**options).explain(network, image.for_model(network))
    picture = sharp(image.source, network)
    drawn = viz.figure(made, backdrop=picture)
    page = pages(report, made, model=network, analysis=found, backdrop=picture)
    return {"keypoints.png": drawn.savefig, **page}
