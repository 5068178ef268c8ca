"""`pretrain`: a whole run, from pictures to a trained model, which goes on where it was stopped."""

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
from ..masking import GuidedMasking, KeypointCache, Masking
from ..utils.registry import choices
from ..utils.result_folder import FolderLike, ResultFolder
from .beginning import begin, keep_beginning, warn_of_edits
from .checkpoints import CHECKPOINTS, LOG, RUN, RunError, check_run, latest, write_json
from .data import FixedMasks, MaskedImages, Order
from .inputs import Inputs
from .models import build_model, need, quiet
from .pictures import PICTURE, draw, due

MODEL, KEYPOINTS = "model", "keypoints"
FILES = (RUN, LOG, PICTURE, f"{MODEL}/", f"{KEYPOINTS}/", f"{CHECKPOINTS}/")
LONGEST = 2.0  # pictures are searched for keypoints at this many times the input's side

Say = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A run, under way or finished.

    Parameters
    ----------
    model : the `ViTMAEForPreTraining`, on the device of the run
    data : what it is trained on
    out : the folder of the run
    settings : what was asked for
    keypoints_seconds : what finding the keypoints took; the log's seconds begin with it
    resumed : the step that it went on from; 0 for a run in one go
    main : whether this is the process that writes
    log : the metrics of a finished run, as in metrics.jsonl
    skipped : names of pictures that cannot be read and are left out, with reasons
    """

    model: Any
    data: MaskedImages
    out: Path
    settings: dict[str, Any]
    keypoints_seconds: float
    resumed: int
    main: bool
    log: tuple[dict[str, Any], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def pretrain(
    pictures: Sequence[Any],
    out: FolderLike,
    *,
    masking: Masking | None = None,
    model: Any = "small",
    image_size: int = 224,
    patch_size: int = 16,
    density: Any = "count",
    detector: str = "sift",
    keypoints: str = "cache",
    cache: str | os.PathLike[str] | None = None,
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
    progress: Say | None = None,
    after_epoch: Callable[[Pretrained, int, float], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> Pretrained:
    """Pre-train a masked autoencoder; the same call goes on with a run that was stopped.

    By transformers' trainer: started by `torchrun` or `accelerate launch` it runs in several
    processes, and the batch is shared among them. On a CPU, a run that was killed and resumed ends
    with the weights of one left alone, bit for bit, where it has as many threads.

    Parameters
    ----------
    pictures : paths, arrays or PIL images; what cannot be read is left out, and listed
    out : the folder of the run
    masking : the policy; `GuidedMasking(seed=seed)` if left out
    model, norm_pix_loss : as for `build_model`
    image_size, patch_size : pixels
    density, detector, loss_weight, temperature, scale : as for `MaskedImages`
    keypoints : "cache": found once in the whole pictures, and cropped with them; or "detect": found
        in each crop
    cache : the folder of that cache; one in `out` if left out. Runs on the same pictures may share
        one, and each counts the seconds that it took to make
    epochs, batch_size : the batch is that of all processes
    learning_rate : for a batch of 256, and scaled with it; cosine, after `warmup` of the steps
    seed : of weights, order and crops
    workers : processes that load data, for each process that trains
    precision : "float32", "bfloat16" or "float16", which needs a GPU
    device : "cpu", or "auto": a GPU where there is one
    checkpoint_steps : steps between checkpoints; an epoch if left out
    keep : how many checkpoints are kept
    validation : pictures whose loss under fixed random masks is logged after each epoch
    reconstructions : how many images reconstruction.png shows; 0 for no picture
    progress : told what is being done, how much is, and of how much
    after_epoch : called on every process with the run, the epochs done, and seconds of training
    callbacks : more of transformers' callbacks

    Raises
    ------
    RunError
        Where `out` holds a run of other settings, or one that was trained on other pictures, and
        where a picture can no longer be read.
    ImageError
        Where no picture can be read.
    OutputError, LockedError
        As `semattn.utils.result_folder.ResultFolder.running` does.

    Warns
    -----
    UserWarning
        Where pictures changed before anything was trained, or while the model was trained on them.
    """
    need()
    folder = out if isinstance(out, ResultFolder) else ResultFolder(Path(out), "pretrain")
    say = progress or _silent
    place = folder.path
    masking = GuidedMasking(seed=seed) if masking is None else masking
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    main = os.environ.get("RANK", "0") == "0"
    _check_batch(batch_size, processes)
    images_of = partial(
        MaskedImages, masking=masking, size=image_size, patch_size=patch_size, density=density,
        detector=detector, loss_weight=loss_weight, temperature=temperature, scale=scale, seed=seed,
    )  # fmt: skip
    options = images_of(pictures)
    network = build_model(
        model, image_size=image_size, patch_size=patch_size, mask_ratio=masking.mask_ratio,
        norm_pix_loss=norm_pix_loss, seed=seed,
    )  # fmt: skip
    settings = {
        "masking": {"policy": type(masking).__name__, **asdict(masking)},
        "model": network.config.to_diff_dict(),
        "density": density if isinstance(density, str) else getattr(density, "__name__", "own"),
        "detector": detector, "keypoints": keypoints, "loss_weight": loss_weight,
        "temperature": temperature, "scale": list(scale), "epochs": epochs,
        "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "warmup": warmup, "seed": seed, "precision": precision,
    }  # fmt: skip
    _check(settings, place, device)
    caches = keypoints == "cache" and options.uses_keypoints
    if caches:
        options.check_cacheable()
    check_run(place, settings)

    from . import callbacks as own
    from .trainer import MaskedTrainer, set_steps, training_arguments

    with ExitStack() as stack:
        if main:
            stack.enter_context(folder.running(FILES))
        arguments = training_arguments(
            place, epochs=epochs, batch_size=batch_size, processes=processes,
            learning_rate=learning_rate, weight_decay=weight_decay, workers=workers,
            precision=precision, device=device, keep=keep, evaluates=validation is not None,
            seed=seed,
        )  # fmt: skip
        # The main process comes first, and the others find its work done.
        with arguments.main_process_first(local=False) if processes > 1 else nullcontext():
            inputs, held = begin(place, pictures, validation, main, workers or None, say)
            steps = _steps(len(inputs.lines), batch_size)
            settings |= {"pictures": len(inputs.lines), "pictures_sha256": inputs.digest}
            data, spent = images_of(inputs.pictures), 0.0
            if caches:
                home = place / KEYPOINTS if cache is None else Path(cache)
                if main:
                    _cache(home, inputs, detector, image_size, workers, say, replace=cache is None)
                data.use(KeypointCache(home))
                spent = KeypointCache(home).seconds
            if main:
                keep_beginning(place, settings, spent, inputs, held)
            began = check_run(place, settings) or {}
        set_steps(arguments, steps, warmup=warmup, checkpoint_steps=checkpoint_steps)
        order, checkpoint = Order(len(data), seed), latest(place, tidy=False)
        trainer = MaskedTrainer(
            model=network, args=arguments, train_dataset=data, order=order, data_collator=collate,
            eval_dataset=None if held is None else FixedMasks(data, held.pictures),
        )  # fmt: skip
        run = Pretrained(
            model=network, data=data, out=place, settings=settings, main=main,
            keypoints_seconds=float(began["keypoints_seconds"]),
            resumed=0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
            skipped=inputs.skipped,
        )  # fmt: skip

        def after(done: int, seconds: float) -> None:
            if main and reconstructions and due(done, epochs):
                draw(network, data, reconstructions, done, place)
            if after_epoch is not None:
                after_epoch(run, done, seconds)

        log = own.Log(place, run.keypoints_seconds)
        own.replace_callbacks(
            trainer,
            [own.Epochs(order, steps), log, own.After(after, log, steps), own.Marks(place),
             own.Progress(say), *callbacks],
        )  # fmt: skip
        with quiet():
            _train(trainer, checkpoint)
            if main:
                _keep_model(network, place)
                write_json(place / RUN, {**began, "finished": True})
                warn_of_edits(inputs)
        arguments.distributed_state.wait_for_everyone()
    return replace(run, log=tuple(own.lines_of(trainer.state.log_history)))


def _train(trainer: Any, checkpoint: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except ImageError as error:
        raise _no_longer_readable(error) from error


def _no_longer_readable(error: ImageError) -> RunError:
    """Return the error of a picture that cannot be read while the model is trained."""
    # A worker of a DataLoader puts its traceback before the message.
    text = str(error).rpartition(f"{ImageError.__module__}.{ImageError.__name__}: ")[2]
    reason = text.removesuffix("\\n").strip()
    return RunError(
        f"pictures: expected those that could be read when the run was begun, got one that cannot "
        f"({reason}) — restore it, and the same call goes on"
    )


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items as a batch."""
    import torch

    return {name: torch.stack([one[name] for one in items]) for name in items[0]}


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""


