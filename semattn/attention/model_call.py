"""Arguments of one call of a model, including the images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError


@dataclass(frozen=True)
class ModelCall:
    """Arguments of one call of a model; `where` is the position or keyword of the images."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: int | str

    @property
    def images(self) -> Tensor:
        """Images (B, C, H, W)."""
        images = self.args[self.where] if isinstance(self.where, int) else self.kwargs[self.where]
        assert isinstance(images, Tensor)
        return images

    @property
    def has_only_images(self) -> bool:
        """Return whether the images are the only tensor, so that a smaller batch is possible."""
        arguments = (*self.args, *self.kwargs.values())
        return sum(isinstance(argument, Tensor) for argument in arguments) == 1

    @property
    def key(self) -> tuple[Any, ...]:
        """Cache key of the token layout: shapes, devices, dtype and the other arguments."""
        others = [
            (tuple(item.shape), str(item.device)) if isinstance(item, Tensor) else repr(item)
            for item in (*self.args, *self.kwargs, *self.kwargs.values())
            if item is not self.images
        ]
        images = self.images
        batch = min(len(images), 2) if self.has_only_images else len(images)
        return (images.shape[1:], batch, images.device, images.dtype, *others)

    def with_images(self, images: Tensor) -> ModelCall:
        """Return the same call with other images."""
        if isinstance(self.where, str):
            return ModelCall(self.args, self.kwargs | {self.where: images}, self.where)
        args = (*self.args[: self.where], images, *self.args[self.where + 1 :])
        return ModelCall(args, self.kwargs, self.where)

    def few(self) -> ModelCall:
        """Return a call with at most two images, or with all if there are other tensors.

        Two images are needed to tell the batch axis from the head axis. A call with a single image
        does not need the distinction.
        """
        images = self.images.detach()
        return self.with_images((images[:2] if self.has_only_images else images).clone())

    def other_tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments except the images, including those in lists."""
        tensors = _tensors((*self.args, *self.kwargs.values()))
        return [tensor for tensor in tensors if tensor is not self.images]

    def run(self, model: nn.Module) -> Any:
        """Call the model.

        Raises
        ------
        ShapeError
            For images whose number of channels does not fit the first convolution.
        """
        try:
            return model(*self.args, **self.kwargs)
        except RuntimeError as error:
            if channel_error := self._channel_error(str(error)):
                raise channel_error from error
            raise
        except AssertionError as error:
            if "NestedTensor" not in str(error):
                raise
            raise UnsupportedModelError(
                f"{type(model).__name__}: expected tokens in a dense tensor, got a nested tensor, "
                "which nn.TransformerEncoder creates for a padding mask — build it with "
                "enable_nested_tensor=False"
            ) from error

    def _channel_error(self, message: str) -> ShapeError | None:
        """Return the error for images with the wrong number of channels; None for other errors."""
        shape = list(self.images.shape)
        match = _WRONG_CHANNELS.search(message)
        if match is None or match[1] != str(shape):
            return None
        channels, expected = shape[1], int(match[2])
        advice = {
            (3, 1): "pass the picture, or x.mean(dim=1, keepdim=True)",
            (1, 3): "pass the picture, or x.expand(-1, 3, -1, -1)",
        }.get((channels, expected), "pass images like those that it was trained on")
        return ShapeError(f"inputs: expected {expected} channels, got {channels} — {advice}")


# Message of PyTorch for a convolution whose input has the wrong number of channels.
_WRONG_CHANNELS = re.compile(r"expected input(\[[\d, ]+\]) to have (\d+) channels")


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from _tensors(value)


def read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
    """Find the images among the arguments: the first non-empty dense tensor with four axes.

    Raises
    ------
    ShapeError
        If there is none.
    """
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for where, value in arguments:
        is_dense = isinstance(value, Tensor) and value.layout == torch.strided
        if is_dense and value.ndim == 4 and value.numel():
            return ModelCall(args, kwargs, where)
    got = [
        f"{name}{tuple(value.shape)}" if isinstance(value, Tensor) else name + type(value).__name__
        for name, value in [*(("", v) for v in args), *((f"{k}=", v) for k, v in kwargs.items())]
    ]
    raise ShapeError(
        f"inputs: expected a batch of images (B, C, H, W), got {', '.join(got) or 'nothing'} — "
        "dense; a single image is x[None]"
    )
