"""Propagation of one weight per token through the attention layers, from the last to the first.

Methods that multiply the attention matrices of all layers need only the row of the product at
which the output is read. Therefore a row vector is multiplied layer by layer, and no matrix product
is stored. Placements map the vector to windows and coarser grids and back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..attention.attention_record import num_active_queries

# Function from a slice of queries to the head-fused matrix F of a site, (G, Q, Nk).
FusedAttention = Callable[[slice], Tensor]


def pool_sites(record: AttentionRecord) -> list[SiteRecord]:
    """Return the attention pools, whose learned queries read the output from all tokens."""
    return [site for site in record.sites if site.queries_at is None]


def layer_sites(record: AttentionRecord) -> list[SiteRecord]:
    """Return the sites whose queries are tokens, in the order of the layers."""
    return [site for site in record.sites if site.queries_at is not None]


def initial_weights(
    record: AttentionRecord, fuse: Callable[[SiteRecord], FusedAttention]
) -> Tensor:
    """Return the token weights (B, N) at the output: `readout`, propagated through the pools."""
    weights = record.readout()
    pools = [propagate(site, weights, fuse(site)) for site in pool_sites(record)]
    return torch.stack(pools).mean(dim=0) if pools else weights


def propagate(site: SiteRecord, tokens: Tensor, fused: FusedAttention) -> Tensor:
    """Compute sum_i tokens_i F_ij over the queries i: (B, N) to (B, N)."""
    weights = site.query_weights(tokens)
    total = torch.zeros((), dtype=site.dtype, device=weights.device)
    for rows in site.chunks(num_active_queries(weights)):
        block = fused(rows)
        total = total + (weights[:, None, rows].to(block) @ block).squeeze(1)
    return site.keys_at.to_grid(total[:, None])[:, 0]


def rollout_step(
    site: SiteRecord, tokens: Tensor, fused: FusedAttention, residual: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Compute sum_i tokens_i M_ij, M = (1 - residual) F + residual I with rows scaled to sum 1.

    Returns
    -------
    tuple of Tensor
        The part that F moves, (B, N), and the factor of each token's weight that I retains, (B, N);
        1 for a token that is not an input of the site. The row is ``moved + tokens * retained``.
    """
    assert site.queries_at is not None
    weights = site.query_weights(tokens).to(site.dtype)
    retained = torch.ones_like(weights)
    total = torch.zeros((), dtype=site.dtype, device=weights.device)
    for rows in site.chunks(num_active_queries(weights)):
        block = fused(rows)
        sums = (1 - residual) * block.sum(dim=-1) + residual
        sums = sums.clamp(min=torch.finfo(block.dtype).tiny)
        row_weights = weights[:, rows] * (1 - residual) / sums
        total = total + (row_weights[:, None] @ block).squeeze(1)
        retained[:, rows] = residual / sums
    return site.keys_at.to_grid(total[:, None])[:, 0], _mean_on_tokens(site, retained)


def _mean_on_tokens(site: SiteRecord, values: Tensor) -> Tensor:
    """Return the mean of query values (G, Nq) on the tokens (B, N); 1 for a token without query."""
    assert site.queries_at is not None
    counts = site.queries_at.to_grid(torch.ones_like(values)[:, None])[:, 0]
    sums = site.queries_at.to_grid(values[:, None])[:, 0]
    return torch.where(counts > 0, sums / counts.clamp(min=torch.finfo(counts.dtype).tiny), 1)
