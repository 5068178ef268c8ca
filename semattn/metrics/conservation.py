"""Conservation: the sum of the relevance of a map, compared with the score that it distributes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError


def conservation(relevance: Tensor, score: Tensor) -> Tensor:
    """Compute the sum of the relevance divided by the score; 1 if the relevance is conserved.

    Parameters
    ----------
    relevance : (B, …), signed relevance of all inputs
    score : (B,), the explained score

    Returns
    -------
    Tensor
        (B,), float64 on the CPU; NaN for a score of 0.

    Raises
    ------
    ShapeError
        If the numbers of images differ.

    Examples
    --------
    >>> conservation(torch.tensor([[1.0, 2.0, -0.5]]), torch.tensor([2.0]))
    tensor([1.2500], dtype=torch.float64)
    """
    if score.ndim != 1 or relevance.ndim < 1 or len(relevance) != len(score):
        raise ShapeError(
            f"relevance, score: expected (B, …) and (B,), got {tuple(relevance.shape)} and "
            f"{tuple(score.shape)} — give one score per image"
        )
    total = relevance.detach().cpu().double().reshape(len(score), -1).sum(dim=1)
    score = score.detach().cpu().double()
    return torch.where(score == 0, torch.nan, total / score)


def conservation_error(ratio: Tensor) -> Tensor:
    """Return the distance (B,) of a `conservation` from 1; 0.05 is 5 % of the score.

    >>> conservation_error(torch.tensor([0.75, 1.5]))
    tensor([0.2500, 0.5000])
    """
    return (ratio - 1).abs()
