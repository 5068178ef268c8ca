"""How concentrated a map is; a value of taste, which stands beside faithfulness, never for it."""

from __future__ import annotations

import torch
from torch import Tensor


def gini(values: Tensor) -> Tensor:
    """Gini index of the magnitudes of values (B, …): 0 is even, near 1 all in one place.

    0 for values that are all 0. Source: Hurley & Rickard 2009 (arXiv 0811.4706).

    Examples
    --------
    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]])).tolist()
    [0.0, 0.75]
    """
    size = values.flatten(1).double().abs().sort(dim=1).values
    count = size.shape[1]
    weight = (count - torch.arange(count, dtype=torch.double, device=size.device) - 0.5) / count
    whole = size.sum(dim=1)
    found = 1 - 2 * (size * weight).sum(dim=1) / whole.clamp(min=torch.finfo(torch.double).tiny)
    return torch.where(whole > 0, found, 0.0).cpu()


def complexity(values: Tensor) -> Tensor:
    """Entropy of the magnitudes of values (B, …) as parts of their sum, nats.

    NaN for values that are all 0. Source: Bhatt et al. 2020 (arXiv 2005.00631).
    """
    size = values.flatten(1).double().abs()
    part = size / size.sum(dim=1, keepdim=True)
    found = -torch.where(part > 0, part * part.clamp(min=1e-300).log(), part).sum(dim=1)
    return found.cpu()
