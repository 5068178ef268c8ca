"""Where the features of any module lie in the image: tokens, windows of tokens, or pictures.

As `layout` does for attention calls, by the places that `trace` followed to the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .layout_pass import layout_pass
from .model_call import ModelCall
from .position_rules import Planes, mixed
from .position_tracing import Trace
from .scope import Owner
from .token_layout import UnplacedError, ranks, with_reach

_SAME = 2e-4  # of the image's side: places that agree


@dataclass(frozen=True)
class FeatureLayout:
    """Of a tensor of features: which axes hold channels, and which patch each position is.

    `image` and `token` (M,) are those of the other axes' positions, flattened; -1 is no patch of
    `grid`, as a class token is none, and padding.
    """

    grid: PatchGrid
    channels: tuple[int, ...]
    image: Tensor
    token: Tensor

    @classmethod
    def of_tokens(cls, grid: PatchGrid, batch: int, tokens: int) -> FeatureLayout:
        """Of the last `tokens` of `grid` as they come, (B, tokens, D)."""
        token = torch.arange(tokens, device="cpu") - (tokens - grid.patches)
        image = torch.arange(batch, device="cpu").repeat_interleave(tokens)
        return cls(grid, (2,), image, token.clamp(min=-1).repeat(batch))

    @classmethod
    def of(
        cls, planes: Planes, size: tuple[int, int], reach: tuple[float, float] = (0.0, 0.0)
    ) -> FeatureLayout:
        """Read it off the places of a tensor, of images of `size` (H, W); `reach` as of `trace`."""
        everything = torch.stack(planes).nan_to_num(-9.0)
        alike = [
            axis
            for axis in range(1, planes[0].ndim)
            if bool((everything - everything.narrow(axis + 1, 0, 1)).abs().max() < _SAME)
        ]
        if not alike:
            raise UnplacedError("no axis of channels")
        image, down, across = (one.flatten() for one in mixed(planes, alike, False))
        real = (image >= 0) & ~image.isnan()
        if not bool(real.any()):
            raise UnplacedError("features that cannot be followed back to it")
        rows, h, tall, top = ranks(down, real, size[0])
        columns, w, wide, left = ranks(across, real, size[1])
        if h * w == 1:
            raise UnplacedError("mixtures of the whole image")
        token = torch.where(real, rows * w + columns, -1)
        image = torch.where(real, image, 0.0).long()
        seen = torch.bincount((image * h * w + token)[real], minlength=h * w)
        if not bool((seen == 1).all()):
            raise UnplacedError(f"features that do not fill a grid of {h}x{w} once")
        grid = PatchGrid((h, w), size, (tall, wide), origin=(top, left))
        return cls(with_reach(grid, reach), tuple(alike), image, token)

    def place(self, features: Tensor, batch: int) -> Tensor:
        """The features of the patches (B, P, D)."""
        last = tuple(range(-len(self.channels), 0))
        flat = features.movedim(self.channels, last).flatten(-len(last)).flatten(0, -2)
        real = self.token >= 0
        placed = flat.new_zeros(batch, self.grid.patches, flat.shape[-1])
        placed[self.image[real], self.token[real]] = flat[real]
        return placed


def follow_features(
    model: nn.Module,
    inputs: Tensor,
    extra: tuple[Any, ...],
    name: str,
    *,
    entering: bool,
) -> FeatureLayout:
    """Where the output of the module `name` lies, or what enters it: by one forward pass.

    Raises
    ------
    UnsupportedModelError
        When its features cannot be followed back to the image.
    """
    found: list[tuple[Planes | None, tuple[float, float]]] = []
    size = (inputs.shape[-2], inputs.shape[-1])
    module = model.get_submodule(name)

    @contextmanager
    def watch(trace: Trace) -> Iterator[None]:
        owner = Owner()

        def note(_: nn.Module, *told: Any) -> None:  # args, kwargs, output: see `owner`
            if not owner.calls():
                return
            given, named, *output = told
            tensors = [*given, *named.values()] if entering else output
            first = tensors[0][0] if isinstance(tensors[0], (tuple, list)) else tensors[0]
            found.append((trace.of(first), trace.origin(first).reach))

        hook = module.register_forward_pre_hook if entering else module.register_forward_hook
        handle = hook(note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    layout_pass(model, ModelCall((inputs, *extra), {}, 0), watch=watch, whole=True)
    try:
        planes, reach = found[0] if found else (None, (0.0, 0.0))
        if planes is None:
            raise UnplacedError("features that cannot be followed back to it")
        return FeatureLayout.of(planes[:3], size, reach)
    except UnplacedError as reason:
        raise UnsupportedModelError(
            f"layer {name}: expected features of the image's patches, got {reason} — "
            "choose another layer"
        ) from None
