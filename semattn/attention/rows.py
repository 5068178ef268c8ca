"""One site's attention and its gradient, recomputed row by row and never stored.

Because O = A V, the gradient of a score with respect to the attention is dL/dA = dL/dO V^T,
exactly. So q, k, v and dL/dO, all of size N x D, hold everything; a row of A and of dL/dA costs
O(N), and what is summed over queries is summed in chunks of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .sites import AttentionSite

CHUNK_BYTES = 16 * 2**20  # of one (B,H,Q,N) block: large enough for the kernels, small in memory


@dataclass(frozen=True)
class SiteRecord:
    """What one site did in one forward pass.

    Either q (B,H,Nq,D), k and v (B,H,Nk,D), `mask` added to the scores (or None) and `gradient`
    dL/dO; or, of a module that makes its own softmax, `dense` (B,H,Nq,Nk) and `gradient` dL/dA.
    """

    site: AttentionSite
    shape: tuple[int, int, int, int]
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    mask: Tensor | None = None
    causal: bool = False
    scale: float = 1.0
    dense: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what is recomputed: that of the model, float32 at least."""
        kept = self.query if self.dense is None else self.dense
        assert kept is not None
        return torch.promote_types(kept.dtype, torch.float32)

    def attention(self, rows: slice = slice(None)) -> Tensor:
        """A after softmax for the queries in `rows`: (B,H,Q,Nk), the caller's own."""
        if self.dense is not None:
            return self.dense[:, :, rows].to(self.dtype, copy=True)
        assert self.query is not None and self.key is not None
        query = self.query[:, :, rows].to(self.dtype) * self.scale
        scores = query @ self.key.to(self.dtype).transpose(-2, -1)
        if self.mask is not None:
            scores = _masked(scores, self.mask, rows)
        if self.causal:
            count = self.shape[2]
            allowed = torch.ones(count, self.shape[3], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~allowed.tril()[rows], -math.inf)
        return torch.softmax(scores, dim=-1)

    def attention_gradient(self, rows: slice = slice(None)) -> Tensor:
        """dL/dA for the queries in `rows`: (B,H,Q,Nk), the caller's own.

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

    def chunks(self, queries: int | None = None) -> Iterator[slice]:
        """Slices of the first `queries`, each with a block (B,H,Q,Nk) of about `CHUNK_BYTES`."""
        batch, heads, asked, keys = self.shape
        queries = asked if queries is None else queries
        row = batch * heads * keys * self.dtype.itemsize
        step = max(1, CHUNK_BYTES // row)
        for start in range(0, queries, step):
            yield slice(start, min(start + step, queries))


def _masked(scores: Tensor, mask: Tensor, rows: slice) -> Tensor:
    if mask.ndim >= 2 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -math.inf)
    return scores + mask.to(scores.dtype)
