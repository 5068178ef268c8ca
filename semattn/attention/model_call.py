"""The arguments of one call of a model, with the images among them."""

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
    """The arguments of one call of a model; `where` is the place of the images in them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: int | str

    @property
    def images(self) -> Tensor:
        """(B, C, H, W)."""
        found = self.args[self.where] if isinstance(self.where, int) else self.kwargs[self.where]
        assert isinstance(found, Tensor)
        return found

    @property
    def alone(self) -> bool:
        """Return whether the images are the only tensor, so that some of them can stand for all."""
        return sum(isinstance(one, Tensor) for one in (*self.args, *self.kwargs.values())) == 1

    @property
    def key(self) -> tuple[Any, ...]:
        """All that the layout of tokens may depend on: shapes, devices and the other arguments."""
        rest = [
            (tuple(one.shape), str(one.device)) if isinstance(one, Tensor) else repr(one)
            for one in (*self.args, *self.kwargs, *self.kwargs.values())
            if one is not self.images
        ]
        images = self.images
        batch = min(len(images), 2) if self.alone else len(images)
        return (images.shape[1:], batch, images.device, images.dtype, *rest)

    def with_images(self, images: Tensor) -> ModelCall:
        """The same call with other images."""
        if isinstance(self.where, str):
            return ModelCall(self.args, self.kwargs | {self.where: images}, self.where)
        args = (*self.args[: self.where], images, *self.args[self.where + 1 :])
        return ModelCall(args, self.kwargs, self.where)

    def few(self) -> ModelCall:
        """A call that shows how tokens are laid out: two images where they can be chosen, else all.

        Two images tell the axis of images from that of heads; for a single image it does not
        matter.
        """
        images = self.images.detach()
        return self.with_images((images[:2] if self.alone else images).clone())

    def other_tensors(self) -> list[Tensor]:
        """The tensors among the arguments that are not the images, also those in lists."""
        return [
            one for one in _tensors((*self.args, *self.kwargs.values())) if one is not self.images
        ]

    def run(self, model: nn.Module) -> Any:
        """Call the model.

        Raises
        ------
        ShapeError
            For images of other channels than its first convolution takes.
        """
        try:
            return model(*self.args, **self.kwargs)
        except RuntimeError as error:
            if wrong := self._wrong_channels(str(error)):
                raise wrong from error
            raise
        except AssertionError as error:
            if "NestedTensor" not in str(error):
                raise
            raise UnsupportedModelError(
                f"{type(model).__name__}: expected tokens in a tensor, got a nested tensor, as "
                "nn.TransformerEncoder makes of a padding mask — build it with "
                "enable_nested_tensor=False"
            ) from error

    def _wrong_channels(self, reason: str) -> ShapeError | None:
        """The error of a convolution of the images themselves, in one line; else None."""
        shape = list(self.images.shape)
        found = _CONVOLUTION.search(reason)
        if found is None or found[1] != str(shape):
            return None
        channels, taken = shape[1], int(found[2])
        advice = {
            (3, 1): "pass the picture, or x.mean(dim=1, keepdim=True)",
            (1, 3): "pass the picture, or x.expand(-1, 3, -1, -1)",
        }.get((channels, taken), "give images as it was trained")
        return ShapeError(
            f"inputs: expected the channels that the model takes, got {channels} in place of "
            f"{taken} — {advice}"
        )


# The message of PyTorch where a convolution gets other channels than it takes.
_CONVOLUTION = re.compile(r"expected input(\[[\d, ]+\]) to have (\d+) channels")


def _tensors(values: Any) -> Iterator[Tensor]:
    for one in values.values() if isinstance(values, dict) else values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple, dict)):
            yield from _tensors(one)


def read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
    """Find the images: the first dense tensor of four axes.

    Raises
    ------
    ShapeError
        When there is none.
    """
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for where, one in places:
        dense = isinstance(one, Tensor) and one.layout == torch.strided
        if dense and one.ndim == 4 and one.numel():
            return ModelCall(args, kwargs, where)
    got = [
        f"{name}{tuple(one.shape)}" if isinstance(one, Tensor) else f"{name}{type(one).__name__}"
        for name, one in [*(("", one) for one in args), *((f"{k}=", v) for k, v in kwargs.items())]
    ]
    raise ShapeError(
        f"inputs: expected a batch of images (B, C, H, W), got {', '.join(got) or 'nothing'} — "
        "dense; a single image is x[None]"
    )
