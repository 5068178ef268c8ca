"""A model's own head, read after every block: what each layer alone has to say of the score.

The features of a block, averaged over its tokens, take the place of the last block's output, so
that whatever comes after it (norm, pooling, head) turns them into an output of the model. All
blocks do so at once, as more images of one batch, and no block passes a gradient to the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from .scope import Owner, nested
from .sites import AttentionSite
from .target import check_batch

# From the model's output for R rows, and the number of the image of each, to R scores.
Scores = Callable[[Any, Tensor], Tensor]


@contextmanager
def head_after_each_block(
    model: nn.Module,
    sites: Sequence[AttentionSite],
    shape: tuple[int, int],
    scores: Scores,
) -> Iterator[list[str]]:
    """While this is on, a pass of `model` with gradients gives (B,): the sum of all blocks' scores.

    To be used around `record`, whose graph begins anew at every recorded site, because what a
    block hands on carries none. What is handed over are the names of the sites that are
    left out, once the model has run: those whose blocks the head cannot read, because their
    features have another size.

    Parameters
    ----------
    sites : the self-attention sites of the model, in the order of their calls
    shape : (h, w), the patches of its grid
    scores : what is asked of the outputs

    Raises
    ------
    UnsupportedModelError
        For a model whose blocks cannot be told apart, or whose last block gives no tokens.
    """
    with nested():
        reading = _Reading(sites[-1].name, shape, scores)
        handles = [
            module.register_forward_hook(partial(reading.leave, name))
            for name, module in blocks_of(model, sites).items()
        ]
        try:
            handles.append(model.register_forward_pre_hook(reading.begin))
            handles.append(model.register_forward_hook(reading.finish))
            yield reading.left_out
        finally:
            for handle in handles:
                handle.remove()


class _Reading:
    """The hooks of one pass, and what they hold on to; only for the owner that made them."""

    def __init__(self, last: str, shape: tuple[int, int], scores: Scores) -> None:
        self.last = last
        self.shape = shape
        self.scores = scores
        self.left_out: list[str] = []
        self.owner = Owner()
        self.images: Tensor | None = None  # (B,), their numbers, while the model runs
        self.features: dict[str, Tensor] = {}

    @property
    def watches(self) -> bool:
        return torch.is_grad_enabled() and self.owner.calls()

    def begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.watches:
            self.features.clear()
            self.left_out.clear()
            self.images = torch.arange(len(inputs[0]), device=inputs[0].device)

    def leave(self, site: str, _: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self.watches or self.images is None:
            return None
        tensor = _tensor(site, output, len(self.images))
        if tensor.requires_grad:
            self.features[site] = tensor
        handed_on = self._stacked(tensor) if site == self.last else _detached(tensor)
        return (handed_on, *output[1:]) if isinstance(output, tuple) else handed_on

    def _stacked(self, end: Tensor) -> Tensor:
        """The averaged features of all blocks of the size of the last: (blocks * B, …)."""
        other = [site for site, one in self.features.items() if one.shape != end.shape]
        self.left_out.extend(other)
        # They have no share in any score, but the record asks for their gradients.
        nothing = sum((0 * self.features[site].sum() for site in other), end.new_zeros(()))
        fit = [one for site, one in self.features.items() if site not in other]
        return torch.cat([_averaged(self.last, one, self.shape) for one in fit]) + nothing

    def finish(self, _: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self.watches or self.images is None:
            return None
        images, self.images = self.images, None
        count = len(self.features) - len(self.left_out)
        scores = self.scores(output, images.repeat(count))
        check_batch(scores, count * len(images))
        return scores.reshape(count, -1).sum(dim=0)


def _detached(tensor: Tensor) -> Tensor:
    """Without its gradient, also where `recorder.GradientsKept` is on."""
    with torch._C.DisableTorchFunction():
        return tensor.detach()


def blocks_of(model: nn.Module, sites: Sequence[AttentionSite]) -> Mapping[str, nn.Module]:
    """The block of each self-attention site: the outermost module that holds it and no other."""
    found = {}
    for site in sites:
        parts = site.path.split(".")
        for depth in range(len(parts) + 1):
            name = ".".join(parts[:depth])
            inside = [one for one in sites if f"{one.path}.".startswith(f"{name}." if name else "")]
            module = model.get_submodule(name)
            if len(inside) == 1 and not isinstance(module, nn.ModuleList):
                found[site.name] = module
                break
        if found.get(site.name, model) is model:
            raise UnsupportedModelError(
                f"{site}: expected several blocks, each with one self-attention, got a single "
                f"one in {type(model).__name__} — this method needs layers to compare"
            )
    return found


def _tensor(site: str, output: Any, batch: int) -> Tensor:
    first = output[0] if isinstance(output, tuple) and output else output
    is_tensor = isinstance(first, Tensor)
    if not is_tensor or first.ndim not in (3, 4) or len(first) != batch:
        got = tuple(first.shape) if is_tensor else type(first).__name__
        raise UnsupportedModelError(
            f"{site}: expected its block to give tokens (B, N, D) of {batch} images, got {got} — "
            "this kind is not supported"
        )
    return first


def _averaged(site: str, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """The mean over tokens, in the place of each."""
    channels_last = tuple(tensor.shape[1:3]) == shape
    axes = (1,) if tensor.ndim == 3 else (1, 2) if channels_last else (2, 3)
    sides = tuple(tensor.shape[axis] for axis in axes)
    if tensor.ndim == 4 and sides != shape:
        raise UnsupportedModelError(
            f"{site}: expected its block to give features of the {shape[0]}x{shape[1]} patches, "
            f"got {tuple(tensor.shape)} — this kind is not supported"
        )
    return tensor.mean(dim=axes, keepdim=True).expand_as(tensor)
