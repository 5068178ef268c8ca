"""`semattn prompt IMAGE`."""

from __future__ import annotations

from pathlib import Path

from ..result_folder import source_of
from . import options
from .console import busy, report_steps, told
from .folders import result_folder
from .pages import PAGE, pages
from .reading import (
    load_model,
    read_device,
    read_layers,
    read_region,
    read_strengths,
    read_target,
    sharp,
)


def prompt(
    image: options.ImageFile,
    region: options.Region = None,
    model: options.ModelName = None,
    checkpoint: options.Checkpoint = None,
    random_weights: options.RandomWeights = False,
    classes: options.ClassNames = None,
    target: options.Target = None,
    strength: options.Strengths = None,
    away: options.Away = False,
    density: options.PromptDensity = "interrelation",
    layers: options.PromptLayers = "last-third",
    queries: options.PromptQueries = "all",
    detector: options.Detector = "sift",
    top: options.Top = 5,
    device: options.Device = "cpu",
    report: options.Report = True,
    out: options.PromptFolder = None,
    force: options.Force = False,
    debug: options.Debug = False,
) -> None:
    """Lead attention to the keypoints of IMAGE, or to a region, and see what changes.

    The scores of attention get a bias, stronger and stronger; nothing is trained.
    The table tells the probabilities of the likeliest classes at each strength,
    and where the prediction flips. A prompted model is another model: look at
    validation images before you trust it with a strength.

    Writes [bold]prompt.png[/] (where attention is led, the maps, the probabilities),
    [bold]prompt.json[/] (all figures), [bold]maps.npz[/] (the map at each strength, and the bias)
    and [bold]report.html[/] (a page to look into).
    """
    from .. import output
    from ..explain import SIFTPatchInterrelation
    from ..images import read
    from ..prompting import AttentionPrompter
    from ..steps import STRENGTHS, steps

    inputs = (image, Path(region)) if region and Path(region).is_file() else (image,)
    folder = result_folder(
        out, f"semattn-prompt-{image.stem}", "prompt", inputs,
        [*output.STEPS_FILES.values(), PAGE], source=source_of((image,)), force=force,
    )  # fmt: skip
    strengths = read_strengths(strength) or STRENGTHS
    with busy("reading the picture") as say, told() as notes:
        read(image)  # before the model, which may take long to fetch, is asked for
        say("loading the model, which fetches its weights the first time")
        network = load_model(
            model, checkpoint, names=classes, pretrained=not random_weights,
            device=read_device(device),
        )  # fmt: skip
        prompter = AttentionPrompter(
            network, density=density, layers=read_layers(layers), queries=queries,
            detector=detector,
        )  # fmt: skip
        made = steps(
            SIFTPatchInterrelation(detector=detector),
            prompter,
            image,
            weights=read_region(region, image, network),
            away=away,
            target=read_target(target, network),
            strengths=strengths,
            prompt=_words(region, density, away),
            progress=lambda number, total: say(f"strength {number} of {total - 1}"),
        )
        say("drawing")
        picture = sharp(image, network)
        page = pages(report, made.explanation, model=network, prompting=made, backdrop=picture)
        about = {
            "region": region, "away": away, "density": None if region else density,
            "layers": layers, "queries": queries, "clip": prompter.clip,
        }  # fmt: skip
        files = output.write_steps(made, folder, top=top, about=about, backdrop=picture, also=page)
    report_steps(made, files, notes, top)


def _words(region: str | None, density: str, away: bool) -> str:
    """Where attention is led, for people."""
    where = f"the region {region}" if region else f"what {density} finds"
    return f"away from {where}" if away else f"to {where}"
