"""`semattn explain IMAGE`."""

from __future__ import annotations

from . import options
from .console import busy, report_explanation, told
from .folders import result_folder
from .pages import PAGE, pages
from .reading import load_model, read_device, read_explainer, read_layers, read_target, sharp


def explain(
    image: options.ImageFile,
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
    debug: options.Debug = False,
) -> None:
    """Show what in IMAGE made the model decide as it did.

    Writes [bold]overlay.png[/] (the map on the picture), [bold]figure.png[/] (picture, keypoints,
    concentration, map), [bold]map.npy[/] (the map on the pixels that the model saw),
    [bold]result.json[/] (prediction, target, and all that is needed to do it again) and
    [bold]report.html[/] (where every patch attends, by layer and head, and what prompting does).
    """
    from .. import output
    from ..images import read

    folder = result_folder(
        out, f"semattn-{image.stem}", "explain", (image,), [*output.FILES.values(), PAGE],
        force=force,
    )  # fmt: skip
    with busy("reading the picture") as say, told() as notes:
        read(image)  # before the model, which may take long to fetch, is asked for
        explainer = read_explainer(
            method, density=density, detector=detector, layers=read_layers(layers), refine=refine,
            queries=queries, growth=growth,
        )  # fmt: skip
        say("loading the model, which fetches its weights the first time")
        network = load_model(
            model, checkpoint, names=classes, pretrained=not random_weights,
            device=read_device(device),
        )  # fmt: skip
        say("explaining")
        wanted = read_target(target, network)
        made = explainer.explain(network, image, target=wanted)
        say("drawing")
        picture = sharp(image, network)
        page = pages(report, made, model=network, backdrop=picture)
        files = output.write(made, folder, top=max(top, 5), backdrop=picture, also=page)
    report_explanation(made, output.predicted(made, top=top), files, notes)
