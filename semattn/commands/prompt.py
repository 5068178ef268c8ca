"""`semattn prompt IMAGE…`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..result_folder import ResultFolder
from . import options
from .console import busy, report_steps, told
from .folders import image_folders
from .images import ImageInput, read_images
from .json_output import Content, json_output
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
from .several import ImageResult, Say, headline_of, run_images

if TYPE_CHECKING:
    from ..steps import Steps


@json_output
def prompt(
    images: options.ImageFiles,
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
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Lead attention to the keypoints of IMAGE, or to a region, and see what changes.

    The scores of attention get a bias, stronger and stronger; nothing is trained.
    The table tells the probabilities of the likeliest classes at each strength,
    and where the prediction flips. A prompted model is another model: look at
    validation images before you trust it with a strength. Of several images, each
    has a folder of its own in the folder for the results, and [bold]index.html[/] shows
    them all. An image that cannot be read is skipped and listed; the exit status
    is 2 where none is left, else 0.

    Writes [bold]prompt.png[/] (where attention is led, the maps, the probabilities),
    [bold]prompt.json[/] (all figures), [bold]maps.npz[/] (the map at each strength, and the bias)
    and [bold]report.html[/] (a page to look into).
    """
    from .. import output
    from ..explain import SIFTPatchInterrelation
    from ..prompting import AttentionPrompter
    from ..steps import STRENGTHS, steps

    inputs = read_images(images, "prompt")
    if region and not inputs.is_single:
        raise ValueError(
            f"region: expected one image with a region in its own pixels, got "
            f"{len(inputs.images)} from {_short(images)} — name one image, or leave out --region"
        )
    mask = (Path(region),) if region and Path(region).is_file() else ()
    files = [*output.STEPS_FILES.values(), PAGE]
    folders = image_folders(out, "prompt", inputs, files, others=mask, force=force)
    strengths = read_strengths(strength) or STRENGTHS
    with busy("reading the picture") as say, told() as notes:
        inputs.check()  # before the model, which may take long to fetch, is asked for
        say("loading the model, which fetches its weights the first time")
        network = load_model(
            model, checkpoint, names=classes, pretrained=not random_weights,
            device=read_device(device),
        )  # fmt: skip
        prompter = AttentionPrompter(
            network, density=density, layers=read_layers(layers), queries=queries,
            detector=detector,
        )  # fmt: skip
        label = read_target(target, network)

    def prompt_image(image: ImageInput, folder: ResultFolder, say: Say) -> ImageResult:
        made = steps(
            SIFTPatchInterrelation(detector=detector),
            prompter,
            image.for_model(network),
            weights=read_region(region, image.source, network),
            away=away,
            target=label,
            strengths=strengths,
            prompt=_words(region, density, away),
            progress=lambda number, total: say(f"strength {number} of {total - 1}"),
        )
        say("drawing")
        backdrop = sharp(image.source, network)
        page = pages(report, made.explanation, model=network, prompting=made, backdrop=backdrop)
        about = {
            "region": region, "away": away, "density": None if region else density,
            "layers": layers, "queries": queries, "clip": prompter.clip,
        }  # fmt: skip
        files = output.write_steps(made, folder, top=top, about=about, backdrop=backdrop, also=page)
        return ImageResult(
            files, made.explanation.notes, f"{headline_of(made.explanation)}, {_flips(made)}",
            lambda notes: report_steps(made, files, notes, top),
        )  # fmt: skip

    return run_images(
        inputs, folders, prompt_image, notes, picture=output.STEPS_FILES["figure"], is_wide=True
    )


def _flips(made: Steps) -> str:
    """Where the prediction changes, in a few words."""
    changes = [
        f"{made.explanation.answer_label(after)} from strength {strength:g} on"
        for strength, _, after in made.flips()
    ]
    return ", ".join(changes) or "which does not change"


def _short(arguments: list[str]) -> str:
    """The first arguments, as a message shows them."""
    return ", ".join(arguments[:2]) + (", …" if len(arguments) > 2 else "")


def _words(region: str | None, density: str, away: bool) -> str:
    """Where attention is led, for people."""
    where = f"the region {region}" if region else f"what {density} finds"
    return f"away from {where}" if away else f"to {where}"
