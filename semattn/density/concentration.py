"""From a density s to weights p, and to the three strata."""

from __future__ import annotations

import warnings
import zlib

import numpy as np
import torch
from torch import Tensor

from semattn.errors import NoKeypointWarning, ShapeError
from semattn.utils.validation import check_number, check_values

EMPTY, LOW, HIGH = 0, 1, 2


def concentration(s: Tensor, smoothing: float = 0.1) -> Tensor:
    """p_i = (s_i + e) / sum_j (s_j + e), e = smoothing * mean(s).

    Parameters
    ----------
    s : (B, P), >= 0; where all of a row is 0, p is uniform and a warning says so
    smoothing : >= 0; keeps p above 0 in empty patches

    Returns
    -------
    Tensor
        p (B, P); rows sum to 1. Gradients flow to s. float64 on the CPU; on other devices in the
        precision of s, float32 at least, because some have no float64.

    Examples
    --------
    >>> concentration(torch.tensor([[0.0, 3.0, 1.0, 0.0]]), smoothing=1.0)
    tensor([[0.1250, 0.5000, 0.2500, 0.1250]], dtype=torch.float64)
    """
    s = _checked(s)
    check_number("smoothing", smoothing, least=0, most=1e6)
    greatest = s.amax(-1, keepdim=True)
    empty = greatest == 0
    if empty.any():
        images = ", ".join(str(i) for i in empty[:, 0].nonzero().flatten().tolist())
        warnings.warn(
            f"density: no keypoint and no weight in any patch of image {images}; "
            "the concentration is uniform there",
            NoKeypointWarning,
            stacklevel=2,
        )
    s = torch.where(empty, 1.0, s / greatest)  # the scale cancels; so nothing overflows
    s = s + float(smoothing) * s.mean(-1, keepdim=True)
    return s / s.sum(-1, keepdim=True)


def strata(s: Tensor, seed: int = 0) -> Tensor:
    """EMPTY (s = 0), LOW and HIGH (split at the median of the rest), (B, P) int8.

    LOW and HIGH are equally many, or HIGH has one more. Ties at the median are broken by chance:
    the seed and the image's own ranks decide, never its batch, and no place is HIGH more often.

    Examples
    --------
    >>> strata(torch.tensor([[0.0, 3.0, 1.0, 2.0]])).tolist()
    [[0, 2, 1, 2]]
    """
    s = _checked(s)
    check_number("seed", seed, least=0, whole=True)
    if not len(s):
        return s.to(torch.int8)
    rank = torch.stack([_ranks(row, seed) for row in s.detach().cpu().numpy()]).to(s.device)
    empty = (s == 0).sum(1, keepdim=True)
    high = rank - empty >= (s.shape[1] - empty) // 2
    return torch.where(s == 0, EMPTY, torch.where(high, HIGH, LOW)).to(torch.int8)


def _ranks(row: np.ndarray, seed: int) -> Tensor:
    """0 … P-1 from the least of a row (P,) to the greatest; equal ones in a chance order."""
    level = np.unique(row, return_inverse=True)[1].astype(np.int64)
    chance = np.random.default_rng([seed, zlib.crc32(level.tobytes())]).permutation(len(row))
    return torch.from_numpy(np.lexsort((chance, level)).argsort())


def _checked(s: Tensor) -> Tensor:
    """S as float64 on the CPU and as float32 at least elsewhere, or why not."""
    check_values("density", s)
    if s.ndim != 2 or s.shape[1] == 0:
        raise ShapeError(f"density: expected (B, P), got {tuple(s.shape)} — one value a patch")
    least = torch.float64 if s.device.type == "cpu" else torch.float32
    s = s.to(least if not s.is_floating_point() else torch.promote_types(s.dtype, least))
    values = s.detach()
    if not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            f"density: expected finite values >= 0, got [{float(values.min()):.4g}, "
            f"{float(values.max()):.4g}] — clip or clean them first"
        )
    return s
