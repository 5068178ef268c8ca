"""Callback of transformers' `Trainer` that logs maps. This module imports transformers."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import Trainer, TrainerCallback

from .map_logging import (
    KEY,
    LoggedMap,
    MapLogger,
    Sink,
    check_whole_weights,
    to_tensorboard,
)


class TrainerMapCallback(TrainerCallback):
    """Logs maps through the reporting callbacks of a trainer; created by `log_maps`.

    Parameters
    ----------
    trainer : the trainer whose callbacks report
    maps : images and times
    """

    def __init__(self, trainer: Trainer, maps: MapLogger) -> None:
        self.trainer, self.maps = trainer, maps

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Log the maps before the first step."""
        check_whole_weights(others["model"])
        if state.is_world_process_zero:
            names = ", ".join(type(reporter).__name__ for reporter in self._reporters())
            self.maps.start(others["model"], state.global_step, self._sinks(), names)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Log the maps after a step, if they are due."""
        if state.is_world_process_zero:
            self.maps.at_step(others["model"], state.global_step, self._sinks())

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Log the maps after an epoch, if they are due."""
        if state.is_world_process_zero:
            epoch = round(state.epoch)
            self.maps.at_epoch(others["model"], epoch, state.global_step, self._sinks())

    def _reporters(self) -> list[Any]:
        """Return the callbacks of the trainer that report to other programs."""
        return [
            callback
            for callback in self.trainer.callback_handler.callbacks
            if type(callback).__module__.startswith("transformers.integrations")
        ]

    def _sinks(self) -> list[Sink]:
        """Return the functions of the reporters that show pictures."""
        sinks: list[Sink] = []
        for callback in self._reporters():
            # The attributes of TensorBoardCallback, WandbCallback and MLflowCallback.
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                sinks.append(partial(to_tensorboard, writer))
            if (wandb := getattr(callback, "_wandb", None)) is not None:
                sinks.append(partial(_to_wandb, wandb))
            if (mlflow := getattr(callback, "_ml_flow", None)) is not None:
                sinks.append(partial(_to_mlflow, mlflow))
        return sinks


def _to_wandb(wandb: Any, maps: list[LoggedMap], step: int) -> None:
    pictures = [wandb.Image(logged.picture, caption=logged.caption) for logged in maps]
    wandb.log({KEY: pictures, "train/global_step": step})


def _to_mlflow(mlflow: Any, maps: list[LoggedMap], step: int) -> None:
    for logged in maps:
        mlflow.log_image(logged.picture, key=f"{KEY}/{logged.name}", step=step)
