"""`semattn explain IMAGE…`."""

from __future__ import annotations

from ..result_folder import ResultFolder
from . import options
from .console import busy, report_explanation, told
from .folders import image_folders
from .images import ImageInput, read_images
from .json_output import Content, json_output
from .pages import PAGE, pages
from .reading import load_model, read_device, read_explainer, read_layers, read_target, sharp
from .several import ImageResult, Say, headline_of, run_images


@json_output
def explain(
    images: options.ImageFiles,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    classes: options.ClassNames = None,
    target: options.Target = None,
    method: options.Method = "sift-patch-interrelation",
    density: options.Density = "count",
    detector: options.Detector = "sift",
    layers: options.Layers = None,
    queries: options.Queries = None,
    growth: options.Growth = None,
    refine: options.Refine = "none",
    device: options.Device = "cpu",
    report: options.Report = True,
    out: options.Folder = None,
    force: options.Force = False,
    top: options.Top = 3,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Show what in IMAGE made the model decide as it did.

    Of several images, each has a folder of its own in the folder for the results,
    and [bold]index.html[/] shows them all. An image that cannot be read or explained is
    skipped and listed; the exit status is 2 where none is left, else 0.

    Writes [bold]overlay.png[/] (the map on the picture), [bold]figure.png[/] (picture, keypoints,
    concentration, map), [bold]map.npy[/] (the map on the pixels that the model saw),
    [bold]result.json[/] (prediction, target, and all that is needed to do it again) and
    [bold]report.html[/] (where every patch attends, by layer and head, and what prompting does).
    """
    from .. import output

    inputs = read_images(images, "explain")
    files = [*output.FILES.values(), PAGE]
    folders = image_folders(out, "explain", inputs, files, force=force)
    with busy("reading the picture") as say, told() as notes:
        inputs.check()  # before the model, which may take long to fetch, is asked for
        explainer = read_explainer(
            method, density=density, detector=detector, layers=read_layers(layers), refine=refine,
            queries=queries, growth=growth,
        )  # fmt: skip
        say("loading the model, which fetches its weights the first time")
        network = load_model(
            model, checkpoint, names=classes, pretrained=not random_weights,
            device=read_device(device),
        )  # fmt: skip
        label = read_target(target, network)

    def explain_image(image: ImageInput, folder: ResultFolder, say: Say) -> ImageResult:
        say("explaining")
        made = explainer.explain(network, image.for_model(network), target=label)
        say("drawing")
        backdrop = sharp(image.source, network)
        page = pages(report, made, model=network, backdrop=backdrop)
        files = output.write(made, folder, top=max(top, 5), backdrop=backdrop, also=page)
        predictions = output.predicted(made, top=top)
        return ImageResult(
            files, made.notes, headline_of(made),
            lambda notes: report_explanation(made, predictions, files, notes),
        )  # fmt: skip

    return run_images(inputs, folders, explain_image, notes, picture=output.FILES["overlay"])
