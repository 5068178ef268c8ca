"""`semattn compare IMAGE…`."""

from __future__ import annotations

from ..result_folder import ResultFolder
from . import options
from .console import busy, report_comparison, told
from .folders import image_folders
from .images import ImageInput, read_images
from .json_output import Content, json_output
from .pages import PAGE, pages
from .reading import load_model, read_device, read_methods, read_target, sharp
from .several import ImageResult, Say, headline_of, run_images

SHARPNESS = 448  # pixels of the longer side of each picture: there are many in one figure


@json_output
def compare(
    images: options.ImageFiles,
    methods: options.Methods = None,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    classes: options.ClassNames = None,
    target: options.Target = None,
    density: options.Density = "count",
    detector: options.Detector = "sift",
    refine: options.Refine = "none",
    device: options.Device = "cpu",
    report: options.Report = True,
    out: options.ComparisonFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Explain IMAGE by many methods, side by side.

    Each method runs with the layers of its own choice, twice: for the class
    that is explained, and for the likeliest other one. The table tells the
    [bold]seconds[/] of one map, the [bold]MiB[/] of memory beyond what was in use (small
    differences are noise), and the [bold]sensitivity[/]: how much of the map moves with
    the class, from 0 (indifferent) to 1. A method that refuses the model says
    why; the others go on. Of several images, each has a folder of its own in the
    folder for the results, and [bold]index.html[/] shows them all. An image that cannot be
    read is skipped and listed; the exit status is 2 where none is left, else 0.

    Writes [bold]compare.png[/] (all maps), [bold]compare.json[/] (the table, and all that is
    needed to do it again), [bold]maps.npz[/] (each map on the pixels that the
    model saw) and [bold]report.html[/] (the maps, to lay over each other).
    """
    from .. import comparison, output

    inputs = read_images(images, "compare")
    files = [*output.COMPARISON_FILES.values(), PAGE]
    folders = image_folders(out, "compare", inputs, files, force=force)
    settings = {"density": density, "detector": detector, "refine": refine}
    with busy("reading the picture") as say, told() as notes:
        inputs.check()  # before the model, which may take long to fetch, is asked for
        names = read_methods(methods, **settings)
        say("loading the model, which fetches its weights the first time")
        network = load_model(
            model, checkpoint, names=classes, pretrained=not random_weights,
            device=read_device(device),
        )  # fmt: skip
        label = read_target(target, network)

    def compare_image(image: ImageInput, folder: ResultFolder, say: Say) -> ImageResult:
        made = comparison.compare(
            network,
            image.for_model(network),
            names,
            target=label,
            progress=lambda number, total, name: say(f"{number} of {total}: {name}"),
            **settings,
        )
        say("drawing")
        backdrop = sharp(image.source, network, SHARPNESS)
        page = pages(report, comparison=made, model=network, backdrop=backdrop)
        files = output.write_comparison(made, folder, backdrop=backdrop, also=page)
        predictions = output.predicted(made.explanation, top=3)
        return ImageResult(
            files, made.notes, headline_of(made.explanation),
            lambda notes: report_comparison(made, predictions, files, notes),
        )  # fmt: skip

    return run_images(
        inputs, folders, compare_image, notes, picture=output.COMPARISON_FILES["figure"],
        is_wide=True,
    )  # fmt: skip
