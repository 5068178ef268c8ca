"""Sparseness metrics: concentration of a map, a complement to faithfulness, not a substitute."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError


def gini(values: Tensor) -> Tensor:
    """Compute the Gini index of the magnitudes of values (B, …): 0 is uniform, near 1 is sparse.

    With the magnitudes in ascending order, `1 − 2 Σ_k |v|_k / Σ|v| · (n − k + ½) / n`, k from 1.
    It is 0 if all values are 0. Source: Hurley & Rickard 2009 (arXiv 0811.4706).

    Examples
    --------
    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]])).tolist()
    [0.0, 0.75]
    """
    magnitudes = _magnitudes(values).sort(dim=1).values
    count = magnitudes.shape[1]
    weight = (count - torch.arange(count, dtype=torch.double, device="cpu") - 0.5) / count
    total = magnitudes.sum(dim=1)
    index = 1 - 2 * (magnitudes * weight).sum(dim=1) / total
    return torch.where(total == 0, 0.0, index)


def complexity(values: Tensor) -> Tensor:
    """Compute the entropy of the normalised magnitudes of values (B, …), nats.

    0 for a single non-zero value, log n for a uniform map, NaN if all are 0. Source: Bhatt et al.
    2020 (arXiv 2005.00631).

    Examples
    --------
    >>> complexity(torch.tensor([[0.0, 0.0, 2.0]])).tolist()
    [0.0]
    """
    magnitudes = _magnitudes(values)
    return torch.special.entr(magnitudes / magnitudes.sum(dim=1, keepdim=True)).sum(dim=1)


def _magnitudes(values: Tensor) -> Tensor:
    if values.ndim < 2:
        raise ShapeError(
            f"values: expected (B, …), got {tuple(values.shape)} — pass one map as values[None]"
        )
    return values.detach().cpu().double().flatten(1).abs()
