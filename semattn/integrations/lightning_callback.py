"""Callback of Lightning's `Trainer` that logs maps. This module imports Lightning."""

from __future__ import annotations

from functools import partial
from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback

from .map_logging import (
    KEY,
    LoggedMap,
    MapLogger,
    Sink,
    check_whole_weights,
    to_tensorboard,
)


class LightningMapCallback(Callback):
    """Logs maps through the loggers of a trainer; created by `log_maps`.

    Parameters
    ----------
    maps : images and times
    """

    def __init__(self, maps: MapLogger) -> None:
        self.maps = maps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Log the maps before the first step."""
        check_whole_weights(pl_module)
        if trainer.is_global_zero:
            names = ", ".join(type(logger).__name__ for logger in trainer.loggers)
            self.maps.start(pl_module, trainer.global_step, _sinks(trainer), names)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any, **others: Any) -> None:
        """Log the maps after a step of the optimizer, if they are due."""
        if trainer.is_global_zero:
            self.maps.at_step(pl_module, trainer.global_step, _sinks(trainer))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the maps after an epoch, if they are due."""
        if trainer.is_global_zero:
            epoch = trainer.current_epoch + 1
            self.maps.at_epoch(pl_module, epoch, trainer.global_step, _sinks(trainer))


def _sinks(trainer: Any) -> list[Sink]:
    """Return the functions of the loggers that show pictures."""
    sinks: list[Sink] = []
    for logger in trainer.loggers:
        kinds = {kind.__name__ for kind in type(logger).__mro__}
        if "TensorBoardLogger" in kinds:
            sinks.append(partial(to_tensorboard, logger.experiment))
        elif "WandbLogger" in kinds:
            sinks.append(partial(_to_wandb, logger))
        elif "MLFlowLogger" in kinds:
            sinks.append(partial(_to_mlflow, logger))
    return sinks


def _to_wandb(logger: Any, maps: list[LoggedMap], step: int) -> None:
    captions = [logged.caption for logged in maps]
    logger.log_image(KEY, [logged.picture for logged in maps], step, caption=captions)


def _to_mlflow(logger: Any, maps: list[LoggedMap], step: int) -> None:
    for logged in maps:
        key = f"{KEY}/{logged.name}"
        logger.experiment.log_image(logger.run_id, logged.picture, key=key, step=step)
