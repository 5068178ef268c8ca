"""`semattn compare IMAGE`."""

from __future__ import annotations

from . import options
from .console import busy, report_comparison, told
from .folders import result_folder
from .pages import PAGE, pages
from .reading import load_model, read_device, read_methods, read_target, sharp

SHARPNESS = 448  # pixels of the longer side of each picture: there are many in one figure


def compare(
    image: options.ImageFile,
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
    debug: options.Debug = False,
) -> None:
    """Explain IMAGE by many methods, side by side.

    Each method runs with the layers of its own choice, twice: for the class
    that is explained, and for the likeliest other one. The table tells the
    [bold]seconds[/] of one map, the [bold]MiB[/] of memory beyond what was in use (small
    differences are noise), and the [bold]sensitivity[/]: how much of the map moves with
    the class, from 0 (indifferent) to 1. A method that refuses the model says
    why; the others go on.

    Writes [bold]compare.png[/] (all maps), [bold]compare.json[/] (the table, and all that is
    needed to do it again), [bold]maps.npz[/] (each map on the pixels that the
    model saw) and [bold]report.html[/] (the maps, to lay over each other).
    """
    from .. import comparison, output
    from ..images import read

    folder = result_folder(
        out, f"semattn-compare-{image.stem}", "compare", (image,),
        [*output.COMPARISON_FILES.values(), PAGE], force=force,
    )  # fmt: skip
    settings = {"density": density, "detector": detector, "refine": refine}
    with busy("reading the picture") as say, told() as notes:
        read(image)  # before the model, which may take long to fetch, is asked for
        names = read_methods(methods, **settings)
        say("loading the model, which fetches its weights the first time")
        network = load_model(
            model, checkpoint, names=classes, pretrained=not random_weights,
            device=read_device(device),
        )  # fmt: skip
        made = comparison.compare(
            network,
            image,
            names,
            target=read_target(target, network),
            progress=lambda number, total, name: say(f"{number} of {total}: {name}"),
            **settings,
        )
        say("drawing")
        picture = sharp(image, network, SHARPNESS)
        page = pages(report, comparison=made, model=network, backdrop=picture)
        files = output.write_comparison(made, folder, backdrop=picture, also=page)
    report_comparison(made, output.predicted(made.explanation, top=3), files, notes)
