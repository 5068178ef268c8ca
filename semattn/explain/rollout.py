"""One weight a token, carried from the last layer to the first, one site at a time.

Methods that multiply the attention matrices of all layers need one row of the product alone: that
of where the answer is read. So a row vector goes through the layers, and no product of matrices,
nor any matrix, is ever held. Placements take the vector to windows and coarser grids and back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..attention.site_record import last_asking

# The matrix F of a site, its heads fused: for a slice of its queries, (G, Q, Nk).
Fused = Callable[[slice], Tensor]


def readers(taken: AttentionRecord) -> list[SiteRecord]:
    """The attention pools, whose learned queries read the answer from all tokens."""
    return [one for one in taken.sites if one.queries_at is None]


def layers(taken: AttentionRecord) -> list[SiteRecord]:
    """The sites whose queries are tokens, in the order of the layers."""
    return [one for one in taken.sites if one.queries_at is not None]


def start(taken: AttentionRecord, fuse: Callable[[SiteRecord], Fused]) -> Tensor:
    """The tokens (B, N) that the answer is read from: `readout`, or what the pools gather."""
    weights = taken.readout()
    pools = [carry(one, weights, fuse(one)) for one in readers(taken)]
    return torch.stack(pools).mean(dim=0) if pools else weights


def carry(one: SiteRecord, tokens: Tensor, fused: Fused) -> Tensor:
    """sum_i tokens_i F_ij over the queries i: (B, N) to (B, N)."""
    weights = one.asking(tokens)
    total = torch.zeros((), dtype=one.dtype, device=weights.device)
    for rows in one.chunks(last_asking(weights)):
        block = fused(rows)
        total = total + (weights[:, None, rows].to(block) @ block).squeeze(1)
    return one.keys_at.collect(total[:, None])[:, 0]


def roll(
    one: SiteRecord, tokens: Tensor, fused: Fused, residual: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The row sum_i tokens_i M_ij, M = (1 - residual) F + residual I with rows scaled to sum 1.

    Returns
    -------
    tuple of Tensor
        What F moves, (B, N), and the part of each token's own weight that I leaves there, (B, N);
        all of it where the site does not see the token. The row is ``moved + tokens * stays``.
    """
    assert one.queries_at is not None
    weights = one.asking(tokens).to(one.dtype)
    stays = torch.ones_like(weights)
    total = torch.zeros((), dtype=one.dtype, device=weights.device)
    for rows in one.chunks(last_asking(weights)):
        block = fused(rows)
        sums = (1 - residual) * block.sum(dim=-1) + residual
        sums = sums.clamp(min=torch.finfo(block.dtype).tiny)
        moved = weights[:, rows] * (1 - residual) / sums
        total = total + (moved[:, None] @ block).squeeze(1)
        stays[:, rows] = residual / sums
    return one.keys_at.collect(total[:, None])[:, 0], _on_tokens(one, stays)


def _on_tokens(one: SiteRecord, values: Tensor) -> Tensor:
    """The mean of the queries' values (G, Nq) on the tokens (B, N); 1 where no query is."""
    assert one.queries_at is not None
    places = one.queries_at.collect(torch.ones_like(values)[:, None])[:, 0]
    whole = one.queries_at.collect(values[:, None])[:, 0]
    return torch.where(places > 0, whole / places.clamp(min=torch.finfo(places.dtype).tiny), 1)
