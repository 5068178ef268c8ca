"""`pretrain`: a complete, resumable run, from pictures to a trained model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..masking import DescriptorWords, KeypointCache, Masking, RandomMasking
from ..utils.processes import Progress, ignore_progress
from ..utils.registry import unknown_name_message
from ..utils.result_folder import FolderLike, ResultFolder
from ..zoo.hub_cache import hide_progress_bars
from .checkpoints import CHECKPOINTS, LOG, RUN, RunError, check_run, latest, write_json
from .data import EpochSampler, FixedMasks, MaskedImages
from .inputs import Inputs, begin, save_run_start, warn_about_edits
from .models import WORDS, build_model, check_packages
from .reconstruction import PICTURE, draw_reconstruction, is_due

MODEL, KEYPOINTS, WORDS_FILE = "model", "keypoints", "words.npz"
FILES = (RUN, LOG, PICTURE, WORDS_FILE, f"{MODEL}/", f"{KEYPOINTS}/", f"{CHECKPOINTS}/")
LONGEST = 2.0  # shorter side of pictures in keypoint detection, relative to the input size


@dataclass(frozen=True, eq=False)
class PretrainingRun:
    """Record of a run, in progress or finished.

    Parameters
    ----------
    model : the `ViTMAEForPreTraining` or `ViTMAEForTargets`, on the device of the run
    data : training data set
    out_dir : folder of the run
    settings : settings of the run
    keypoints_seconds : time of keypoint detection; the seconds of the log include it
    resumed : step at which the run was resumed; 0 for an uninterrupted run
    is_main : true in the process that writes files
    log : metrics of a finished run, as in metrics.jsonl
    skipped : names of unreadable pictures, with reasons
    words : words of the run, if they are the target
    """

    model: Any
    data: MaskedImages
    out_dir: Path
    settings: dict[str, Any]
    keypoints_seconds: float
    resumed: int
    is_main: bool
    log: tuple[dict[str, Any], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    words: DescriptorWords | None = None


def pretrain(
    pictures: Sequence[Any],
    out_dir: FolderLike,
    *,
    masking: Masking | None = None,
    model: Any = "small",
    image_size: int = 224,
    patch_size: int = 16,
    density: Any = "count",
    detector: str = "sift",
    keypoints: str = "cache",
    cache: str | os.PathLike[str] | None = None,
    target: str = "sift",
    window: float = 16.0,
    words: int = 512,
    loss_weight: str = "none",
    temperature: float = 0.5,
    scale: tuple[float, float] = (0.2, 1.0),
    norm_pix_loss: bool = True,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1.5e-4,
    weight_decay: float = 0.05,
    warmup: float = 0.05,
    seed: int = 0,
    workers: int = 0,
    precision: str = "float32",
    device: str = "auto",
    checkpoint_steps: int | None = None,
    keep: int = 2,
    validation: Sequence[Any] | None = None,
    reconstructions: int = 6,
    progress: Progress | None = None,
    after_epoch: Callable[[PretrainingRun, int, float], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> PretrainingRun:
    """Pre-train a masked autoencoder; the same call resumes an interrupted run.

    Uses transformers' trainer. With `torchrun` or `accelerate launch`, the batch is divided among
    the processes. On a CPU, an interrupted and resumed run ends with bit-identical weights, given
    the same number of threads.

    Parameters
    ----------
    pictures : paths, arrays or PIL images; unreadable pictures are skipped and listed
    out_dir : folder of the run
    masking : masking policy; `RandomMasking(seed=seed)` by default
    model, norm_pix_loss : as for `build_model`
    target, window, words : target of the masked patches, as for `build_model`. Targets are computed
        inside the step; words are fitted to crops of the first epoch and written to words.npz
    image_size, patch_size : pixels
    density, detector, loss_weight, temperature, scale : as for `MaskedImages`
    keypoints : "cache": detect once in the full pictures and crop the keypoints; "detect": detect
        in each crop
    cache : folder of the keypoint cache; a subfolder of `out_dir` by default. Runs on the same
        pictures may share a cache; each run counts the time to build it
    epochs, batch_size : `batch_size` is the total over all processes
    learning_rate : for a batch of 256, scaled linearly; cosine schedule after a warm-up over the
        fraction `warmup` of the steps
    seed : seed of weights, order and crops
    workers : data loading processes for each training process
    precision : "float32", "bfloat16" or "float16", which needs a GPU
    device : "cpu", or "auto": a GPU if available
    checkpoint_steps : steps between checkpoints; one epoch by default
    keep : number of checkpoints to keep
    validation : pictures whose loss under fixed random masks is logged after each epoch
    reconstructions : number of images in reconstruction.png; 0 for no picture
    progress : called with the stage, the number of finished items and the total
    after_epoch : called on every process with the run, the finished epochs and training seconds
    callbacks : additional callbacks of transformers

    Raises
    ------
    RunError
        If `out_dir` holds a run with other settings or pictures, or if a picture can no longer be
        read.
    ImageError
        If no picture can be read.
    OutputError, LockedError
        As raised by `semattn.utils.result_folder.ResultFolder.running`.

    Warns
    -----
    UserWarning
        If pictures changed before the first checkpoint, or during training.
    """
    check_packages()
    results = (
        out_dir if isinstance(out_dir, ResultFolder) else ResultFolder(Path(out_dir), "pretrain")
    )
    progress = progress or ignore_progress
    run_dir = results.path
    masking = RandomMasking(seed=seed) if masking is None else masking
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    is_main = os.environ.get("RANK", "0") == "0"
    _check_batch(batch_size, processes)
    make_data = partial(
        MaskedImages, masking=masking, size=image_size, patch_size=patch_size, density=density,
        detector=detector, loss_weight=loss_weight, temperature=temperature, scale=scale, seed=seed,
    )  # fmt: skip
    options = make_data(pictures)
    network = build_model(
        model, image_size=image_size, patch_size=patch_size, mask_ratio=masking.mask_ratio,
        norm_pix_loss=norm_pix_loss, target=target, window=window, words=words, seed=seed,
    )  # fmt: skip
    settings = {
        "masking": {"policy": type(masking).__name__, **asdict(masking)},
        "model": network.config.to_diff_dict(),
        "density": density if isinstance(density, str) else getattr(density, "__name__", "own"),
        "detector": detector, "keypoints": keypoints, "target": target,
        "window": None if target == "pixels" else window,
        "words": words if target == WORDS else None, "loss_weight": loss_weight,
        "temperature": temperature, "scale": list(scale), "epochs": epochs,
        "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "warmup": warmup, "seed": seed, "precision": precision,
    }  # fmt: skip
    _check_settings(settings, run_dir, device)
    uses_cache = keypoints == "cache" and options.uses_keypoints
    if uses_cache:
        options.check_cacheable()
    check_run(run_dir, settings)

    from . import trainer as training

    with ExitStack() as stack:
        if is_main:
            stack.enter_context(results.running(FILES))
        arguments = training.training_arguments(
            run_dir, epochs=epochs, batch_size=batch_size, processes=processes,
            learning_rate=learning_rate, weight_decay=weight_decay, workers=workers,
            precision=precision, device=device, keep=keep, evaluates=validation is not None,
            seed=seed,
        )  # fmt: skip
        # The main process runs first; the others reuse its files.
        with arguments.main_process_first(local=False) if processes > 1 else nullcontext():
            inputs, validation_inputs = begin(
                run_dir, pictures, validation, is_main, workers or None, progress
            )
            steps = _steps_per_epoch(len(inputs.lines), batch_size)
            settings |= {"pictures": len(inputs.lines), "pictures_sha256": inputs.digest}
            data, keypoints_seconds = make_data(inputs.pictures), 0.0
            run_words, words_seconds = _run_words(
                run_dir, data, settings, is_main=is_main, progress=progress
            )
            if uses_cache:
                keypoints_dir = run_dir / KEYPOINTS if cache is None else Path(cache)
                if is_main:
                    _build_cache(
                        keypoints_dir,
                        inputs,
                        detector,
                        image_size,
                        workers,
                        progress,
                        replace=cache is None,
                    )
                data.use(KeypointCache(keypoints_dir))
                keypoints_seconds = KeypointCache(keypoints_dir).seconds
            if is_main:
                save_run_start(
                    run_dir, settings, keypoints_seconds, inputs, validation_inputs, words_seconds
                )
            saved_run = check_run(run_dir, settings) or {}
        training.set_steps(arguments, steps, warmup=warmup, checkpoint_steps=checkpoint_steps)
        order, checkpoint = EpochSampler(len(data), seed), latest(run_dir, tidy=False)
        fixed_masks = (
            None if validation_inputs is None else FixedMasks(data, validation_inputs.pictures)
        )
        trainer = training.MaskedTrainer(
            model=network, args=arguments, train_dataset=data, order=order, data_collator=collate,
            eval_dataset=fixed_masks, preprocessing=data.preprocessing, words=run_words,
        )  # fmt: skip
        run = PretrainingRun(
            model=network, data=data, out_dir=run_dir, settings=settings, is_main=is_main,
            keypoints_seconds=float(saved_run["keypoints_seconds"]),
            resumed=0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
            skipped=inputs.skipped, words=run_words,
        )  # fmt: skip

        def call_after_epoch(done: int, seconds: float) -> None:
            if is_main and reconstructions and is_due(done, epochs):
                draw_reconstruction(network, data, reconstructions, done, run_dir, words=run_words)
            if after_epoch is not None:
                after_epoch(run, done, seconds)

        seconds_before = run.keypoints_seconds + float(saved_run.get("words_seconds", 0))
        log = training.MetricsLog(run_dir, seconds_before)
        training.replace_callbacks(
            trainer,
            [
                training.EpochSetter(order, steps),
                log,
                training.EpochEnd(call_after_epoch, log, steps),
                training.CheckpointMarker(run_dir),
                training.ProgressReporter(progress),
                *callbacks,
            ],
        )
        with hide_progress_bars():
            _train(trainer, checkpoint)
            if is_main:
                _save_model(network, run_dir)
                write_json(run_dir / RUN, {**saved_run, "finished": True})
                warn_about_edits(inputs)
        arguments.distributed_state.wait_for_everyone()
    return replace(run, log=tuple(training.select_metrics(trainer.state.log_history)))


def end_processes() -> None:
    """End the connections between the processes of `pretrain`, at the end of a script.

    A process that exits with open connections may abort. Nothing changes with one process.
    """
    from accelerate import PartialState

    PartialState().destroy_process_group()


def _train(trainer: Any, checkpoint: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except ImageError as error:
        raise _unreadable_picture_error(error) from error


def _unreadable_picture_error(error: ImageError) -> RunError:
    """Return the error for a picture that became unreadable during training."""
    # A DataLoader worker prepends its traceback to the message.
    text = str(error).rpartition(f"{ImageError.__module__}.{ImageError.__name__}: ")[2]
    reason = text.removesuffix("\\n").strip()
    return RunError(
        f"pictures: expected all pictures to stay readable during the run, got one that is not "
        f"({reason}) — restore it and resume with the same call"
    )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack items into a batch."""
    import torch

    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def _check_batch(batch_size: int, processes: int) -> None:
    if batch_size < 1 or batch_size % processes:
        raise ValueError(
            f"batch_size: expected a multiple of {processes}, the number of processes, got "
            f"{batch_size}"
        )


