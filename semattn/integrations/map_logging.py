"""Pictures of maps that are logged while a model is trained by transformers or Lightning.

`MapLogger` draws the pictures and leaves the model and the random generators as they are. The
callbacks of both trainers, in modules of their own, only say when and where to.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from ..attention.target import TargetLike
from ..errors import SemattnError, UnsupportedModelError
from ..explain import Explainer, SIFTPatchInterrelation
from ..images import ImageLike, Images, Preprocessing, prepare
from ..keypoints import Keypoints
from ..utils.validation import check_number
from ..viz import Picture, overlay
from ..viz.texts import headline

KEY = "semattn"  # of the pictures in a logger: semattn/NAME


@dataclass(frozen=True)
class LoggedMap:
    """Picture (H, W, 3) uint8 of a map, with the name of its image and the explained class."""

    name: str
    picture: Picture
    caption: str


Sink: TypeAlias = Callable[[list[LoggedMap], int], None]
"""Function that writes maps of a step to a logger."""


class MapLogger:
    """Draws the maps of a fixed list of images, every few steps or epochs of a training.

    Parameters
    ----------
    images, every_n_steps, every_n_epochs, target, explainer, select_model : as for `log_maps`
    """

    def __init__(
        self,
        images: ImageLike,
        *,
        every_n_steps: int | None,
        every_n_epochs: int | None,
        target: TargetLike,
        explainer: Explainer | None,
        select_model: Callable[[Any], nn.Module] | None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
            if value is not None:
                check_number(name, value, minimum=1, integer=True)
        if every_n_steps is None and every_n_epochs is None:
            every_n_epochs = 1
        self.images: Any = images
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.target = target
        self.explainer = SIFTPatchInterrelation() if explainer is None else explainer
        self.select_model = select_model
        self.keypoints: list[Keypoints] | None = None
        self.last_step = -1  # at which maps were drawn

    def start(self, module: nn.Module, step: int, sinks: Sequence[Sink], names: str) -> None:
        """Log the maps at the start of a training; errors of the images are raised here.

        Parameters
        ----------
        module : the trained module
        step : number of finished steps
        sinks : functions of the loggers that show pictures
        names : names of all loggers, for a warning if there are no sinks
        """
        if sinks:
            self._log(module, step, sinks)
            return
        warnings.warn(
            "Maps are not logged: expected a logger for TensorBoard, Weights & Biases or MLflow, "
            f"got {names or 'none'}",
            UserWarning,
            stacklevel=2,
        )

    def at_step(self, module: nn.Module, step: int, sinks: Sequence[Sink]) -> None:
        """Log the maps after a step, if they are due."""
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            self._log_once(module, step, sinks)

    def at_epoch(self, module: nn.Module, epoch: int, step: int, sinks: Sequence[Sink]) -> None:
        """Log the maps after an epoch, counted from 1, if they are due."""
        if self.every_n_epochs is not None and epoch % self.every_n_epochs == 0:
            self._log_once(module, step, sinks)

    def _log_once(self, module: nn.Module, step: int, sinks: Sequence[Sink]) -> None:
        if step == self.last_step or not sinks:
            return
        try:
            self._log(module, step, sinks)
        except (SemattnError, ValueError, RuntimeError, OSError) as error:
            # NaN weights, no memory or disk left: the training continues without these pictures.
            warnings.warn(f"No maps were logged at step {step}: {error}", UserWarning, stacklevel=2)

    def _log(self, module: nn.Module, step: int, sinks: Sequence[Sink]) -> None:
        self.last_step = step
        with kept_random_state(module):
            maps = self._draw(module if self.select_model is None else self.select_model(module))
            for sink in sinks:
                sink(maps, step)

    def _draw(self, model: nn.Module) -> list[LoggedMap]:
        if not isinstance(self.images, Images):  # read once
            preprocessing = self.explainer.preprocessing or (lambda: Preprocessing.of(model))
            self.images = prepare(self.images, preprocessing, any_channels=True)
        explanation = self.explainer.explain(
            model,
            self.images,
            target=self.target,
            manifest={"method": self.explainer.name},  # the weights are not hashed
            keypoints=self.keypoints,
        )
        self.keypoints = explanation.keypoints
        names = explanation.images.names
        unique = [f"{i} {name}" if names.count(name) > 1 else name for i, name in enumerate(names)]
        return [
            LoggedMap(name, overlay(explanation, index), headline(explanation, index))
            for index, name in enumerate(unique)
        ]


def log_maps(
    trainer: Any,
    images: ImageLike,
    *,
    every_n_steps: int | None = None,
    every_n_epochs: int | None = None,
    target: TargetLike = None,
    explainer: Explainer | None = None,
    select_model: Callable[[Any], nn.Module] | None = None,
) -> Any:
    """Add a callback to a trainer that logs the maps of some images while it trains.

    The pictures are logged at the start, and then every few steps or epochs, by the trainer's own
    loggers: TensorBoard, Weights & Biases and MLflow. The result of the training is the same, bit
    for bit, as without the callback.

    Parameters
    ----------
    trainer : a `Trainer` of transformers or of Lightning
    images : images in any form that explainers accept; they are read once
    every_n_steps, every_n_epochs : steps of the optimizer, or epochs, between pictures; the default
        is every epoch
    target : as for `Explainer.attribute`; None explains the class that is predicted at the time
    explainer : explainer without a model; the default is `SIFTPatchInterrelation`
    select_model : function from the trained module to the model to explain, such as
        ``lambda module: module.net``; None explains the module itself

    Returns
    -------
    The callback, which is in the trainer's list.

    Raises
    ------
    TypeError
        For an object that is not such a trainer.

    Notes
    -----
    Each time costs one forward and backward pass on the images, in the main process only. An error
    at the start ends the training; later errors, such as NaN weights, are warnings. Weights that
    are spread over processes (FSDP, ZeRO-3) are refused.
    """
    maps = MapLogger(
        images,
        every_n_steps=every_n_steps,
        every_n_epochs=every_n_epochs,
        target=target,
        explainer=explainer,
        select_model=select_model,
    )
    packages = {kind.__module__.partition(".")[0] for kind in type(trainer).__mro__}
    if "transformers" in packages:
        from .trainer_callback import TrainerMapCallback

        callback: Any = TrainerMapCallback(trainer, maps)
        trainer.add_callback(callback)
        return callback
    if packages & {"lightning", "pytorch_lightning"}:
        from .lightning_callback import LightningMapCallback

        callback = LightningMapCallback(maps)
        trainer.callbacks.insert(0, callback)  # callbacks that save checkpoints come last
        return callback
    raise TypeError(
        f"trainer: expected a Trainer of transformers or Lightning, got {type(trainer).__name__}"
    )


def to_tensorboard(writer: Any, maps: list[LoggedMap], step: int) -> None:
    """Write maps by a `SummaryWriter`."""
    for logged in maps:
        writer.add_image(f"{KEY}/{logged.name}", logged.picture, step, dataformats="HWC")


def check_whole_weights(module: nn.Module) -> None:
    """Raise UnsupportedModelError for a module whose weights are spread over processes."""
    if part := _sharded_part(module):
        raise UnsupportedModelError(
            f"model: expected all weights in each process, got parts of {part} — "
            "explain checkpoints after the training"
        )


@contextmanager
def kept_random_state(module: nn.Module) -> Iterator[None]:
    """Restore the random generators of torch, NumPy and Python afterwards."""
    devices = {parameter.device for parameter in module.parameters()}
    accelerators = [device for device in devices if device.type not in ("cpu", "meta")]
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 — the caller's
    states = [
        (device, getattr(torch, device.type).get_rng_state(device)) for device in accelerators
    ]
    cpu_state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        for device, state in states:
            getattr(torch, device.type).set_rng_state(state, device)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _sharded_part(module: nn.Module) -> str:
    """Return the name of the first weight that is spread over processes; "" if there is none."""
    for name, part in module.named_modules():
        if type(part).__name__ == "FullyShardedDataParallel":
            return name or type(module).__name__
    for name, parameter in module.named_parameters():
        is_part = type(parameter.data).__module__.startswith("torch.distributed")
        if is_part or hasattr(parameter, "ds_id"):  # DTensor; DeepSpeed's ZeRO-3
            return name
    return ""
