"""Conversion of a density s to the concentration p and to the three strata."""

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
    """Compute p_i = (s_i + e) / sum_j (s_j + e), with e = smoothing * mean(s).

    Parameters
    ----------
    s : (B, P), >= 0; if a row is all 0, its p is uniform and a warning is issued
    smoothing : >= 0; keeps p above 0 in empty patches

    Returns
    -------
    Tensor
        p (B, P); rows sum to 1. Gradients flow to s. float64 on the CPU; at least float32 on other
        devices, because some do not support float64.

    Examples
    --------
    >>> concentration(torch.tensor([[0.0, 3.0, 1.0, 0.0]]), smoothing=1.0)
    tensor([[0.1250, 0.5000, 0.2500, 0.1250]], dtype=torch.float64)
    """
    s = _check_density(s)
    check_number("smoothing", smoothing, minimum=0, maximum=1e6)
    maximum = s.amax(-1, keepdim=True)
    empty = maximum == 0
    if empty.any():
        images = ", ".join(str(i) for i in empty[:, 0].nonzero().flatten().tolist())
        warnings.warn(
            f"density: image {images} has no keypoint and no weight in any patch; "
            "its concentration is uniform",
            NoKeypointWarning,
            stacklevel=2,
        )
    s = torch.where(empty, 1.0, s / maximum)  # prevents overflow; the scale cancels
    s = s + float(smoothing) * s.mean(-1, keepdim=True)
    return s / s.sum(-1, keepdim=True)


def strata(s: Tensor, seed: int = 0) -> Tensor:
    """Assign patches to EMPTY (s = 0), LOW and HIGH (split at the median of the rest).

    LOW and HIGH have the same size, or HIGH has one more. Ties at the median are broken at random;
    the random numbers depend on the seed and the ranks of the image, not on the batch.

    Returns
    -------
    Tensor
        (B, P) int8.

    Examples
    --------
    >>> strata(torch.tensor([[0.0, 3.0, 1.0, 2.0]])).tolist()
    [[0, 2, 1, 2]]
    """
    s = _check_density(s)
    check_number("seed", seed, minimum=0, integer=True)
    if not len(s):
        return s.to(torch.int8)
    rank = torch.stack([_ranks(row, seed) for row in s.detach().cpu().numpy()]).to(s.device)
    empty = (s == 0).sum(1, keepdim=True)
    high = rank - empty >= (s.shape[1] - empty) // 2
    return torch.where(s == 0, EMPTY, torch.where(high, HIGH, LOW)).to(torch.int8)


def _ranks(row: np.ndarray, seed: int) -> Tensor:
    """Return ranks 0 … P-1 of a row (P,) in ascending order; ties are broken at random."""
    level = np.unique(row, return_inverse=True)[1].astype(np.int64)
    shuffled = np.random.default_rng([seed, zlib.crc32(level.tobytes())]).permutation(len(row))
    return torch.from_numpy(np.lexsort((shuffled, level)).argsort())


def _check_density(s: Tensor) -> Tensor:
    """Convert s to float64 on the CPU and at least float32 elsewhere; raise for invalid values."""
    check_values("density", s)
    if s.ndim != 2 or s.shape[1] == 0:
        raise ShapeError(f"density: expected (B, P), got {tuple(s.shape)} — one value per patch")
    min_dtype = torch.float64 if s.device.type == "cpu" else torch.float32
    s = s.to(min_dtype if not s.is_floating_point() else torch.promote_types(s.dtype, min_dtype))
    values = s.detach()
    if not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            f"density: expected finite values >= 0, got [{float(values.min()):.4g}, "
            f"{float(values.max()):.4g}] — clip or replace them first"
        )
    return s
