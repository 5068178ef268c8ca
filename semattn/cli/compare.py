"""`semattn compare IMAGE…`."""

from __future__ import annotations

from ..utils.result_folder import ResultFolder
from . import options
from .image_runs import ImageResult, Say, headline_of, run_images
from .inputs import ImageInput, read_images
from .json_output import Content, json_output
from .model_options import EMBEDDED, ModelOptions, model_options
from .outputs import PAGE, image_folders, pages
from .parsing import enlarged_view, read_methods, read_target
from .printing import busy, collected_warnings, report_comparison

SHARPNESS = 448  # pixels of the longer side of each picture; one figure has many of them


@json_output
@model_options
def compare(
    images: options.ImageFiles,
    methods: options.Methods = None,
    chosen_model: ModelOptions = EMBEDDED,
    target: options.Target = None,
    density: options.Density = "count",
    detector: options.Detector = "sift",
    refine: options.Refine = "none",
    report: options.Report = True,
    out: options.ComparisonFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Compare the maps of many explanation methods for IMAGE.

    Each method runs with its default layers, twice: for the explained class and for
    the most likely other class. The table lists the [bold]seconds[/] per map, the
    additional peak memory in [bold]MiB[/] (small differences are noise), and the
    [bold]sensitivity[/] to the class: the share of the map that moves when the class
    changes, from 0 (class-agnostic) to 1. If a method does not support the model, its
    row shows the reason, and the other methods still run. With several images, each
    image has its own folder in the results folder, and [bold]index.html[/] shows all of
    them. Images that cannot be read are skipped and listed; the exit status is 2 if no
    image is left, else 0.

    Writes [bold]compare.png[/] (all maps), [bold]compare.json[/] (the table and all settings),
    [bold]maps.npz[/] (each map on the model's input pixels) and [bold]report.html[/] (an
    interactive page that overlays the maps).
    """
    from ..explain import comparison
    from . import image_writers as writers

    inputs = read_images(images, "compare")
    files = [*writers.COMPARISON_FILES.values(), PAGE]
    folders = image_folders(out, "compare", inputs, files, force=force)
    settings = {"density": density, "detector": detector, "refine": refine}
    with busy("reading the picture") as say, collected_warnings() as notes:
        inputs.check()  # fail before the model is loaded, which may take long
        names = read_methods(methods, **settings)
        say("loading the model (its weights are downloaded at the first use)")
        network = chosen_model.load()
        label = read_target(target, network)

    def compare_image(image: ImageInput, folder: ResultFolder, say: Say) -> ImageResult:
        photograph = image.decode()
        compared = comparison.compare(
            network,
            photograph.for_model(network),
            names,
            target=label,
            progress=lambda name, index, total: say(f"{index} of {total}: {name}"),
            **settings,
        )
        say("drawing")
        backdrop = enlarged_view(photograph.picture, network, SHARPNESS)
        page = pages(report, comparison=compared, model=network, backdrop=backdrop)
        files = writers.write_comparison(compared, folder, backdrop=backdrop, extra_files=page)
        predictions = writers.predicted_classes(compared.explanation, top=3)
        return ImageResult(
            files, compared.notes, headline_of(compared.explanation),
            lambda notes: report_comparison(compared, predictions, files, notes),
        )  # fmt: skip

    return run_images(
        inputs, folders, compare_image, notes, network=network,
        picture=writers.COMPARISON_FILES["figure"], is_wide=True,
    )  # fmt: skip
