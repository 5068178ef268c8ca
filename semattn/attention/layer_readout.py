"""Readout of the blocks of a model: the logits after each block, and the norms of the last tokens.

The features of a block, averaged over its tokens, replace the output of the last block, so that the
following layers (norm, pooling, head) turn them into an output of the model. All blocks are read at
once, as additional images of one batch. No block passes a gradient to the block before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .scope import CallScope, nested_pass
from .sites import AttentionSite
from .target import check_batch

# Maps the model's output for R rows, and the image number of each row, to R scores.
Scores = Callable[[Any, Tensor], Tensor]


@contextmanager
def logits_after_each_block(
    model: nn.Module,
    sites: Sequence[AttentionSite],
    shape: tuple[int, int],
    scores: Scores,
) -> Iterator[list[str]]:
    """Make `model` return the sum of the scores of all blocks, (B,), inside the ``with``.

    It applies to passes with gradients, such as that of `record`. Block outputs are detached, so
    each score has a gradient in its own block only. The context yields a list that is filled when
    the model runs: the names of sites that are left out, because the features of their blocks have
    another shape than those that the head of the model reads.

    Parameters
    ----------
    sites : the self-attention sites of the model, in the order of their calls
    shape : (h, w), the patches of its grid
    scores : function that maps the outputs, and the image number of each row, to scores

    Raises
    ------
    UnsupportedModelError
        For a model whose blocks cannot be identified, or whose last block returns no tokens.
    """
    with nested_pass():
        readout = _BlockReadout(sites[-1].name, shape, scores)
        handles = [
            module.register_forward_hook(partial(readout.after_block, name))
            for name, module in blocks_of(model, sites).items()
        ]
        try:
            handles.append(model.register_forward_pre_hook(readout.before_model))
            handles.append(model.register_forward_hook(readout.after_model))
            yield readout.left_out
        finally:
            for handle in handles:
                handle.remove()


class _BlockReadout:
    """Hooks of one pass and the features that they collect; active only in their scope."""

    def __init__(self, last: str, shape: tuple[int, int], scores: Scores) -> None:
        self.last = last
        self.shape = shape
        self.scores = scores
        self.left_out: list[str] = []
        self.scope = CallScope()
        self.images: Tensor | None = None  # (B,), image numbers, while the model runs
        self.features: dict[str, Tensor] = {}

    @property
    def is_active(self) -> bool:
        return torch.is_grad_enabled() and self.scope.is_current()

    def before_model(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.is_active:
            self.features.clear()
            self.left_out.clear()
            self.images = torch.arange(len(inputs[0]), device=inputs[0].device)

    def after_block(self, site: str, _: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self.is_active or self.images is None:
            return None
        tokens = _block_tokens(site, output, len(self.images))
        if tokens.requires_grad:
            self.features[site] = tokens
        tokens = self._stack_blocks(tokens) if site == self.last else _detached(tokens)
        return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

    def _stack_blocks(self, last: Tensor) -> Tensor:
        """Return the averaged features of all blocks of the shape of the last: (blocks * B, …)."""
        excluded = [site for site, tokens in self.features.items() if tokens.shape != last.shape]
        self.left_out.extend(excluded)
        # The record needs gradients of the excluded blocks, although no score depends on them.
        zero = sum((0 * self.features[site].sum() for site in excluded), last.new_zeros(()))
        included = [tokens for site, tokens in self.features.items() if site not in excluded]
        return torch.cat([_averaged(self.last, tokens, self.shape) for tokens in included]) + zero

    def after_model(self, _: nn.Module, _inputs: Any, output: Any) -> Any:
        if not self.is_active or self.images is None:
            return None
        images, self.images = self.images, None
        count = len(self.features) - len(self.left_out)
        scores = self.scores(output, images.repeat(count))
        check_batch(scores, count * len(images))
        return scores.reshape(count, -1).sum(dim=0)


def _detached(tensor: Tensor) -> Tensor:
    """Return the tensor without its graph, also inside `model_pass.KeepGradients`."""
    with torch._C.DisableTorchFunction():
        return tensor.detach()


def blocks_of(model: nn.Module, sites: Sequence[AttentionSite]) -> Mapping[str, nn.Module]:
    """Return the block of each self-attention site: the outermost module with no other site."""
    blocks = {}
    for site in sites:
        parts = site.path.split(".")
        for depth in range(len(parts) + 1):
            name = ".".join(parts[:depth])
            prefix = f"{name}." if name else ""
            n_sites = sum(f"{other.path}.".startswith(prefix) for other in sites)
            module = model.get_submodule(name)
            if n_sites == 1 and not isinstance(module, nn.ModuleList):
                blocks[site.name] = module
                break
        if blocks.get(site.name, model) is model:
            raise UnsupportedModelError(
                f"{site}: expected several blocks, each with one self-attention, got a single "
                f"one in {type(model).__name__} — this method needs layers to compare"
            )
    return blocks


def _block_tokens(site: str, output: Any, batch: int) -> Tensor:
    first = output[0] if isinstance(output, tuple) and output else output
    is_tensor = isinstance(first, Tensor)
    if not is_tensor or first.ndim not in (3, 4) or len(first) != batch:
        got = tuple(first.shape) if is_tensor else type(first).__name__
        raise UnsupportedModelError(
            f"{site}: expected its block to return tokens (B, N, D) of {batch} images, got {got} — "
            "this kind is not supported"
        )
    return first


def _averaged(site: str, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """Replace every token by the mean over tokens."""
    channels_last = tuple(tensor.shape[1:3]) == shape
    axes = (1,) if tensor.ndim == 3 else (1, 2) if channels_last else (2, 3)
    sides = tuple(tensor.shape[axis] for axis in axes)
    if tensor.ndim == 4 and sides != shape:
        raise UnsupportedModelError(
            f"{site}: expected its block to return features of {shape[0]}x{shape[1]} patches, "
            f"got {tuple(tensor.shape)} — this kind is not supported"
        )
    return tensor.mean(dim=axes, keepdim=True).expand_as(tensor)


@contextmanager
def watch_norms(model: nn.Module, sites: Sequence[AttentionSite]) -> Iterator[list[Tensor]]:
    """Collect the norms of the last block's tokens in the first pass inside the ``with``.

    `sites` are the self-attention sites. The list receives one tensor (B, N), in the model's order
    of tokens, which `norms_on` reads. It stays empty if the blocks cannot be identified or the last
    one returns no tokens. Further passes, such as those of `record`, are ignored.
    """
    with nested_pass():
        yield from _collect_norms(model, sites)


def _collect_norms(model: nn.Module, sites: Sequence[AttentionSite]) -> Iterator[list[Tensor]]:
    norms: list[Tensor] = []
    scope = CallScope()

    def hook(_: nn.Module, _inputs: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) and output else output
        if norms or not scope.is_current():
            return
        if isinstance(tokens, Tensor) and tokens.ndim == 3:
            dtype = torch.promote_types(tokens.dtype, torch.float32)
            norms.append(torch.linalg.vector_norm(tokens.detach().to(dtype), dim=-1))

    try:
        last_block = list(blocks_of(model, sites).values())[-1]
    except UnsupportedModelError:
        yield norms
        return
    handle = last_block.register_forward_hook(hook)
    try:
        yield norms
    finally:
        handle.remove()


def norms_on(grid: PatchGrid, norms: list[Tensor], in_order: bool) -> Tensor | None:
    """Return the norms (B, P) of the patches of `grid`; None if the tokens are not on it."""
    if not in_order or not norms or norms[0].shape[1] not in (grid.tokens, grid.patches):
        return None
    return norms[0][:, -grid.patches :]
