"""`semattn pretrain FOLDER`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..registry import choices
from . import options
from .console import MOST_SKIPPED, busy, phases, told, verbatim
from .folders import result_folder
from .json_output import Content, json_output, result_content
from .reading import read_precision

if TYPE_CHECKING:
    from ..masking import Masking
    from ..pretraining import Pretrained

MOST_WORKERS = 8


@json_output
def pretrain(
    folder: options.PhotoFolder,
    masking: options.MaskingName = "guided",
    beta: options.Beta = 2.0,
    beta_end: options.BetaEnd = None,
    schedule: options.ScheduleShape = "linear",
    hint: options.Hint = 0.0,
    mask_ratio: options.MaskRatio = 0.75,
    density: options.MaskDensity = "count",
    detector: options.Detector = "sift",
    keypoints: options.KeypointsFrom = "cache",
    loss_weight: options.LossWeight = "none",
    temperature: options.Temperature = 0.5,
    model: options.MaeModel = "small",
    image_size: options.ImageSize = 224,
    patch_size: options.PatchSize = 16,
    epochs: options.EpochCount = 100,
    batch_size: options.TrainBatch = 64,
    learning_rate: options.LearningRate = 1.5e-4,
    workers: options.Workers = None,
    precision: options.TrainPrecision = "auto",
    device: options.TrainDevice = "auto",
    seed: options.TrainSeed = 0,
    checkpoint_steps: options.CheckpointSteps = None,
    validation: options.Validation = None,
    out: options.PretrainFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content | None:
    r"""Pre-train a ViT on photographs without labels, hiding patches by their keypoints.

    A masked autoencoder ([bold]ViTMAEForPreTraining[/]), trained by transformers and
    Accelerate: [bold]pip install 'semattn\[pretrain]'[/]. What is hidden of a photograph
    depends on its place in the folder, the epoch and the seed, whatever the number
    of processes. Photographs that cannot be read are skipped and listed. After an
    interruption the same command goes on. On several GPUs:
    [bold]accelerate launch -m semattn pretrain FOLDER[/], or, as on a CPU as well,
    [bold]torchrun --nproc-per-node 2 -m semattn pretrain FOLDER[/].

    Writes [bold]model/[/] (for [bold]from_pretrained[/]), [bold]metrics.jsonl[/] (a line an
    epoch, or each 50 steps), [bold]reconstruction.png[/] (what the model makes of
    six photographs, drawn anew as it learns), [bold]pretrain.json[/] (settings and
    versions), [bold]keypoints/[/] and [bold]checkpoints/[/].
    """
    from ..images import listed
    from ..pretraining import FILES, pretrain as run

    main = os.environ.get("RANK", "0") == "0"
    place = result_folder(out, "semattn-pretrain", "pretrain", (folder,), FILES, force=force)
    policy = _policy(masking, beta, beta_end, schedule, hint, mask_ratio, seed, epochs)
    with told() as notes:
        with busy("listing the folder") if main else nullcontext():
            pictures = listed(folder)
            others = None if validation is None else listed(validation)
        shown: AbstractContextManager[Callable[[str, int, int], None] | None]
        shown = phases() if main else nullcontext()
        with shown as progress:
            finished = run(
                pictures, place, masking=policy, model=model, image_size=image_size,
                patch_size=patch_size, density=density, detector=detector, keypoints=keypoints,
                loss_weight=loss_weight, temperature=temperature, epochs=epochs,
                batch_size=batch_size, learning_rate=learning_rate, seed=seed,
                workers=_workers() if workers is None else workers,
                precision=_precision(precision, device), device=device,
                checkpoint_steps=checkpoint_steps, validation=others, progress=progress,
            )  # fmt: skip
    if not main:
        return None
    files = _files(finished)
    _report(finished, files, notes)
    content = result_content(files["settings"], files, notes, list(finished.skipped))
    return content | {"resumed_from_step": finished.resumed, "log": list(finished.log)}


def _policy(
    name: str,
    beta: float,
    beta_end: float | None,
    shape: str,
    hint: float,
    mask_ratio: float,
    seed: int,
    epochs: int,
) -> Masking:
    """The masking policy that was asked for."""
    from ..masking import GuidedMasking, Schedule, policies

    if shape not in ("linear", "cosine"):
        raise ValueError(choices("schedule", shape, ("linear", "cosine")))
    chosen = policies.ensure(name)
    if chosen is not GuidedMasking:
        made: Masking = chosen(mask_ratio, seed)
        return made
    moving = beta if beta_end is None else Schedule(beta, beta_end, epochs, shape)
    return GuidedMasking(mask_ratio, seed, moving, hint)


def _workers() -> int:
    """Loading in the background where a process has processors to spare."""
    from ..cores import own_cores

    return min(MOST_WORKERS, max(0, own_cores() - 1))


def _precision(name: str, device: str) -> str:
    import torch

    gpu = device != "cpu" and torch.cuda.is_available()
    return read_precision(name, "cuda" if gpu else "cpu")


def _files(finished: Pretrained) -> dict[str, Path]:
    """Return the path of each file and folder of the run, by name."""
    from ..pretraining.checkpoints import LOG
    from ..pretraining.pictures import PICTURE

    names = {"model": "model", "log": LOG, "settings": "pretrain.json"}
    if (finished.out / PICTURE).exists():
        names["picture"] = PICTURE
    return {key: finished.out / name for key, name in names.items()}


def _report(finished: Pretrained, files: dict[str, Path], notes: list[str]) -> None:
    """What came out, and where it is."""
    from ..pretraining.pictures import describe
    from .console import closing
    from .terminal import open_console

    console = open_console()
    settings = finished.settings
    console.print(
        f"[bold]{settings['pictures']}[/] photographs, {settings['epochs']} epochs, "
        f"{describe(finished.data, settings['epochs'] - 1)}",
        soft_wrap=True,
    )
    if finished.resumed:
        console.print(f"went on from step {finished.resumed}")
    for key, said in (("loss", "loss"), ("eval_loss", "loss under fixed random masks")):
        found = [one for one in finished.log if key in one]
        if found:
            first, last = found[0], found[-1]
            console.print(f"{said}: {first[key]:.4f} → [bold]{last[key]:.4f}[/]")
    console.print(_time(finished))
    if skipped := finished.skipped:
        console.print(f"[yellow]skipped:[/] {len(skipped)}, which cannot be read")
        for name, reason in skipped[:MOST_SKIPPED]:
            console.print(f"  {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
        if len(skipped) > MOST_SKIPPED:
            console.print(f"  … and {len(skipped) - MOST_SKIPPED} more", soft_wrap=True)
    closing(console, notes, "", files)


def _time(finished: Pretrained) -> str:
    """Seconds of training, and of finding keypoints."""
    spent = max((one["seconds"] for one in finished.log if "seconds" in one), default=0.0)
    said = f"{spent:,.0f} s of training"
    before = finished.keypoints_seconds
    return f"{said}, {before:,.1f} s of them for keypoints" if before >= 1 else said