def _check_batch(batch_size: int, processes: int) -> None:
    if batch_size < 1 or batch_size % processes:
        raise ValueError(
            f"batch_size: expected a multiple of {processes}, the number of processes, got "
            f"{batch_size}"
        )


def _steps(pictures: int, batch_size: int) -> int:
    """Steps of an epoch; pictures that fill no batch wait for the next epoch's order."""
    if pictures < batch_size:
        raise ValueError(
            f"batch_size: expected at most {pictures}, the number of pictures, got {batch_size} — "
            "lower it or give more pictures"
        )
    return pictures // batch_size


def _check(settings: dict[str, Any], out: Path, device: str) -> None:
    """Refuse what would fail later."""
    import torch

    if settings["epochs"] < 1:
        raise ValueError(f"epochs: expected 1 at least, got {settings['epochs']}")
    kinds = {"keypoints": ("cache", "detect"), "precision": ("float32", "bfloat16", "float16")}
    for name, known in kinds.items():
        if settings[name] not in known:
            raise ValueError(choices(name, settings[name], known))
    if device not in ("auto", "cpu"):
        raise ValueError(choices("device", device, ("auto", "cpu")))
    if settings["precision"] == "float16" and (device == "cpu" or not torch.cuda.is_available()):
        raise ValueError("precision: expected a GPU for float16, got none — bfloat16 runs on a CPU")
    if out.exists() and not out.is_dir():
        raise RunError(f"out: expected a folder, got the file {out} — choose another name")


def _cache(
    folder: Path, inputs: Inputs, detector: str, size: int, workers: int, say: Say, *, replace: bool
) -> KeypointCache:
    """Return the keypoints of all pictures; those that are not there are found."""
    return KeypointCache.build(
        inputs.pictures, folder, detector=detector, longest=round(LONGEST * size),
        workers=workers or None, progress=lambda done, total: say("keypoints", done, total),
        identities=inputs.lines, replace=replace,
    )  # fmt: skip


def _keep_model(model: Any, out: Path) -> None:
    """The trained model in its folder: whole, or not there."""
    partial = out / f".{MODEL}.{os.getpid()}"
    model.save_pretrained(partial)
    if (out / MODEL).exists():
        shutil.rmtree(out / MODEL)
    partial.replace(out / MODEL)
