"""How much each patch counts in the reconstruction loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semattn.checks import as_tensor, check_number, check_values
from semattn.errors import ShapeError
from semattn.registry import choices

CLIP = 20.0  # of the exponent, both ways; as KAMIM's code does

LOSS_WEIGHTS = ("none", "kamim", "kamim-relative")


def kamim_weight(density: Tensor, temperature: float = 0.5) -> Tensor:
    """KAMIM's weights: w = exp(density / T) / min w, so that the least is 1 (arXiv 2407.13873).

    Parameters
    ----------
    density : (B, P), >= 0; KAMIM's is keypoints a pixel
    temperature : T > 0; the lower, the more rich patches count

    Returns
    -------
    Tensor
        (B, P) of the density's type, each row for itself.

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
    check_number("temperature", temperature, most=1e12)
    if not temperature > 0:
        raise ValueError(f"temperature: expected one above 0, got {temperature} — .5 is KAMIM's")
    exponent = (density / float(temperature)).clamp(-CLIP, CLIP)
    return (exponent - exponent.amin(-1, keepdim=True)).exp()


def loss_weights(
    name: str, s: np.ndarray | Tensor, area: float, temperature: float = 0.5
) -> Tensor | None:
    """The weights of that name (…, P) float32; None for "none".

    Parameters
    ----------
    name : "none"; "kamim", by keypoints a pixel, as published; "kamim-relative", by the count in
        parts of the image's greatest, which reaches from 1 to exp(1 / T) whatever the detector
    s : (…, P) number of keypoints in each patch
    area : of a patch, pixels
    temperature : as for `kamim_weight`

    Notes
    -----
    KAMIM counts FAST corners, which are far denser than SIFT's keypoints: per pixel, those of SIFT
    hardly weigh anything.
    """
    if name not in LOSS_WEIGHTS:
        raise ValueError(choices("loss_weight", name, LOSS_WEIGHTS))
    if name == "none":
        return None
    check_number("area", area, least=1, most=1e12)
    if not isinstance(s, Tensor):
        try:
            s = as_tensor(np.asarray(s, dtype=np.float64))
        except (TypeError, ValueError):
            raise TypeError(
                f"density: expected numbers (…, P), got {type(s).__name__} — one a patch"
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
