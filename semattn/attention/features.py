"""Image positions of the features of any module: tokens, windows of tokens, or feature maps.

Like `token_layout` for attention calls, this module uses positions from `position_tracing`.
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
from .position_rules import Planes, mean_positions
from .position_tracing import PositionTracer
from .scope import CallScope
from .token_layout import UnplacedError, ranks, with_reach

_SAME = 2e-4  # fraction of the image's side below which positions are equal


@dataclass(frozen=True)
class FeatureLayout:
    """Layout of a feature tensor: its channel axes, and the patch of each other index.

    `image` and `token` (M,) are the image and patch numbers over the other axes, flattened. A patch
    number of -1 marks padding and tokens that are not patches of `grid`, such as a class token.
    """

    grid: PatchGrid
    channels: tuple[int, ...]
    image: Tensor
    token: Tensor

    @classmethod
    def of_tokens(cls, grid: PatchGrid, batch: int, tokens: int) -> FeatureLayout:
        """Create the layout of the last `tokens` tokens of `grid` in order, (B, tokens, D)."""
        token = torch.arange(tokens, device="cpu") - (tokens - grid.patches)
        image = torch.arange(batch, device="cpu").repeat_interleave(tokens)
        return cls(grid, (2,), image, token.clamp(min=-1).repeat(batch))

    @classmethod
    def of(
        cls, planes: Planes, size: tuple[int, int], reach: tuple[float, float] = (0.0, 0.0)
    ) -> FeatureLayout:
        """Derive the layout from positions in images of `size` (H, W); `reach` as in `Origin`."""
        stacked = torch.stack(planes).nan_to_num(-9.0)
        channels = [
            axis
            for axis in range(1, planes[0].ndim)
            if bool((stacked - stacked.narrow(axis + 1, 0, 1)).abs().max() < _SAME)
        ]
        if not channels:
            raise UnplacedError("no channel axis")
        image, down, across = (
            plane.flatten() for plane in mean_positions(planes, channels, keepdim=False)
        )
        real = (image >= 0) & ~image.isnan()
        if not bool(real.any()):
            raise UnplacedError("features that cannot be followed back to the image")
        rows, h, tall, top = ranks(down, real, size[0])
        columns, w, wide, left = ranks(across, real, size[1])
        if h * w == 1:
            raise UnplacedError("features that average the whole image")
        token = torch.where(real, rows * w + columns, -1)
        image = torch.where(real, image, 0.0).long()
        counts = torch.bincount((image * h * w + token)[real], minlength=h * w)
        if not bool((counts == 1).all()):
            raise UnplacedError(f"features that do not fill a grid of {h}x{w} exactly once")
        grid = PatchGrid((h, w), size, (tall, wide), origin=(top, left))
        return cls(with_reach(grid, reach), tuple(channels), image, token)

    def place(self, features: Tensor, batch: int) -> Tensor:
        """Return the features of the patches (B, P, D)."""
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
    attribute_to_layer_input: bool,
) -> FeatureLayout:
    """Return the layout of the output of module `name` from one forward pass.

    With `attribute_to_layer_input`, the layout of its input.

    Raises
    ------
    UnsupportedModelError
        If its features cannot be followed back to the image.
    """
    traced: list[tuple[Planes | None, tuple[float, float]]] = []
    size = (inputs.shape[-2], inputs.shape[-1])
    module = model.get_submodule(name)

    @contextmanager
    def watch(tracer: PositionTracer) -> Iterator[None]:
        scope = CallScope()

        def record_positions(_: nn.Module, *hook_args: Any) -> None:  # unnamed: see `scope`
            if not scope.is_current():
                return
            args, kwargs, *output = hook_args
            tensors = [*args, *kwargs.values()] if attribute_to_layer_input else output
            first = tensors[0][0] if isinstance(tensors[0], (tuple, list)) else tensors[0]
            traced.append((tracer.of(first), tracer.origin(first).reach))

        register = (
            module.register_forward_pre_hook
            if attribute_to_layer_input
            else module.register_forward_hook
        )
        handle = register(record_positions, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    layout_pass(model, ModelCall((inputs, *extra), {}, 0), watch=watch, all_images=True)
    try:
        planes, reach = traced[0] if traced else (None, (0.0, 0.0))
        if planes is None:
            raise UnplacedError("features that cannot be followed back to the image")
        return FeatureLayout.of(planes[:3], size, reach)
    except UnplacedError as reason:
        raise UnsupportedModelError(
            f"layer {name}: expected features of the image's patches, got {reason} — "
            "choose another layer"
        ) from None
