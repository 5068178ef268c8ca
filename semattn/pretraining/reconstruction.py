"""The loss of a reconstruction, and the pictures that a model reconstructs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.model_inputs import model_device
from ..density import count
from ..grid import PatchGrid
from ..keypoints import Keypoints
from .data import MaskedImages, middle

EPSILON = 1e-6  # beside the variance of a patch: transformers'


def masked_loss(
    predicted: Tensor, target: Tensor, mask: Tensor, weight: Tensor, normalised: bool
) -> Tensor:
    """Mean squared error of the masked patches, each patch by its weight, each image alike.

    With equal weights it is MAE's loss.

    Parameters
    ----------
    predicted, target : (B, P, D)
    mask : (B, P), 1 where masked, of which each image has one at least
    weight : (B, P), > 0
    normalised : whether each patch of the target is normalised first
    """
    if normalised:
        mean = target.mean(-1, keepdim=True)
        target = (target - mean) / (target.var(-1, keepdim=True) + EPSILON) ** 0.5
    error = ((predicted - target) ** 2).mean(-1)
    counts = mask * weight
    return ((error * counts).sum(1) / counts.sum(1)).mean()


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Images, what a model saw of them, and what it made of it.

    Parameters
    ----------
    pixels : (n, H, W, 3) uint8
    reconstructed : (n, H, W, 3) uint8, masked patches as predicted, visible ones as they are
    masked : (n, P) bool
    keypoints : of each image
    grid : of the patches
    error : (n,) mean squared error of the masked patches, each normalised where the model does so
    """

    pixels: np.ndarray
    reconstructed: np.ndarray
    masked: np.ndarray
    keypoints: tuple[Keypoints, ...]
    grid: PatchGrid
    error: np.ndarray


@torch.no_grad()
def reconstruct(
    model: Any, data: MaskedImages, indices: Sequence[int], epoch: int = 0
) -> Reconstruction:
    """What a model reconstructs of the middles of pictures, masked as in an epoch.

    Parameters
    ----------
    model : a `ViTMAEForPreTraining`; left in the mode that it is in
    data : pictures and masks
    indices : which pictures
    epoch : from 0
    """
    crops, found, items = [], [], []
    for index in indices:
        picture = data.picture(index)
        crop = middle(picture, data.grid.image_size)
        crops.append(np.array(crop.image(picture)))
        found.append(data.keypoints(crops[-1], crop, index))
        items.append(data.item(picture, crop, epoch, index))
    device, training = model_device(model), model.training
    inputs = torch.stack([one["pixel_values"] for one in items]).to(device)
    noise = torch.stack([one["noise"] for one in items]).to(device)
    try:
        model.eval()
        out = model(pixel_values=inputs, noise=noise)
    finally:
        model.train(training)
    target = model.patchify(inputs)
    predicted = out.logits.to(target.dtype)
    masked = out.mask.bool()
    error = [
        masked_loss(predicted[i : i + 1], target[i : i + 1], out.mask[i : i + 1],
                    torch.ones_like(out.mask[:1]), model.config.norm_pix_loss)
        for i in range(len(items))
    ]  # fmt: skip
    if model.config.norm_pix_loss:  # what is predicted has no brightness of its own
        spread = (target.var(-1, keepdim=True) + EPSILON) ** 0.5
        predicted = predicted * spread + target.mean(-1, keepdim=True)
    whole = model.unpatchify(torch.where(masked[..., None], predicted, target))
    levels = ((whole.float().cpu() * data.std + data.mean) * 255).round().clamp(0, 255)
    return Reconstruction(
        pixels=np.stack(crops),
        reconstructed=levels.to(torch.uint8).permute(0, 2, 3, 1).numpy(),
        masked=masked.cpu().numpy(),
        keypoints=tuple(found),
        grid=data.grid,
        error=torch.stack(error).float().cpu().numpy(),
    )


def richness(made: Reconstruction) -> float:
    """The part of the keypoints that lies in masked patches, over all images; NaN for none."""
    from ..density import Scene

    counts = count(Scene(made.pixels, made.keypoints, made.grid)).numpy()
    total = counts.sum()
    return float((counts * made.masked).sum() / total) if total else float("nan")
