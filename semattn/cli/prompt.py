"""`semattn prompt IMAGE…`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.result_folder import ResultFolder
from . import options
from .image_runs import ImageResult, Say, headline_of, run_images
from .inputs import ImageInput, read_images
from .json_output import Content, json_output
from .model_options import EMBEDDED, ModelOptions, model_options
from .outputs import PAGE, image_folders, pages
from .parsing import (
    enlarged_view,
    read_layers,
    read_region,
    read_strengths,
    read_target,
)
from .printing import busy, collected_warnings, report_strength_sweep

if TYPE_CHECKING:
    from ..prompting.strength_sweep import StrengthSweep


@json_output
@model_options
def prompt(
    images: options.ImageFiles,
    region: options.Region = None,
    chosen_model: ModelOptions = EMBEDDED,
    target: options.Target = None,
    strength: options.Strengths = None,
    suppress: options.Suppress = False,
    density: options.PromptDensity = "interrelation",
    layers: options.PromptLayers = "last-third",
    queries: options.PromptQueries = "all",
    detector: options.Detector = "sift",
    top: options.Top = 5,
    report: options.Report = True,
    out: options.PromptFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    """Bias attention towards the keypoints of IMAGE, or a region, and show what changes.

    A bias of increasing strength is added to the attention scores; nothing is trained.
    The table lists the probabilities of the most likely classes at each strength, and
    the strengths at which the prediction changes. A prompted model is a different
    model: validate a strength on other images before you rely on it. With several
    images, each image has its own folder in the results folder, and [bold]index.html[/]
    shows all of them. Images that cannot be read are skipped and listed; the exit
    status is 2 if no image is left, else 0.

    Writes [bold]prompt.png[/] (the bias, the maps, the probabilities), [bold]prompt.json[/] (all
    values and settings), [bold]maps.npz[/] (the map at each strength, and the bias) and
    [bold]report.html[/] (an interactive page).
    """
    from ..explain import SIFTPatchInterrelation
    from ..prompting import AttentionPrompter
    from ..prompting.strength_sweep import STRENGTHS, strength_sweep
    from . import image_writers as writers

    inputs = read_images(images, "prompt")
    if region and not inputs.is_single:
        raise ValueError(
            f"region: expected one image, because a region is in pixels of one image, got "
            f"{len(inputs.images)} from {_shorten(images)} — name one image, or leave out --region"
        )
    mask = (Path(region),) if region and Path(region).is_file() else ()
    files = [*writers.STRENGTH_SWEEP_FILES.values(), PAGE]
    folders = image_folders(out, "prompt", inputs, files, others=mask, force=force)
    strengths = read_strengths(strength) or STRENGTHS
    with busy("reading the picture") as say, collected_warnings() as notes:
        inputs.check()  # fail before the model is loaded, which may take long
        say("loading the model (its weights are downloaded at the first use)")
        network = chosen_model.load()
        prompter = AttentionPrompter(
            network, density=density, layers=read_layers(layers), queries=queries,
            detector=detector,
        )  # fmt: skip
        label = read_target(target, network)

    def prompt_image(image: ImageInput, folder: ResultFolder, say: Say) -> ImageResult:
        photograph = image.decode()
        prompted = strength_sweep(
            SIFTPatchInterrelation(detector=detector),
            prompter,
            photograph.for_model(network),
            weights=read_region(region, photograph.picture, network),
            suppress=suppress,
            target=label,
            strengths=strengths,
            prompt=_describe_prompt(region, density, suppress),
            progress=lambda _, index, total: say(f"strength {index} of {total - 1}"),
        )
        say("drawing")
        backdrop = enlarged_view(photograph.picture, network)
        page = pages(
            report, prompted.explanation, model=network, prompting=prompted, backdrop=backdrop
        )
        settings = {
            "region": region, "suppress": suppress, "density": None if region else density,
            "layers": layers, "queries": queries, "clip": prompter.clip,
        }  # fmt: skip
        files = writers.write_strength_sweep(
            prompted, folder, top=top, settings=settings, backdrop=backdrop, extra_files=page
        )
        return ImageResult(
            files,
            prompted.explanation.notes,
            f"{headline_of(prompted.explanation)}, {_describe_flips(prompted)}",
            lambda notes: report_strength_sweep(prompted, files, notes, top),
        )

    return run_images(
        inputs,
        folders,
        prompt_image,
        notes,
        network=network,
        picture=writers.STRENGTH_SWEEP_FILES["figure"],
        is_wide=True,
    )


def _describe_flips(prompted: StrengthSweep) -> str:
    """Return the strengths at which the prediction changes, as text."""
    changes = [
        f"{prompted.explanation.answer_label(after)} from strength {strength:g} on"
        for strength, _, after in prompted.flips()
    ]
    return ", ".join(changes) or "no change"


def _shorten(arguments: list[str]) -> str:
    """Return the first arguments as text for a message."""
    return ", ".join(arguments[:2]) + (", …" if len(arguments) > 2 else "")


def _describe_prompt(region: str | None, density: str, suppress: bool) -> str:
    """Return the direction of the bias as text that follows "attention is biased"."""
    region_text = f"the region {region}" if region else f"patches that {density} scores high"
    return f"away from {region_text}" if suppress else f"towards {region_text}"
