"""transformers' `Trainer` with the data order and weighted loss of this package, and its callbacks.

This module imports transformers; `pretrain` imports it when a run starts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..images import Preprocessing
from ..masking import DescriptorWords
from ..utils.atomic_files import write_text
from ..utils.processes import Progress
from .checkpoints import CHECKPOINTS, LOG, mark
from .data import EpochSampler
from .models import model_targets
from .reconstruction import masked_loss

BASE_BATCH = 256  # images; learning rates are scaled relative to this batch size
BETAS = (0.9, 0.95)  # of AdamW, as in MAE
LOG_STEPS = 50  # maximum steps between log entries
MAX_WAIT = 7 * 24 * 3600  # seconds that processes wait for keypoint detection


class MaskedTrainer(Trainer):
    """`Trainer` of masked autoencoders with a weighted loss and a keyed data order.

    Targets other than pixels are computed inside the step, from the batch, on its device.

    Parameters
    ----------
    order : sampler of the training data
    preprocessing : normalisation of the data
    words : words of the run, if they are the target
    """

    def __init__(
        self,
        *args: Any,
        order: EpochSampler,
        preprocessing: Preprocessing,
        words: DescriptorWords | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.order, self.preprocessing, self.words = order, preprocessing, words
        self.can_return_loss = True  # evaluation has no labels
        self.model_accepts_loss_kwargs = False  # the model accepts and ignores them

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return self.order

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the batches of evaluation, the last of which may be smaller."""
        # One setting of transformers drops the last batch of training and of evaluation.
        self.args.dataloader_drop_last = False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers 5 saves some weights under their version 4 names, and its trainer skips
        # unknown names when it loads a checkpoint. `from_pretrained` maps both.
        network: Any = self.model if model is None else model
        loaded = type(network).from_pretrained(resume_from_checkpoint, local_files_only=True)
        network.load_state_dict(loaded.state_dict())

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of the model, weighted if the data has loss weights."""
        pixels, weight = inputs["pixel_values"], inputs.get("loss_weight")
        config = self.accelerator.unwrap_model(model).config
        if hasattr(config, "target"):
            targets = model_targets(config, pixels, self.preprocessing, self.words)
            out = model(pixel_values=pixels, noise=inputs["noise"], targets=targets, weights=weight)
            return (out.loss, out) if return_outputs else out.loss
        out = model(pixel_values=pixels, noise=inputs["noise"])
        loss = out.loss
        if weight is not None:
            network = self.accelerator.unwrap_model(model)
            loss = masked_loss(
                out.logits, network.patchify(pixels), out.mask, weight, network.config.norm_pix_loss
            )
        return (loss, out) if return_outputs else loss


def training_arguments(
    out_dir: Path,
    *,
    epochs: int,
    batch_size: int,
    processes: int,
    learning_rate: float,
    weight_decay: float,
    workers: int,
    precision: str,
    device: str,
    keep: int,
    evaluates: bool,
    seed: int,
) -> TrainingArguments:
    """Return transformers' arguments of a run, except those set by `set_steps`.

    Parameters
    ----------
    batch_size : images of one step, in all processes
    learning_rate : for a batch of 256, scaled linearly
    device : "cpu", or "auto": a GPU if available
    """
    arguments = TrainingArguments(
        output_dir=str(out_dir / CHECKPOINTS),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size // processes,
        per_device_eval_batch_size=batch_size // processes,
        learning_rate=learning_rate * batch_size / BASE_BATCH,
        weight_decay=weight_decay,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,  # MAE does not clip
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=device == "cpu" or not torch.cuda.is_available(),
        dataloader_drop_last=True,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=device != "cpu" and torch.cuda.is_available(),
        logging_strategy="steps",
        save_strategy="steps",
        save_total_limit=keep,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=1 if evaluates else None,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        seed=seed,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=MAX_WAIT,
        accelerator_config={"use_seedable_sampler": False, "dispatch_batches": False},
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # disables DataParallel; use one process per GPU
    return arguments


def set_steps(
    arguments: TrainingArguments, steps: int, *, warmup: float, checkpoint_steps: int | None
) -> None:
    """Set the arguments that depend on the number of steps per epoch.

    Parameters
    ----------
    warmup : fraction of the steps of a run
    checkpoint_steps : steps between checkpoints; one epoch if None
    """
    arguments.warmup_steps = round(warmup * steps * int(arguments.num_train_epochs))
    arguments.logging_steps = min(steps, LOG_STEPS)
    arguments.save_steps = steps if checkpoint_steps is None else checkpoint_steps
    if arguments.eval_steps is not None:
        arguments.eval_steps = steps


METRIC_KEYS = ("step", "epoch", "seconds", "loss", "learning_rate", "grad_norm", "eval_loss")


class EpochSetter(TrainerCallback):
    """Callback that sets the epoch of the data order, also after a resume within an epoch."""

    def __init__(self, order: EpochSampler, steps_per_epoch: int) -> None:
        self.order, self.steps = order, steps_per_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Set the epoch of the order."""
        self.order.set_epoch(state.global_step // self.steps)


class CheckpointMarker(TrainerCallback):
    """Callback that marks a checkpoint as complete once every process has written its part."""

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Wait for all processes, then mark the checkpoint."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            step = state.global_step
            mark(self.out_dir / CHECKPOINTS / f"checkpoint-{step}", step)


class MetricsLog(TrainerCallback):
    """Metrics log of a run, one JSON line per entry, with the training time including resumed runs.

    The time excludes evaluation, the writing of checkpoints and the drawing of reconstructions.

    Parameters
    ----------
    out_dir : folder of the log
    before : seconds spent before training, for example on keypoints
    """

    def __init__(self, out_dir: Path, before: float = 0.0) -> None:
        self.out_dir, self.seconds, self.since = out_dir, before, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Continue from the time logged in the checkpoint."""
        seconds = [entry["seconds"] for entry in state.log_history if "seconds" in entry]
        self.seconds = max([self.seconds, *seconds])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Start the clock."""
        self.since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Add the time of the step, including data loading."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Add the training time to the new entry."""
        state.log_history[-1]["seconds"] = round(self.seconds, 3)
        self.since = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Restart the clock, so that evaluation is not counted."""
        self.since = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the log together with the checkpoint."""
        self.write(state)
        self.since = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the complete log."""
        self.write(state)

    def write(self, state: Any) -> None:
        """Write all entries; does nothing outside the main process."""
        if state.is_world_process_zero:
            lines = [json.dumps(metrics) for metrics in select_metrics(state.log_history)]
            write_text(self.out_dir / LOG, "".join(f"{line}\n" for line in lines))


def select_metrics(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of transformers' history that hold a loss, with the logged keys only."""
    losses = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    return [{key: entry[key] for key in METRIC_KEYS if key in entry} for entry in losses]


class ProgressReporter(TrainerCallback):
    """Callback that calls a function with ("training", steps done, total steps)."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Report the number of finished steps."""
        if state.is_world_process_zero:
            self.progress("training", state.global_step, state.max_steps)

    on_step_end = on_train_begin


class EpochEnd(TrainerCallback):
    """Callback that calls a function with (epochs done, training seconds) after each epoch.

    It is called on every process.

    The call comes before the checkpoint of the epoch is written, so that a resumed run never lacks
    the output of the function.
    """

    def __init__(
        self, call: Callable[[int, float], None], log: MetricsLog, steps_per_epoch: int
    ) -> None:
        self.call, self.log, self.steps = call, log, steps_per_epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Call the function if the step was the last of an epoch."""
        if state.global_step % self.steps == 0:
            self.call(state.global_step // self.steps, self.log.seconds)
            self.log.since = time.perf_counter()


def replace_callbacks(trainer: Any, callbacks: list[TrainerCallback]) -> None:
    """Replace the printing callbacks of a trainer by `callbacks`."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    for callback in callbacks:
        trainer.add_callback(callback)
