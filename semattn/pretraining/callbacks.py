"""What a run does beside training: marks whole checkpoints, keeps its log, says how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..utils.atomic_files import write_text
from .checkpoints import CHECKPOINTS, LOG, mark
from .data import Order

KEYS = ("step", "epoch", "seconds", "loss", "learning_rate", "grad_norm", "eval_loss")


class Epochs(TrainerCallback):
    """Tells the order of the data which epoch begins, also after a resume in its middle."""

    def __init__(self, order: Order, steps: int) -> None:
        self.order, self.steps = order, steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """An epoch begins."""
        self.order.set_epoch(state.global_step // self.steps)


class Marks(TrainerCallback):
    """Marks a checkpoint once every process has written its part."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A checkpoint was written, by this process."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            step = state.global_step
            mark(self.out / CHECKPOINTS / f"checkpoint-{step}", step)


class Log(TrainerCallback):
    """The metrics of a run, a line each, with the seconds that training took, resumes included.

    Only training counts: evaluation, checkpoints and pictures do not.

    Parameters
    ----------
    out : where the log goes
    before : seconds spent before training, as on keypoints
    """

    def __init__(self, out: Path, before: float = 0.0) -> None:
        self.out, self.seconds, self.since = out, before, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Goes on from the log of the checkpoint."""
        spent = [one["seconds"] for one in state.log_history if "seconds" in one]
        self.seconds = max([self.seconds, *spent])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The clock runs."""
        self.since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The clock stands until the next step, but for loading data."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A line is added."""
        state.log_history[-1]["seconds"] = round(self.seconds, 3)
        self.since = time.perf_counter()

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The time of an evaluation is not that of training."""
        self.since = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The log is as old as the checkpoint."""
        self.write(state)
        self.since = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """The whole log."""
        self.write(state)

    def write(self, state: Any) -> None:
        """Write all lines, from the main process."""
        if state.is_world_process_zero:
            lines = [json.dumps(one) for one in lines_of(state.log_history)]
            write_text(self.out / LOG, "".join(f"{line}\n" for line in lines))


def lines_of(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of transformers' history is kept: losses and where they were."""
    losses = [one for one in history if "loss" in one or "eval_loss" in one]
    return [{key: one[key] for key in KEYS if key in one} for one in losses]


class Progress(TrainerCallback):
    """Tells a function what is done: ("training", steps done, steps in all)."""

    def __init__(self, say: Callable[[str, int, int], None]) -> None:
        self.say = say

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Where it goes on from."""
        if state.is_world_process_zero:
            self.say("training", state.global_step, state.max_steps)

    on_step_end = on_train_begin


class After(TrainerCallback):
    """Calls a function of (epochs done, seconds of training) on every process after each epoch.

    Before the checkpoint of that epoch is written: what the function keeps is never missing.
    """

    def __init__(self, call: Callable[[int, float], None], log: Log, steps: int) -> None:
        self.call, self.log, self.steps = call, log, steps

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A step ended, perhaps the last of an epoch."""
        if state.global_step % self.steps == 0:
            self.call(state.global_step // self.steps, self.log.seconds)
            self.log.since = time.perf_counter()


def replace_callbacks(trainer: Any, wanted: list[TrainerCallback]) -> None:
    """Give a trainer these callbacks in place of those that print."""
    for one in list(trainer.callback_handler.callbacks):
        if type(one).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(one)
    for one in wanted:
        trainer.add_callback(one)
