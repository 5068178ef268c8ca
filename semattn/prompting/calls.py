"""The images among what a model is called with, and the same call with others in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError


@dataclass(frozen=True)
class Call:
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
        """Whether the images are the only tensor, so that some of them can stand for all."""
        return sum(isinstance(one, Tensor) for one in (*self.args, *self.kwargs.values())) == 1

    def with_images(self, images: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other images."""
        if isinstance(self.where, str):
            return self.args, self.kwargs | {self.where: images}
        return (*self.args[: self.where], images, *self.args[self.where + 1 :]), self.kwargs


def read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
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
            return Call(args, kwargs, where)
    got = [
        f"{name}{tuple(one.shape)}" if isinstance(one, Tensor) else f"{name}{type(one).__name__}"
        for name, one in [*(("", one) for one in args), *((f"{k}=", v) for k, v in kwargs.items())]
    ]
    raise ShapeError(
        f"inputs: expected a batch of images (B, C, H, W), got {', '.join(got) or 'nothing'} — "
        "dense; a single image is x[None]"
    )


class AsCalled(nn.Module):
    """`model` as a function of its images alone, called as in `call`."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, images: Tensor) -> Any:
        """What the model gives for other images."""
        args, kwargs = self.call.with_images(images)
        return self.model(*args, **kwargs)

    @property
    def few(self) -> Tensor:
        """Images that tell how the model is laid out: two where they can be chosen, else all."""
        images = self.call.images.detach()
        return torch.cat([images, images])[:2] if self.call.alone else images