def _steps_per_epoch(pictures: int, batch_size: int) -> int:
    """Return the steps of an epoch; an incomplete last batch is dropped."""
    if pictures < batch_size:
        raise ValueError(
            f"batch_size: expected at most {pictures}, the number of pictures, got {batch_size} — "
            "lower it or pass more pictures"
        )
    return pictures // batch_size


def _check_settings(settings: dict[str, Any], out_dir: Path, device: str) -> None:
    """Raise for settings that would fail later in the run."""
    import torch

    if settings["epochs"] < 1:
        raise ValueError(f"epochs: expected at least 1, got {settings['epochs']}")
    allowed_values = {
        "keypoints": ("cache", "detect"),
        "precision": ("float32", "bfloat16", "float16"),
    }
    for name, allowed in allowed_values.items():
        if settings[name] not in allowed:
            raise ValueError(unknown_name_message(name, settings[name], allowed))
    if device not in ("auto", "cpu"):
        raise ValueError(unknown_name_message("device", device, ("auto", "cpu")))
    if settings["precision"] == "float16" and (device == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision: expected a GPU for float16, got none — bfloat16 runs on a CPU")
    if out_dir.exists() and not out_dir.is_dir():
        raise RunError(f"out: expected a folder, got the file {out_dir} — choose another name")


def _build_cache(
    cache_dir: Path,
    inputs: Inputs,
    detector: str,
    size: int,
    workers: int,
    progress: Progress,
    *,
    replace: bool,
) -> KeypointCache:
    """Return the keypoint cache of all pictures, completed if necessary."""
    return KeypointCache.build(
        inputs.pictures, cache_dir, detector=detector, max_side=round(LONGEST * size),
        workers=workers or None, progress=progress,
        identities=inputs.lines, replace=replace,
    )  # fmt: skip


def _run_words(
    run_dir: Path,
    data: MaskedImages,
    settings: dict[str, Any],
    *,
    is_main: bool,
    progress: Progress,
) -> tuple[DescriptorWords | None, float]:
    """Return the words of a run and the seconds of fitting them; None for other targets."""
    if settings["target"] != WORDS:
        return None, 0.0
    from .targets import prepare_words

    return prepare_words(
        run_dir / WORDS_FILE, data, settings["words"], float(settings["window"]),
        seed=settings["seed"], progress=progress,
        is_fitted=not is_main or latest(run_dir, tidy=False) is not None,
    )  # fmt: skip


def _save_model(model: Any, out_dir: Path) -> None:
    """Save the trained model to its folder, atomically."""
    temporary = out_dir / f".{MODEL}.{os.getpid()}"
    model.save_pretrained(temporary)
    if (out_dir / MODEL).exists():
        shutil.rmtree(out_dir / MODEL)
    temporary.replace(out_dir / MODEL)
