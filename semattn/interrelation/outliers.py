"""Detection of register-like outlier tokens.

After "Vision Transformers Need Registers", arXiv 2309.16588: large models reuse a few background
tokens, with a norm far above the others, as registers. Attention to such a token tells nothing
about the patch at its position.
"""

from __future__ import annotations

from torch import Tensor

from ..density import EMPTY

MIN_DEVIATIONS = 5.0  # robust standard deviations above the median norm


def find_outliers(norms: Tensor, strata: Tensor) -> Tensor:
    """Return a mask (B, P) of patches that are EMPTY and have a norm far above the image's median.

    The spread is 1.4826 times the median absolute deviation, which estimates the standard deviation
    of a normal distribution.

    Examples
    --------
    >>> import torch
    >>> find_outliers(torch.tensor([[1.0, 1.1, 0.9, 9.0, 1.0]]), torch.zeros(1, 5)).tolist()
    [[False, False, False, True, False]]
    """
    norms = norms.cpu().double()
    median = norms.quantile(0.5, dim=1, keepdim=True)
    spread = 1.4826 * (norms - median).abs().quantile(0.5, dim=1, keepdim=True)
    return (norms > median + MIN_DEVIATIONS * spread) & (strata == EMPTY)
