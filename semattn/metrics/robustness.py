"""Infidelity and max-sensitivity, computed by Captum with separate random generators.

Source: Yeh et al. 2019 (arXiv 1901.09392).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..utils.library_imports import metrics

Predict = Callable[[Tensor], Tensor]


def infidelity(
    predict: Predict,
    images: Tensor,
    attribution: Tensor,
    target: Tensor,
    *,
    noise: float = 0.2,
    n_samples: int = 10,
    normalize: bool = True,
    seed: int = 0,
) -> Tensor:
    """Compute the error (B,) of an attribution as predictor of the logit change under noise.

    Parameters
    ----------
    predict : images (N, C, H, W) to logits (N, K)
    images, attribution : (B, C, H, W)
    target : (B,)
    noise : standard deviation of Gaussian noise, in units of the input
    n_samples : number of noise samples for each image
    normalize : scale the attribution to the best fit, so that its unit has no effect
    """
    if attribution.shape != images.shape:
        raise ShapeError(
            f"attribution: expected {tuple(images.shape)} as the images, got "
            f"{tuple(attribution.shape)} — pass one value per pixel and channel"
        )
    rng = torch.Generator().manual_seed(seed)

    def perturb(inputs: Any) -> tuple[Tensor, Tensor]:
        noise_sample = noise * torch.randn(inputs.shape, generator=rng, device="cpu")
        noise_sample = noise_sample.to(inputs)
        return noise_sample, inputs - noise_sample

    with torch.no_grad():
        result: Tensor = metrics.infidelity(
            predict, perturb, images, attribution.detach(), target=target,
            n_perturb_samples=n_samples, normalize=normalize,
        )  # fmt: skip
    return result.cpu().double()


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    n_samples: int = 10,
    seed: int = 0,
) -> Tensor:
    """Compute the maximum relative change (B,) of a map under pixel noise of at most `radius`.

    Parameters
    ----------
    explain : images (N, C, H, W) to maps (N, …), with the same class for all samples of an image
    radius : in units of the input
    n_samples : number of noise samples for each image
    """
    rng = torch.Generator().manual_seed(seed)

    def perturb(inputs: Any, perturb_radius: float = radius) -> tuple[Tensor, ...]:
        is_single = isinstance(inputs, Tensor)
        return tuple(
            tensor
            + perturb_radius
            * (2 * torch.rand(tensor.shape, generator=rng, device="cpu") - 1).to(tensor)
            for tensor in ((inputs,) if is_single else inputs)
        )

    result: Tensor = metrics.sensitivity_max(
        lambda *args: (explain(args[0][0] if isinstance(args[0], tuple) else args[0]),),
        images, perturb_func=perturb, perturb_radius=radius, n_perturb_samples=n_samples,
    )  # fmt: skip
    return result.detach().cpu().double()
