"""Which patches of the image the tokens are, seen while the model cuts it up.

The last convolution before the first attention makes one column of features a patch, in every
plain ViT, whether it reads the image itself or the features of a stem. A model that cuts patches
by reshaping instead names their size in `patch_size`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .owner import Owner

MOST_PREFIX_TOKENS = 32


@dataclass
class PatchWatch:
    """What the convolutions before the first attention did: (cell in pixels or None, (h, w))."""

    open: bool = True
    seen: list[tuple[tuple[float, float] | None, tuple[int, int]]] = field(default_factory=list)
    cut: tuple[int, int] | None = None  # the size of what the first convolution over colours saw
    reach: tuple[int, int] = (0, 0)  # pixels that padding may have added to it

    def grid(self, model: nn.Module, image_size: tuple[int, int], tokens: int) -> PatchGrid:
        """The grid of a model that attends over `tokens` tokens.

        Raises
        ------
        UnsupportedModelError
            When no grid of patches explains the number of tokens.
        """
        if self.cut and not all(
            0 <= saw - given < reach
            for saw, given, reach in zip(self.cut, image_size, self.reach, strict=True)
        ):
            raise UnsupportedModelError(
                f"{type(model).__name__}: expected its patches to be cut from the image of "
                f"{image_size[0]}x{image_size[1]}, got {self.cut[0]}x{self.cut[1]} — "
                "resize or crop before the model, not inside it"
            )
        candidates = [*self.seen[-1:], *_named_sizes(model, image_size)]
        for cell, (h, w) in candidates:
            prefix = tokens - h * w
            if 0 <= prefix <= MOST_PREFIX_TOKENS and _agrees(model, prefix):
                cell = cell or (image_size[0] / h, image_size[1] / w)
                return PatchGrid((h, w), image_size, cell, prefix)
        tried = ", ".join(f"{h}x{w}" for _, (h, w) in candidates) or "none seen"
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected {tokens} tokens to be prefix tokens and a grid of "
            f"patches of a {image_size[0]}x{image_size[1]} image, got grids {tried} — "
            "windowed and hierarchical models are not supported"
        )


@contextmanager
def watch_patches(model: nn.Module) -> Iterator[PatchWatch]:
    """Watch the convolutions of `model` until `PatchWatch.open` is set to False."""
    watch = PatchWatch()
    owner = Owner()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if watch.open and output.ndim == 4 and owner.calls():
            h, w = output.shape[-2:]
            whole = inputs[0].shape[1] <= 4  # colours: this convolution reads the image itself
            stride, kernel = module.stride, module.kernel_size
            if whole and watch.cut is None:
                watch.cut = (inputs[0].shape[-2], inputs[0].shape[-1])
                watch.reach = (max(stride[0], kernel[0]), max(stride[1], kernel[1]))  # type: ignore[index, assignment]
            cell = (float(stride[0]), float(stride[1])) if whole else None  # type: ignore[index]
            watch.seen.append((cell, (h, w)))

    handles = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _named_sizes(
    model: nn.Module, image_size: tuple[int, int]
) -> Iterator[tuple[tuple[float, float], tuple[int, int]]]:
    for module in model.modules():
        size = getattr(module, "patch_size", None)
        if isinstance(size, int):
            size = (size, size)
        if isinstance(size, tuple) and len(size) == 2 and all(size):
            cell = (float(size[0]), float(size[1]))
            yield cell, (image_size[0] // size[0], image_size[1] // size[1])


def _agrees(model: nn.Module, prefix: int) -> bool:
    stated = getattr(model, "num_prefix_tokens", prefix)
    return not isinstance(stated, int) or stated == prefix
