"""Records of the attention of a model and its gradient, recomputed in chunks instead of stored.

Because O = A V, the gradient of a score with respect to the attention is exactly
dL/dA = dL/dO V^T. So q, k, v and dL/dO, all of size N x D, are sufficient; a row of A and of dL/dA
costs O(N), and sums over queries are computed in chunks of queries.
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
from .target import Prediction
from .token_layout import Layout
from .token_map import TokenMap

Rule = Callable[[Tensor, Tensor | None], Tensor]

CHUNK_BYTES = 16 * 2**20  # of a (B,H,Q,N) block: large enough to be fast, small in memory


@dataclass(frozen=True)
class SiteRecord:
    """Record of the attention of one site in one forward pass.

    A fused call has q (G,H,Nq,D), k and v (G,H,Nk,D), `mask` added to the scores (or None) and
    `gradient` dL/dO. A module with its own softmax has `dense` (G,H,Nq,Nk) and `gradient` dL/dA.
    A group is an image or a window of it; `keys_at` and `queries_at` map its keys and queries to
    the tokens of the image. `queries_at` is None for learned queries; `learned_query_weights`
    (G,Nq) is then the contribution of each query to the score, with sum 1 per image. `class_tokens`
    (N,) are the weights of the prefix tokens that the output is read from, if known. `layout` is
    the layout of the call, which also applies to other batches.
    """

    site: AttentionSite
    shape: tuple[int, int, int, int]
    keys_at: TokenMap
    queries_at: TokenMap | None
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    mask: Tensor | None = None
    causal: bool = False
    scale: float = 1.0
    dense: Tensor | None = None
    gradient: Tensor | None = None
    layout: Layout | None = None
    learned_query_weights: Tensor | None = None
    class_tokens: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of recomputed tensors: that of the model, at least float32."""
        tensor = self.query if self.dense is None else self.dense
        assert tensor is not None
        return torch.promote_types(tensor.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        tensor = self.query if self.dense is None else self.dense
        assert tensor is not None
        return tensor.device

    def attention(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return A after softmax for the queries in `rows`: a new tensor (G,H,Q,Nk)."""
        if self.dense is not None:
            return self.dense[:, :, rows].to(self.dtype, copy=True)
        return torch.softmax(self.scores(rows), dim=-1)

    def scores(self, rows: slice | Tensor = slice(None), groups: slice = slice(None)) -> Tensor:
        """Return the scores before softmax for the queries in `rows`: a new tensor (G,H,Q,Nk).

        In nats, up to a constant per query, which softmax ignores; -inf for masked keys.
        """
        if self.dense is not None:
            return self.dense[groups, :, rows].to(self.dtype, copy=True).log_()
        assert self.query is not None and self.key is not None
        query = self.query[groups, :, rows].to(self.dtype) * self.scale
        # Heads are often interleaved in memory; a contiguous copy is faster than a transposed view.
        scores = query @ self.key[groups].to(self.dtype).contiguous().transpose(-2, -1)
        if self.mask is not None:
            is_per_group = self.mask.ndim == 4 and self.mask.shape[0] > 1
            scores = _masked(scores, self.mask[groups] if is_per_group else self.mask, rows)
        if self.causal:
            count = self.shape[2]
            allowed = torch.ones(count, self.shape[3], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~allowed.tril()[rows], -math.inf)
        return scores

    def attention_gradient(self, rows: slice = slice(None)) -> Tensor:
        """Return dL/dA for the queries in `rows`: a new tensor (G,H,Q,Nk).

        Raises
        ------
        RuntimeError
            If the record was made with ``grad=False``.
        """
        if self.gradient is None:
            raise RuntimeError(
                f"{self.site}: expected gradients, got a record without gradients — "
                "use record(…, grad=True)"
            )
        gradient = self.gradient[:, :, rows].to(self.dtype, copy=self.dense is not None)
        if self.dense is not None:
            return gradient
        assert self.value is not None
        return gradient @ self.value.to(self.dtype).transpose(-2, -1)

    def token_order(self) -> Tensor | None:
        """Return the indices (N,) of the record's tokens in this call, if it permutes them.

        None if the tokens are in order, and for windows and coarser grids.
        """
        keys, queries = self.keys_at, self.queries_at
        if keys.token is None or queries is None or queries.token is None:
            return None
        table = keys.token[0]
        numbers = torch.arange(len(table), device=table.device)
        is_permutation = len(keys.token) == keys.batch and bool(
            (table.sort().values == numbers).all()
        )
        same_order = queries.token.shape == keys.token.shape and torch.equal(
            queries.token, keys.token
        )
        same_grid = keys.call_grid.shape == keys.grid.shape
        return table.argsort() if is_permutation and same_order and same_grid else None

    def query_gradient_norms(self) -> Tensor:
        """Return the norm of dL/dA over heads and keys for each query: (G, Nq).

        For a fused call, ||dL/dA_i||^2 = dL/dO_i (V^T V) dL/dO_i^T, so no row of dL/dA is needed.
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
        """Return the record without its gradient; the weights of learned queries stay."""
        return self if self.gradient is None else replace(self, gradient=None)

    def query_weights(self, weights: Tensor) -> Tensor:
        """Map weights (B, N) of the record's tokens to the queries of this call: (G, Nq).

        Learned queries have their own weights, from the gradient of each query; without gradients
        the weights are equal.
        """
        if self.queries_at is None:
            if self.learned_query_weights is None:
                return weights.new_full((self.shape[0], self.shape[2]), 1 / self.shape[2])
            return self.learned_query_weights
        return self.queries_at.to_call(weights)

    def reduce(self, weights: Tensor, rule: Rule | None = None) -> Tensor:
        """Return sum_i weights_i rule(A, dA)_ij over the queries i, on the tokens: (B,H,N).

        Parameters
        ----------
        weights : (B, N), one per token of the record's grid; `query_weights` maps them to queries
        rule : maps A and dA (None without gradients), both (G,H,Q,Nk), to the same shape;
            None is the attention itself
        """
        query_weights = self.query_weights(weights)
        total = torch.zeros((), dtype=self.dtype, device=weights.device)
        for rows in self.chunks(*num_active_queries(query_weights)):
            attention = self.attention(rows)
            gradient = None if self.gradient is None else self.attention_gradient(rows)
            block = attention if rule is None else rule(attention, gradient)
            total = total + (query_weights[:, None, None, rows].to(block) @ block).squeeze(2)
        return self.keys_at.to_grid(total)

    def chunks(self, queries: int | None = None) -> Iterator[slice]:
        """Yield slices of the first `queries`, with blocks (G,H,Q,Nk) of about `CHUNK_BYTES`."""
        groups, heads, n_queries, keys = self.shape
        queries = n_queries if queries is None else queries
        row_bytes = groups * heads * keys * self.dtype.itemsize
        step = max(1, CHUNK_BYTES // row_bytes)
        for start in range(0, queries, step):
            yield slice(start, min(start + step, queries))


@dataclass(frozen=True)
class AttentionRecord:
    """Record of the recorded sites of a model for a batch of images.

    `sites` are in the order of their calls; `grid` is the grid of their tokens; `prediction` is the
    output, with the differentiated score.
    `read_from` (B, N) is how much each token of the last self-attention layer contributes to the
    explained score: the norm of the gradient of the score with respect to the attention row of
    that query, divided by the sum of these norms. It is None without gradients.
    `left_out` are sites whose attention is not between patches of the image, or that the score does
    not depend on; they have no layer number, and `notes` gives the reasons.
    `in_order` tells whether all layers of the model, recorded or not, attend over the tokens of
    `grid` in order: no windows, no coarser grids, prefix tokens first, patches row by row.
    `is_blocked` tells whether the model runs a part without gradients.
    `without_rule` are the names of calls without a rule, in a pass under propagation rules.
    `depth` is the number of self-attention layers of the model, recorded or not.
    """

    sites: tuple[SiteRecord, ...]
    grid: PatchGrid
    prediction: Prediction
    read_from: Tensor | None
    left_out: tuple[AttentionSite, ...] = ()
    in_order: bool = True
    depth: int = 1
    notes: tuple[str, ...] = ()
    is_blocked: bool = False
    without_rule: tuple[str, ...] = ()

    @property
    def logits(self) -> Tensor:
        """Return the output of the model, (B, …)."""
        return self.prediction.logits

    def without_sites(self) -> AttentionRecord:
        """Return the record without its sites, which frees their memory."""
        return replace(self, sites=())

    @property
    def reads_class_token(self) -> Tensor:
        """Return whether each score depends on a prefix token of the last layer: (B,)."""
        return self.readout()[:, : self.grid.prefix].sum(dim=1) > 0

    def middle_layer(self) -> SiteRecord:
        """Return the recorded site nearest to half of the model's depth; the earlier of two."""
        return min(self.sites, key=lambda record: abs(record.site.layer - self.depth // 2))

    def rows(self, queries: slice) -> Iterator[tuple[AttentionSite, Tensor]]:
        """Yield each self-attention site with its attention (B,H,Q,N) for the slice `queries`.

        Tokens are in the order of the grid, prefix tokens first; windows and coarser grids keep the
        order of the call.
        """
        for record in self.sites:
            if record.site.kind != "self":
                continue
            order = record.token_order()
            if order is None:
                yield record.site, record.attention(queries)
            else:
                yield record.site, record.attention(order[queries])[..., order]

    def dense(self, layer: int) -> Tensor:
        """Return the complete attention (B,H,N,N) of one layer, in the token order of `rows`."""
        for site, attention in self.rows(slice(None)):
            if site.layer == layer:
                return attention
        layers = [record.site.layer for record in self.sites if record.site.kind == "self"]
        raise ValueError(f"layer: expected one of the recorded {layers}, got {layer}")

    def readout(self) -> Tensor:
        """Return how much each token contributes to the explained score: (B, N), rows sum to 1.

        See `read_from` in the class docstring.

        Raises
        ------
        RuntimeError
            If the record was made with ``grad=False``.
        """
        if self.read_from is None:
            raise RuntimeError(
                "record: expected gradients, which show the tokens that the score is read from, "
                "got a record without gradients — use record(…, grad='last')"
            )
        return self.read_from

    def reduce(self, weights: Tensor, rule: Rule | None = None) -> list[Tensor]:
        """Return sum_i weights_i rule(A, dA)_ij over queries i, (B,H,N), per self-attention site.

        Parameters
        ----------
        weights : (B, N), one weight per token of the record's grid
        rule : maps A and dA (None without gradients), both (G,H,Q,Nk), to the same shape;
            None is the attention itself
        """
        return [record.reduce(weights, rule) for record in self.sites if record.site.kind == "self"]


def num_active_queries(*query_weights: Tensor) -> list[int]:
    """Return the number of queries up to the last with a non-zero weight, at least 1.

    Parameters
    ----------
    query_weights : (G, Nq) for each of several sites; the device is read once for all of them
    """
    different = {id(weights): weights for weights in query_weights}
    last = []
    for weights in different.values():
        numbers = torch.arange(1, weights.shape[1] + 1, device=weights.device)
        last.append((weights.ne(0).any(dim=0) * numbers).amax())
    counts = dict(zip(different, torch.stack(last).clamp(min=1).tolist(), strict=True))
    return [counts[id(weights)] for weights in query_weights]


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
    """Return the record of one call with its tokens on `grid`; `result` is the dense attention."""
    assert layout.keys is not None
    lead = tuple(call.shape[:-2])
    keys_at = layout.place(layout.keys, grid, batch)
    queries_at = None if layout.queries is None else layout.place(layout.queries, grid, batch)
    gradient = None if gradient is None else layout.fold(gradient, lead)
    if isinstance(call, DenseCall):
        dense = layout.fold(call.run().detach() if result is None else result, lead)
        shape = (*dense.shape[:2], call.shape[-2], call.shape[-1])
        return SiteRecord(
            site, shape, keys_at, queries_at, dense=dense, gradient=gradient, layout=layout
        )
    query = layout.fold(call.query.detach().expand(*lead, -1, -1), lead)
    mask = None if call.attn_mask is None else call.attn_mask.detach()
    return SiteRecord(
        site,
        (*query.shape[:2], call.shape[-2], call.shape[-1]),
        keys_at,
        queries_at,
        query=query,
        key=layout.fold(_per_head(call, call.key), lead),
        value=layout.fold(_per_head(call, call.value), lead),
        mask=None if mask is None else layout.fold(mask, lead),
        causal=call.is_causal,
        scale=1 / math.sqrt(call.query.shape[-1]) if call.scale is None else call.scale,
        gradient=gradient,
        layout=layout,
    )


def _per_head(call: FusedCall, tensor: Tensor) -> Tensor:
    """Return keys or values (B,H,N,D), repeated if query heads share them (grouped queries)."""
    times = call.query.shape[1] // tensor.shape[1] if tensor.ndim == 4 else 1
    return tensor.detach() if times == 1 else tensor.detach().repeat_interleave(times, dim=1)
