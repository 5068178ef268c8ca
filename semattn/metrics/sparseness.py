"""How concentrated a map is; a value of taste, which stands beside faithfulness, never for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError


def gini(values: Tensor) -> Tensor:
    """Gini index of the magnitudes of values (B, …): 0 is even, near 1 all in one place.

    With the magnitudes in ascending order, `1 − 2 Σ_k |v|_k / Σ|v| · (n − k + ½) / n`, k from 1.
    0 for values that are all 0. Source: Hurley & Rickard 2009 (arXiv 0811.4706).

    Examples
    --------
    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]])).tolist()
    [0.0, 0.75]
    """
    size = _sizes(values).sort(dim=1).values
    count = size.shape[1]
    weight = (count - torch.arange(count, dtype=torch.double, device="cpu") - 0.5) / count
    whole = size.sum(dim=1)
    found = 1 - 2 * (size * weight).sum(dim=1) / whole
    return torch.where(whole == 0, 0.0, found)


def complexity(values: Tensor) -> Tensor:
    """Entropy of the magnitudes of values (B, …) as parts of their sum, nats.

    0 is all in one place, log n is even; NaN for values that are all 0. Source: Bhatt et al. 2020
    (arXiv 2005.00631).

    Examples
    --------
    >>> complexity(torch.tensor([[0.0, 0.0, 2.0]])).tolist()
    [0.0]
    """
    size = _sizes(values)
    return torch.special.entr(size / size.sum(dim=1, keepdim=True)).sum(dim=1)


def _sizes(values: Tensor) -> Tensor:
    if values.ndim < 2:
        raise ShapeError(
            f"values: expected (B, …), got {tuple(values.shape)} — give one map as values[None]"
        )
    return values.detach().cpu().double().flatten(1).abs()
