"""One site's attention and its gradient, recomputed row by row and never stored.

Because O = A V, the gradient of a score with respect to the attention is dL/dA = dL/dO V^T,
exactly. So q, k, v and dL/dO, all of size N x D, hold everything; a row of A and of dL/dA costs
O(N), and what is summed over queries is summed in chunks of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..grid import PatchGrid
from .hooks import Call, DenseCall, FusedCall
from .sites import AttentionSite
from .token_layout import Layout
from .token_map import Placement

Rule = Callable[[Tensor, Tensor | None], Tensor]

CHUNK_BYTES = 16 * 2**20  # of one (B,H,Q,N) block: large enough for the kernels, small in memory


@dataclass(frozen=True)
class SiteRecord:
    """What one site did in one forward pass.

    Either q (G,H,Nq,D), k and v (G,H,Nk,D), `mask` added to the scores (or None) and `gradient`
    dL/dO; or, of a module that makes its own softmax, `dense` (G,H,Nq,Nk) and `gradient` dL/dA.
    A group is an image, or a window of one: `keys_at` and `queries_at` say which tokens of the
    image are asked and ask. `queries_at` is None where learned queries ask; `learned` (G,Nq) is
    then how much the score reads from each of them, in parts of 1 an image. `class_tokens` (N,)
    are the weights of the prefix tokens that the output is read from, where these are known.
    `layout` is that of the call, for calls of other batches.
    """

    site: AttentionSite
    shape: tuple[int, int, int, int]
    keys_at: Placement
    queries_at: Placement | None
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    mask: Tensor | None = None
    causal: bool = False
    scale: float = 1.0
    dense: Tensor | None = None
    gradient: Tensor | None = None
    layout: Layout | None = None
    learned: Tensor | None = None
    class_tokens: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what is recomputed: that of the model, float32 at least."""
        kept = self.query if self.dense is None else self.dense
        assert kept is not None
        return torch.promote_types(kept.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        kept = self.query if self.dense is None else self.dense
        assert kept is not None
        return kept.device

    def attention(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """A after softmax for the queries in `rows`: (G,H,Q,Nk), the caller's own."""
        if self.dense is not None:
            return self.dense[:, :, rows].to(self.dtype, copy=True)
        return torch.softmax(self.scores(rows), dim=-1)

    def scores(self, rows: slice | Tensor = slice(None), groups: slice = slice(None)) -> Tensor:
        """What the softmax takes for the queries in `rows`, nats: (G,H,Q,Nk), the caller's own.

        Up to a constant a query, which the softmax does not see; -inf where nothing is attended to.
        """
        if self.dense is not None:
            return self.dense[groups, :, rows].to(self.dtype, copy=True).log_()
        assert self.query is not None and self.key is not None
        query = self.query[groups, :, rows].to(self.dtype) * self.scale
        # Heads are often interleaved in memory; copied in order is faster than transposed.
        scores = query @ self.key[groups].to(self.dtype).contiguous().transpose(-2, -1)
        if self.mask is not None:
            several = self.mask.ndim == 4 and self.mask.shape[0] > 1
            scores = _masked(scores, self.mask[groups] if several else self.mask, rows)
        if self.causal:
            count = self.shape[2]
            allowed = torch.ones(count, self.shape[3], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~allowed.tril()[rows], -math.inf)
        return scores

    def attention_gradient(self, rows: slice = slice(None)) -> Tensor:
        """dL/dA for the queries in `rows`: (G,H,Q,Nk), the caller's own.

        Raises
        ------
        RuntimeError
            When the record was made with ``grad=False``.
        """
        if self.gradient is None:
            raise RuntimeError(
                f"{self.site}: expected gradients, got a record without — use record(…, grad=True)"
            )
        gradient = self.gradient[:, :, rows].to(self.dtype, copy=self.dense is not None)
        if self.dense is not None:
            return gradient
        assert self.value is not None
        return gradient @ self.value.to(self.dtype).transpose(-2, -1)

    def token_order(self) -> Tensor | None:
        """The places of the record's tokens in this call, (N,), where they come in another order.

        None where they come in order, and for windows and coarser grids, which hold a part.
        """
        at, asking = self.keys_at, self.queries_at
        if at.token is None or asking is None or asking.token is None:
            return None
        table = at.token[0]
        whole = len(at.token) == at.batch and bool(
            (table.sort().values == self._counted(table)).all()
        )
        same = asking.token.shape == at.token.shape and torch.equal(asking.token, at.token)
        return table.argsort() if whole and same and at.own.shape == at.common.shape else None

    @staticmethod
    def _counted(table: Tensor) -> Tensor:
        return torch.arange(len(table), device=table.device)

    def query_gradient_norms(self) -> Tensor:
        """The norm of dL/dA over heads and keys for each query: (G, Nq).

        Of a fused call, ||dL/dA_i||^2 = dL/dO_i (V^T V) dL/dO_i^T, so that no row is made.
        """
        assert self.gradient is not None
        gradient = self.gradient.to(self.dtype)
        if self.dense is not None:
            return gradient.square().sum(dim=(1, 3)).sqrt()
        assert self.value is not None
        value = self.value.to(self.dtype)
        products = gradient @ (value.transpose(-2, -1) @ value)
        return (products * gradient).sum(dim=(1, 3)).clamp(min=0).sqrt()

    def without_gradient(self) -> SiteRecord:
        """The same without its gradient; the weights of learned queries stay."""
        return self if self.gradient is None else replace(self, gradient=None)

    def asking(self, weights: Tensor) -> Tensor:
        """Weights (B, N) of the record's tokens as those of this call's queries: (G, Nq).

        Learned queries have weights of their own, by the gradient that reaches each of them; they
        ask alike where there is none.
        """
        if self.queries_at is None:
            if self.learned is None:
                return weights.new_full((self.shape[0], self.shape[2]), 1 / self.shape[2])
            return self.learned
        return self.queries_at.spread(weights)

    def reduce(self, weights: Tensor, rule: Rule | None = None) -> Tensor:
        """sum_i weights_i rule(A, dA)_ij over the queries i, on the tokens: (B,H,N).

        Parameters
        ----------
        weights : (B, N), one weight a token of the record's grid, as `asking` spreads them
        rule : maps A and dA (None without gradients), both (G,H,Q,Nk), to the same shape;
            None is the attention itself
        """
        asking = self.asking(weights)
        total = torch.zeros((), dtype=self.dtype, device=weights.device)
        for rows in self.chunks(last_asking(asking)):
            attention = self.attention(rows)
            gradient = None if self.gradient is None else self.attention_gradient(rows)
            block = attention if rule is None else rule(attention, gradient)
            total = total + (asking[:, None, None, rows].to(block) @ block).squeeze(2)
        return self.keys_at.collect(total)

    def chunks(self, queries: int | None = None) -> Iterator[slice]:
        """Slices of the first `queries`, each with a block (G,H,Q,Nk) of about `CHUNK_BYTES`."""
        groups, heads, asked, keys = self.shape
        queries = asked if queries is None else queries
        row = groups * heads * keys * self.dtype.itemsize
        step = max(1, CHUNK_BYTES // row)
        for start in range(0, queries, step):
            yield slice(start, min(start + step, queries))


def last_asking(asking: Tensor) -> int:
    """How many queries there are up to the last that asks at all; a class token's row is cheap."""
    columns = asking.ne(0).any(dim=0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 1


def _masked(scores: Tensor, mask: Tensor, rows: slice | Tensor) -> Tensor:
    if mask.ndim >= 2 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -math.inf)
    return scores + mask.to(scores.dtype)


def site_record(
    site: AttentionSite,
    call: Call,
    layout: Layout,
    grid: PatchGrid,
    batch: int,
    result: Tensor | None = None,
    gradient: Tensor | None = None,
) -> SiteRecord:
    """The record of one call, with its tokens placed on `grid`; a dense one is its `result`."""
    assert layout.keys is not None
    lead = tuple(call.shape[:-2])
    at = layout.place(layout.keys, grid, batch)
    asking = None if layout.queries is None else layout.place(layout.queries, grid, batch)
    gradient = None if gradient is None else layout.fold(gradient, lead)
    if isinstance(call, DenseCall):
        dense = layout.fold(call.run().detach() if result is None else result, lead)
        shape = (*dense.shape[:2], call.shape[-2], call.shape[-1])
        return SiteRecord(site, shape, at, asking, dense=dense, gradient=gradient, layout=layout)
    query = layout.fold(call.query.detach().expand(*lead, -1, -1), lead)
    mask = None if call.attn_mask is None else call.attn_mask.detach()
    return SiteRecord(
        site,
        (*query.shape[:2], call.shape[-2], call.shape[-1]),
        at,
        asking,
        query=query,
        key=layout.fold(_per_head(call, call.key), lead),
        value=layout.fold(_per_head(call, call.value), lead),
        mask=None if mask is None else layout.fold(mask, lead),
        causal=call.is_causal,
        scale=1 / math.sqrt(call.query.shape[-1]) if call.scale is None else call.scale,
        gradient=gradient,
        layout=layout,
    )


def _per_head(call: FusedCall, shared: Tensor) -> Tensor:
    """Keys or values (B,H,N,D), repeated where several heads share one (grouped queries)."""
    times = call.query.shape[1] // shared.shape[1] if shared.ndim == 4 else 1
    return shared.detach() if times == 1 else shared.detach().repeat_interleave(times, dim=1)
