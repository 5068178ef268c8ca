"""Norms of the tokens that the last block of a model returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .layer_readout import blocks_of
from .scope import CallScope, nested_pass
from .sites import AttentionSite


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
