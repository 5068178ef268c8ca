"""Reconstruction loss, reconstructions of pictures by a model, and the picture that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import viz
from ..attention.model_call import model_device
from ..density import count
from ..grid import PatchGrid
from ..keypoints import Keypoints
from ..masking import GuidedMasking, masked_target_loss
from ..masking.dense_descriptors import EPSILON, normalise_patches
from ..utils.atomic_files import atomic_write
from .data import MaskedImages, middle


def masked_loss(
    predicted: Tensor, target: Tensor, mask: Tensor, weight: Tensor, normalised: bool
) -> Tensor:
    """Compute the weighted mean squared error of the masked patches, averaged over images.

    With equal weights this is the loss of MAE.

    Parameters
    ----------
    predicted, target : (B, P, D)
    mask : (B, P), 1 for masked patches; each image has at least one
    weight : (B, P), > 0
    normalised : normalise each target patch first
    """
    if normalised:
        target = normalise_patches(target)
    return masked_target_loss(predicted, target, mask, weight)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Images, their masks and their reconstructions by a model.

    Parameters
    ----------
    pixels : (n, H, W, 3) uint8
    reconstructed : (n, H, W, 3) uint8, predicted masked patches and original visible patches
    masked : (n, P) bool
    keypoints : keypoints of each image
    grid : patch grid
    error : (n,) mean squared error of the masked patches, normalised per patch if the model does so
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
    """Reconstruct the center crops of pictures, masked as in an epoch.

    Parameters
    ----------
    model : a `ViTMAEForPreTraining`; its training mode is restored
    data : pictures and masks
    indices : indices of the pictures
    epoch : counted from 0
    """
    crops, keypoints, items = [], [], []
    for index in indices:
        picture = data.picture(index)
        crop = middle(picture, data.grid.image_size)
        crops.append(np.array(crop.image(picture)))
        keypoints.append(data.keypoints(crops[-1], crop, index))
        items.append(data.item(picture, crop, epoch, index))
    device, training = model_device(model), model.training
    inputs = torch.stack([item["pixel_values"] for item in items]).to(device)
    noise = torch.stack([item["noise"] for item in items]).to(device)
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
    if model.config.norm_pix_loss:  # predictions are normalised per patch
        spread = (target.var(-1, keepdim=True) + EPSILON) ** 0.5
        predicted = predicted * spread + target.mean(-1, keepdim=True)
    images = model.unpatchify(torch.where(masked[..., None], predicted, target))
    pixels = ((images.float().cpu() * data.std + data.mean) * 255).round().clamp(0, 255)
    return Reconstruction(
        pixels=np.stack(crops),
        reconstructed=pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy(),
        masked=masked.cpu().numpy(),
        keypoints=tuple(keypoints),
        grid=data.grid,
        error=torch.stack(error).float().cpu().numpy(),
    )


def masked_keypoint_fraction(reconstruction: Reconstruction) -> float:
    """Return the fraction of all keypoints that are in masked patches; NaN without keypoints."""
    from ..density import Scene

    counts = count(
        Scene(reconstruction.pixels, reconstruction.keypoints, reconstruction.grid)
    ).numpy()
    total = counts.sum()
    return float((counts * reconstruction.masked).sum() / total) if total else float("nan")


PICTURE = "reconstruction.png"
PICTURES_PER_RUN = 10


def is_due(epochs_done: int, epochs: int) -> bool:
    """Return True if a picture is drawn after this number of epochs."""
    return epochs_done == epochs or epochs_done % max(1, epochs // PICTURES_PER_RUN) == 0


def draw_reconstruction(
    model: Any, data: MaskedImages, count: int, epochs_done: int, out_dir: Path
) -> None:
    """Draw the reconstruction picture after a number of epochs and write it atomically."""
    result = reconstruct(
        model, data, spread_indices(len(data), count), epoch=max(epochs_done - 1, 0)
    )
    fraction = masked_keypoint_fraction(result)
    captions = [
        describe(data, max(epochs_done - 1, 0)),
        "" if np.isnan(fraction) else f"{fraction:.0%} of the keypoints are in masked patches",
        "predicted patches are shown with their true mean and contrast"
        * model.config.norm_pix_loss,
    ]
    headline = f"Reconstruction after {epochs_done} epoch" + ("" if epochs_done == 1 else "s")
    figure = viz.reconstruction(
        result, headline=headline, subtitle="  ·  ".join(filter(None, captions))
    )
    with atomic_write(out_dir / PICTURE) as stream:
        figure.savefig(stream, format="png")


def describe(data: MaskedImages, epoch: int) -> str:
    """Return a description of the masking of an epoch."""
    masking = data.masking
    if not isinstance(masking, GuidedMasking):
        return type(masking).__name__.removesuffix("Masking").lower() + " masking"
    beta = masking.beta_at(epoch)
    hidden = (
        "dense patches are masked more often"
        if beta > 0
        else "sparse patches are masked more often"
    )
    return f"guided masking, beta {beta:g}" + (f": {hidden}" if beta else "")


def spread_indices(count: int, limit: int) -> list[int]:
    """Return at most `limit` indices, evenly spaced over `count` pictures."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(limit, count))})
