"""Tokens that hold no patch: register-like outliers, which large models make of empty ones.

After "Vision Transformers Need Registers", arXiv 2309.16588: a few tokens of keypoint-poor
background grow far longer than the rest and serve as scratch space. What attention gives to them
says nothing of the patch that they stand on.
"""

from __future__ import annotations

from torch import Tensor

from ..density import EMPTY

FAR = 5.0  # robust standard deviations above the median norm


def outliers(norms: Tensor, strata: Tensor) -> Tensor:
    """Which patches (B, P) are EMPTY and have a norm far above the image's median.

    The spread is 1.4826 times the median absolute deviation, as of a normal distribution.

    Examples
    --------
    >>> import torch
    >>> outliers(torch.tensor([[1.0, 1.1, 0.9, 9.0, 1.0]]), torch.zeros(1, 5)).tolist()
    [[False, False, False, True, False]]
    """
    norms = norms.cpu().double()
    median = norms.quantile(0.5, dim=1, keepdim=True)
    spread = 1.4826 * (norms - median).abs().quantile(0.5, dim=1, keepdim=True)
    return (norms > median + FAR * spread) & (strata == EMPTY)
