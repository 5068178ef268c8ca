"""Infidelity and max-sensitivity, as Captum computes them, with seeds of their own.

Source: Yeh et al. 2019 (arXiv 1901.09392).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..utils.captum_library import metrics

Predict = Callable[[Tensor], Tensor]


def infidelity(
    predict: Predict,
    images: Tensor,
    attribution: Tensor,
    target: Tensor,
    *,
    noise: float = 0.2,
    draws: int = 10,
    normalize: bool = True,
    seed: int = 0,
) -> Tensor:
    """How badly an attribution foretells what noise on the image does to the logit: (B,).

    Parameters
    ----------
    predict : images (N, C, H, W) to logits (N, K)
    images, attribution : (B, C, H, W)
    target : (B,)
    noise : standard deviation of Gaussian noise, in units of the input
    draws : of the noise, for each image
    normalize : whether the attribution is scaled to fit best, so that its unit does not count
    """
    if attribution.shape != images.shape:
        raise ShapeError(
            f"attribution: expected {tuple(images.shape)} as the images, got "
            f"{tuple(attribution.shape)} — give one value a pixel and channel"
        )
    chance = torch.Generator().manual_seed(seed)

    def perturb(inputs: Any) -> tuple[Tensor, Tensor]:
        made = noise * torch.randn(inputs.shape, generator=chance, device="cpu")
        made = made.to(inputs)
        return made, inputs - made

    with torch.no_grad():
        found: Tensor = metrics.infidelity(
            predict, perturb, images, attribution.detach(), target=target,
            n_perturb_samples=draws, normalize=normalize,
        )  # fmt: skip
    return found.cpu().double()


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    draws: int = 10,
    seed: int = 0,
) -> Tensor:
    """How far a map moves at most, to its size, while each pixel moves by `radius` or less: (B,).

    Parameters
    ----------
    explain : images (N, C, H, W) to maps (N, …), of the same classes for draws of one image
    radius : in units of the input
    draws : of the noise, for each image
    """
    chance = torch.Generator().manual_seed(seed)

    def perturb(inputs: Any, reach: float = radius) -> tuple[Tensor, ...]:
        single = isinstance(inputs, Tensor)
        return tuple(
            one + reach * (2 * torch.rand(one.shape, generator=chance, device="cpu") - 1).to(one)
            for one in ((inputs,) if single else inputs)
        )

    found: Tensor = metrics.sensitivity_max(
        lambda *given: (explain(given[0][0] if isinstance(given[0], tuple) else given[0]),),
        images, perturb_func=perturb, perturb_radius=radius, n_perturb_samples=draws,
    )  # fmt: skip
    return found.detach().cpu().double()
