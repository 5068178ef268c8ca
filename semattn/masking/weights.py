"""Weights of patches in the reconstruction loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.registry import unknown_name_message
from semattn.utils.validation import as_tensor, check_number, check_values

CLIP = 20.0  # bound of the absolute exponent, as in KAMIM's code

LOSS_WEIGHTS = ("none", "kamim", "kamim-relative")


def kamim_weight(density: Tensor, temperature: float = 0.5) -> Tensor:
    """Compute KAMIM's weights w = exp(density / T) / min w; the minimum is 1 (arXiv 2407.13873).

    Parameters
    ----------
    density : (B, P), >= 0; keypoints per pixel in KAMIM
    temperature : T > 0; lower values give dense patches more weight

    Returns
    -------
    Tensor
        (B, P) with the dtype of `density`; each row is normalised separately.

    Examples
    --------
    >>> kamim_weight(torch.tensor([[0.0, 0.5, 1.0]])).round(decimals=2).tolist()
    [[1.0, 2.7200000286102295, 7.389999866485596]]
    """
    check_values("density", density)
    if not density.shape[-1]:
        raise ShapeError(f"density: expected (B, P), got {tuple(density.shape)}")
    if not density.is_floating_point() or density.itemsize == 1:
        density = density.float()
    check_number("temperature", temperature, maximum=1e12)
    if not temperature > 0:
        raise ValueError(
            f"temperature: expected a number above 0, got {temperature} — KAMIM uses .5"
        )
    exponent = (density / float(temperature)).clamp(-CLIP, CLIP)
    return (exponent - exponent.amin(-1, keepdim=True)).exp()


def loss_weights(
    name: str, s: np.ndarray | Tensor, area: float, temperature: float = 0.5
) -> Tensor | None:
    """Compute the loss weights (…, P) float32 by name; None for "none".

    Parameters
    ----------
    name : "none"; "kamim" uses keypoints per pixel, as published; "kamim-relative" uses the count
        divided by the image's maximum, so that weights range from 1 to exp(1 / T) for any detector
    s : (…, P) number of keypoints in each patch
    area : area of a patch, pixels
    temperature : as for `kamim_weight`

    Notes
    -----
    KAMIM counts FAST corners, which are far denser than SIFT keypoints: with SIFT, weights per
    pixel are close to 1.
    """
    if name not in LOSS_WEIGHTS:
        raise ValueError(unknown_name_message("loss_weight", name, LOSS_WEIGHTS))
    if name == "none":
        return None
    check_number("area", area, minimum=1, maximum=1e12)
    if not isinstance(s, Tensor):
        try:
            s = as_tensor(np.asarray(s, dtype=np.float64))
        except (TypeError, ValueError):
            raise TypeError(
                f"density: expected numbers (…, P), got {type(s).__name__} — one per patch"
            ) from None
    check_values("density", s)
    if not s.numel():
        raise ShapeError(f"density: expected (B, P), got {tuple(s.shape)}")
    counts = s.to(torch.float64 if s.device.type == "cpu" else torch.float32)
    if name == "kamim":
        density = counts / float(area)
    else:
        density = counts / counts.amax(-1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)
    return kamim_weight(density, temperature).float()
