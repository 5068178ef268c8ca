"""How long the token vectors are when the last block has made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .layer_readout import blocks_of
from .scope import Owner, nested
from .sites import AttentionSite


@contextmanager
def watch_norms(model: nn.Module, sites: Sequence[AttentionSite]) -> Iterator[list[Tensor]]:
    """Inside the ``with``, the first pass of `model` leaves the norms of its last block's tokens.

    `sites` are the self-attention sites. The norms are (B, N) as the tokens come, for `norms_on` to
    read; nothing is left by a model whose blocks cannot be told apart, or whose last one gives no
    tokens. Of further passes, with which `record` follows the tokens, nothing is kept.
    """
    with nested():
        yield from _watched(model, sites)


def _watched(model: nn.Module, sites: Sequence[AttentionSite]) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    owner = Owner()

    def leave(_: nn.Module, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if found or not owner.calls():
            return
        if isinstance(first, Tensor) and first.ndim == 3:
            exact = torch.promote_types(first.dtype, torch.float32)
            found.append(torch.linalg.vector_norm(first.detach().to(exact), dim=-1))

    try:
        last = list(blocks_of(model, sites).values())[-1]
    except UnsupportedModelError:
        yield found
        return
    handle = last.register_forward_hook(leave)
    try:
        yield found
    finally:
        handle.remove()


def norms_on(grid: PatchGrid, found: list[Tensor], in_order: bool) -> Tensor | None:
    """The norms (B, P) of the patches of `grid`; None where the tokens are not those."""
    if not in_order or not found or found[0].shape[1] not in (grid.tokens, grid.patches):
        return None
    return found[0][:, -grid.patches :]
