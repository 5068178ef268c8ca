"""`semattn pretrain FOLDER`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.processes import Progress
from ..utils.registry import unknown_name_message
from . import options, pretrain_options
from .json_output import Content, json_output, result_content
from .outputs import result_folder
from .parsing import read_precision
from .printing import MAX_SKIPPED, busy, collected_warnings, progress_phases, verbatim

if TYPE_CHECKING:
    from ..masking import Masking
    from ..pretraining import PretrainingRun

MAX_WORKERS = 8


@json_output
def pretrain(
    folder: pretrain_options.PhotoFolder,
    masking: pretrain_options.MaskingName = None,
    beta: pretrain_options.Beta = None,
    beta_end: pretrain_options.BetaEnd = None,
    schedule: pretrain_options.ScheduleShape = "linear",
    hint: pretrain_options.Hint = None,
    mask_ratio: pretrain_options.MaskRatio = 0.75,
    density: pretrain_options.MaskDensity = "count",
    detector: options.Detector = "sift",
    keypoints: pretrain_options.KeypointsFrom = "cache",
    target: pretrain_options.PatchTarget = "sift",
    window: pretrain_options.Window = 16.0,
    words: pretrain_options.WordCount = 512,
    loss_weight: pretrain_options.LossWeight = "none",
    temperature: pretrain_options.Temperature = 0.5,
    model: pretrain_options.MaeModel = "small",
    image_size: pretrain_options.ImageSize = 224,
    patch_size: pretrain_options.PatchSize = 16,
    epochs: pretrain_options.EpochCount = 100,
    batch_size: pretrain_options.TrainBatch = 64,
    learning_rate: pretrain_options.LearningRate = 1.5e-4,
    workers: pretrain_options.Workers = None,
    precision: pretrain_options.TrainPrecision = "auto",
    device: pretrain_options.TrainDevice = "auto",
    seed: pretrain_options.TrainSeed = 0,
    checkpoint_steps: pretrain_options.CheckpointSteps = None,
    validation: pretrain_options.Validation = None,
    out: pretrain_options.PretrainFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content | None:
    r"""Pre-train a masked autoencoder on unlabelled photographs, with SIFT descriptors as targets.

    The model is [bold]ViTMAEForPreTraining[/], trained with transformers and Accelerate:
    [bold]pip install 'semattn\[pretrain]'[/]. The mask of a photograph depends on its index
    in the folder, the epoch and the seed, and not on the number of processes.
    Photographs that cannot be read are skipped and listed. After an interruption, the
    same command resumes. On several GPUs, run
    [bold]accelerate launch -m semattn pretrain FOLDER[/]; on GPUs or a CPU, run
    [bold]torchrun --nproc-per-node 2 -m semattn pretrain FOLDER[/].

    Writes [bold]model/[/] (for [bold]from_pretrained[/]), [bold]metrics.jsonl[/] (one line per
    epoch and per 50 steps), [bold]reconstruction.png[/] (reconstructions of six
    photographs, updated during training), [bold]pretrain.json[/] (settings and versions),
    [bold]keypoints/[/] and [bold]checkpoints/[/]; with [bold]--target words[/] also
    [bold]words.npz[/].
    """
    from ..data import list_images
    from ..pretraining import FILES, end_processes, pretrain as run

    is_main = os.environ.get("RANK", "0") == "0"
    results = result_folder(out, "semattn-pretrain", "pretrain", (folder,), FILES, force=force)
    policy = _policy(masking, beta, beta_end, schedule, hint, mask_ratio, seed, epochs)
    with collected_warnings() as notes:
        with busy("listing the folder") if is_main else nullcontext():
            pictures = list_images(folder)
            others = None if validation is None else list_images(validation)
        progress_context: AbstractContextManager[Progress | None]
        progress_context = progress_phases() if is_main else nullcontext()
        with progress_context as progress:
            finished = run(
                pictures, results, masking=policy, model=model, image_size=image_size,
                patch_size=patch_size, density=density, detector=detector, keypoints=keypoints,
                target=target, window=window, words=words, loss_weight=loss_weight,
                temperature=temperature, epochs=epochs, batch_size=batch_size,
                learning_rate=learning_rate, seed=seed,
                workers=_workers() if workers is None else workers,
                precision=_precision(precision, device), device=device,
                checkpoint_steps=checkpoint_steps, validation=others, progress=progress,
            )  # fmt: skip
    end_processes()
    if not is_main:
        return None
    files = _files(finished)
    _report(finished, files, notes)
    content = result_content(files["settings"], files, notes, list(finished.skipped))
    return content | {"resumed_from_step": finished.resumed, "log": list(finished.log)}


def _policy(
    name: str | None,
    beta: float | None,
    beta_end: float | None,
    shape: str,
    hint: float | None,
    mask_ratio: float,
    seed: int,
    epochs: int,
) -> Masking:
    """Return the masking policy that the options define: random, or guided with its options."""
    from ..masking import GuidedMasking, Schedule, policies

    if shape not in ("linear", "cosine"):
        raise ValueError(unknown_name_message("schedule", shape, ("linear", "cosine")))
    guided_options = {"--beta": beta, "--beta-end": beta_end, "--hint": hint}
    options_set = [option for option, value in guided_options.items() if value is not None]
    policy = policies.resolve(name or ("guided" if options_set else "random"))
    if policy is not GuidedMasking:
        if options_set:
            raise ValueError(
                f"{options_set[0]}: expected --masking guided, got --masking {name} — omit one of "
                "them"
            )
        masking: Masking = policy(mask_ratio, seed)
        return masking
    start = 2.0 if beta is None else beta
    beta_schedule = start if beta_end is None else Schedule(start, beta_end, epochs, shape)
    return GuidedMasking(mask_ratio, seed, beta_schedule, hint or 0.0)


def _workers() -> int:
    """Return the default number of loading processes: the free CPU cores, at most MAX_WORKERS."""
    from ..utils.processes import own_cores

    return min(MAX_WORKERS, max(0, own_cores() - 1))


def _precision(name: str, device: str) -> str:
    import torch

    gpu = device != "cpu" and torch.cuda.is_available()
    return read_precision(name, "cuda" if gpu else "cpu")


def _files(finished: PretrainingRun) -> dict[str, Path]:
    """Return the path of each file and folder of the run, by name."""
    from ..pretraining.checkpoints import LOG
    from ..pretraining.reconstruction import PICTURE

    names = {"model": "model", "log": LOG, "settings": "pretrain.json"}
    if (finished.out_dir / PICTURE).exists():
        names["picture"] = PICTURE
    return {key: finished.out_dir / name for key, name in names.items()}


def _report(finished: PretrainingRun, files: dict[str, Path], notes: list[str]) -> None:
    """Print the losses, the time, skipped photographs and result files."""
    from ..pretraining.reconstruction import describe
    from .printing import print_files
    from .terminal import open_console

    console = open_console()
    settings = finished.settings
    console.print(
        f"[bold]{settings['pictures']}[/] photographs, {settings['epochs']} epochs, "
        f"{describe(finished.data, settings['epochs'] - 1)}"
        + ("" if settings["target"] == "pixels" else f", target {settings['target']}"),
        soft_wrap=True,
    )
    if finished.resumed:
        console.print(f"resumed from step {finished.resumed}")
    for key, label in (("loss", "loss"), ("eval_loss", "loss under fixed random masks")):
        entries = [entry for entry in finished.log if key in entry]
        if entries:
            first, last = entries[0], entries[-1]
            console.print(f"{label}: {first[key]:.4f} → [bold]{last[key]:.4f}[/]")
    console.print(_time(finished))
    if skipped := finished.skipped:
        console.print(f"[yellow]skipped:[/] {len(skipped)} that cannot be read")
        for name, reason in skipped[:MAX_SKIPPED]:
            console.print(f"  {verbatim(name)}: {verbatim(reason)}", soft_wrap=True)
        if len(skipped) > MAX_SKIPPED:
            console.print(f"  … and {len(skipped) - MAX_SKIPPED} more", soft_wrap=True)
    print_files(console, notes, "", files)


def _time(finished: PretrainingRun) -> str:
    """Return the seconds of training and of keypoint detection, as text."""
    seconds = max((entry["seconds"] for entry in finished.log if "seconds" in entry), default=0.0)
    text = f"{seconds:,.0f} s of training"
    keypoint_seconds = finished.keypoints_seconds
    return (
        f"{text}, {keypoint_seconds:,.1f} s of which for keypoints"
        if keypoint_seconds >= 1
        else text
    )
