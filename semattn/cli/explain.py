"""`semattn explain IMAGE…`."""

from __future__ import annotations

from ..utils.result_folder import ResultFolder
from . import options
from .image_runs import ImageResult, Say, headline_of, run_images
from .inputs import ImageInput, read_images
from .json_output import Content, json_output
from .model_options import EMBEDDED, ModelOptions, model_options
from .outputs import PAGE, image_folders, pages
from .parsing import (
    enlarged_view,
    read_explainer,
    read_layers,
    read_target,
)
from .printing import busy, collected_warnings, report_explanation


@json_output
@model_options
def explain(
    images: options.ImageFiles,
    chosen_model: ModelOptions = EMBEDDED,
    target: options.Target = None,
    method: options.Method = "sift-patch-interrelation",
    density: options.Density = "count",
    detector: options.Detector = "sift",
    layers: options.Layers = None,
    queries: options.Queries = None,
    affinity: options.Affinity = None,
    gradient: options.Gradient = None,
    refine: options.Refine = "none",
    report: options.Report = True,
    out: options.Folder = None,
    force: options.Force = False,
    top: options.Top = 3,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Show which parts of IMAGE support the model's decision.

    With several images, each image has its own folder in the results folder, and
    [bold]index.html[/] shows all of them. Images that cannot be read or explained are
    skipped and listed; the exit status is 2 if no image is left, else 0.

    Writes [bold]overlay.png[/] (the map on the picture), [bold]figure.png[/] (picture, keypoints,
    concentration, map), [bold]map.npy[/] (the map on the model's input pixels),
    [bold]result.json[/] (prediction, target and all settings) and [bold]report.html[/] (an
    interactive page: the attention of every patch, by layer and head, and the effect of
    prompting).
    """
    from . import image_writers as writers

    inputs = read_images(images, "explain")
    files = [*writers.EXPLANATION_FILES.values(), PAGE]
    folders = image_folders(out, "explain", inputs, files, force=force)
    with busy("reading the picture") as say, collected_warnings() as notes:
        inputs.check()  # fail before the model is loaded, which may take long
        explainer = read_explainer(
            method, density=density, detector=detector, layers=read_layers(layers), refine=refine,
            queries=queries, affinity=affinity, gradient=gradient,
        )  # fmt: skip
        say("loading the model (its weights are downloaded at the first use)")
        network = chosen_model.load()
        label = read_target(target, network)

    def explain_image(image: ImageInput, folder: ResultFolder, say: Say) -> ImageResult:
        say("explaining")
        photograph = image.decode()
        explanation = explainer.explain(network, photograph.for_model(network), target=label)
        say("drawing")
        backdrop = enlarged_view(photograph.picture, network)
        page = pages(report, explanation, model=network, backdrop=backdrop)
        files = writers.write_explanation(
            explanation, folder, top=max(top, 5), backdrop=backdrop, extra_files=page
        )
        predictions = writers.predicted_classes(explanation, top=top)
        return ImageResult(
            files, explanation.notes, headline_of(explanation),
            lambda notes: report_explanation(explanation, predictions, files, notes),
        )  # fmt: skip

    return run_images(
        inputs,
        folders,
        explain_image,
        notes,
        network=network,
        picture=writers.EXPLANATION_FILES["overlay"],
    )
