"""Trainer callbacks of a run: epoch order, checkpoint marks, metrics log and progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..utils.atomic_files import write_text
from ..utils.progress import Progress
from .checkpoints import CHECKPOINTS, LOG, mark
from .data import EpochSampler

METRIC_KEYS = ("step", "epoch", "seconds", "loss", "learning_rate", "grad_norm", "eval_loss")


class EpochSetter(TrainerCallback):
    """Sets the epoch of the data order, also after a resume in the middle of an epoch."""

    def __init__(self, order: EpochSampler, steps_per_epoch: int) -> None:
        self.order, self.steps = order, steps_per_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Set the epoch of the order."""
        self.order.set_epoch(state.global_step // self.steps)


class CheckpointMarker(TrainerCallback):
    """CheckpointMarker a checkpoint once every process has written its part."""

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

    The time excludes evaluation, checkpoints and pictures.

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
    """Reports progress to a function: ("training", steps done, total steps)."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Report the number of finished steps."""
        if state.is_world_process_zero:
            self.progress("training", state.global_step, state.max_steps)

    on_step_end = on_train_begin


class EpochEnd(TrainerCallback):
    """Calls a function with (epochs done, training seconds) after each epoch, on every process.

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
