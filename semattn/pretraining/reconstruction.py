"""Reconstruction loss, reconstructions of pictures by a model, and the picture that shows them."""

from __future__ import annotations

import math
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
from ..masking import DescriptorWords, GuidedMasking, masked_target_loss, split_parts
from ..masking.dense_descriptors import EPSILON, HOG_BINS, ORIENTATIONS, normalise_patches
from ..utils.atomic_files import atomic_write
from .data import MaskedImages, middle
from .models import model_targets

# Values of a cell, for the parts that have cells.
CELL_LENGTHS = {"sift": ORIENTATIONS, "hog": HOG_BINS, "colour": 3}


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
class TargetView:
    """Descriptors of all patches of images, and their predictions, in cells of each patch.

    Parameters
    ----------
    name : part of the target: "sift", "hog" or "colour", or "words" for the descriptors of words
    target, predicted : (n, P, rows, columns, D); the last axis holds orientations, or red, green
        and blue
    """

    name: str
    target: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Images, their masks and their reconstructions by a model.

    Parameters
    ----------
    pixels : (n, H, W, 3) uint8
    reconstructed : (n, H, W, 3) uint8, predicted masked patches and original visible patches; None
        if pixels are no part of the target
    masked : (n, P) bool
    keypoints : keypoints of each image
    grid : patch grid
    error : (n,) loss of the masked patches of each image, without weights
    views : predicted descriptors, one view for each part of the target
    """

    pixels: np.ndarray
    reconstructed: np.ndarray | None
    masked: np.ndarray
    keypoints: tuple[Keypoints, ...]
    grid: PatchGrid
    error: np.ndarray
    views: tuple[TargetView, ...] = ()


@torch.no_grad()
def reconstruct(
    model: Any,
    data: MaskedImages,
    indices: Sequence[int],
    epoch: int = 0,
    words: DescriptorWords | None = None,
) -> Reconstruction:
    """Reconstruct the center crops of pictures, masked as in an epoch.

    Parameters
    ----------
    model : a `ViTMAEForPreTraining` or `ViTMAEForTargets`; its training mode is restored
    data : pictures and masks
    indices : indices of the pictures
    epoch : counted from 0
    words : words of the run, if they are the target
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
    views: tuple[TargetView, ...] = ()
    images: Tensor | None
    if hasattr(model.config, "target"):
        target = model_targets(model.config, inputs, data.preprocessing, words)
        predicted = out.logits.float()
        views = target_views(model.config.target, target, predicted, words, model.config.patch_size)
        images = _reconstructed_part(model, data, inputs, predicted, out.mask.bool())
    else:
        target = model.patchify(inputs)
        predicted = out.logits.to(target.dtype)
        images = _reconstructed(model, target, predicted, out.mask.bool())
        images = images.float().cpu() * data.std + data.mean
        if model.config.norm_pix_loss:
            target = normalise_patches(target)
    error = [
        masked_target_loss(predicted[i : i + 1], target[i : i + 1], out.mask[i : i + 1])
        for i in range(len(items))
    ]
    return Reconstruction(
        pixels=np.stack(crops),
        reconstructed=None if images is None else _to_pixels(images),
        masked=out.mask.bool().cpu().numpy(),
        keypoints=tuple(keypoints),
        grid=data.grid,
        error=torch.stack(error).float().cpu().numpy(),
        views=views,
    )


def _reconstructed(model: Any, target: Tensor, predicted: Tensor, masked: Tensor) -> Tensor:
    """Return images (n, 3, H, W) with predicted masked patches and original visible patches."""
    if model.config.norm_pix_loss:  # predictions are normalised per patch
        predicted = _with_mean_and_contrast(predicted, target)
    images: Tensor = model.unpatchify(torch.where(masked[..., None], predicted, target))
    return images


def _with_mean_and_contrast(predicted: Tensor, target: Tensor) -> Tensor:
    """Give normalised patches the mean and the contrast of the true ones."""
    spread = (target.var(-1, keepdim=True) + EPSILON) ** 0.5
    return predicted * spread + target.mean(-1, keepdim=True)


def _reconstructed_part(
    model: Any, data: MaskedImages, inputs: Tensor, predicted: Tensor, masked: Tensor
) -> Tensor | None:
    """Return images in [0, 1] from the pixels in a sum of targets; None without pixels in it."""
    parts = split_parts(model.config.target, predicted, model.config.patch_size)
    if "pixels" not in parts:
        return None
    target = model.patchify(data.preprocessing.restore(inputs))
    patches = torch.where(
        masked[..., None], _with_mean_and_contrast(parts["pixels"], target), target
    )
    images: Tensor = model.unpatchify(patches).float().cpu()
    return images


def _to_pixels(images: Tensor) -> np.ndarray:
    """Convert images (n, 3, H, W) in about [0, 1] to pixels (n, H, W, 3) uint8."""
    levels = (images * 255).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def target_views(
    name: str,
    target: Tensor,
    predicted: Tensor,
    words: DescriptorWords | None = None,
    patch_size: int = 16,
) -> tuple[TargetView, ...]:
    """Return the descriptors of a target and of its prediction, one view for each part.

    Parameters
    ----------
    name : name of the target
    target, predicted : (n, P, D); for words, (n, P) and scores (n, P, K): a word is shown as its
        descriptor
    words : words, if they are the target
    patch_size : side of a patch, pixels
    """
    label = None
    if words is not None:
        centres = words.centres.to(target.device)
        target, predicted = centres[target], centres[predicted.argmax(-1)]
        label, name, patch_size = name, words.target, words.patch_size
    views = []
    targets, predictions = (split_parts(name, values, patch_size) for values in (target, predicted))
    for part, values in targets.items():
        if part in CELL_LENGTHS:
            view = [
                _cells(x, CELL_LENGTHS[part]).float().cpu().numpy()
                for x in (values, predictions[part])
            ]
            views.append(TargetView(label or part, view[0], view[1]))
    return tuple(views)


def _cells(vectors: Tensor, length: int) -> Tensor:
    """Return vectors (n, P, D) as square cells (n, P, rows, columns, length)."""
    side = math.isqrt(vectors.shape[-1] // length)
    return vectors.unflatten(-1, (side, side, length))


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
    model: Any,
    data: MaskedImages,
    count: int,
    epochs_done: int,
    out_dir: Path,
    words: DescriptorWords | None = None,
) -> None:
    """Draw the reconstruction picture after a number of epochs and write it atomically."""
    result = reconstruct(
        model, data, spread_indices(len(data), count), epoch=max(epochs_done - 1, 0), words=words
    )
    fraction = masked_keypoint_fraction(result)
    has_pixels = result.reconstructed is not None
    is_normalised = has_pixels and (bool(result.views) or model.config.norm_pix_loss)
    captions = [
        describe(data, max(epochs_done - 1, 0)),
        "" if np.isnan(fraction) else f"{fraction:.0%} of the keypoints are in masked patches",
        "predicted patches are shown with their true mean and contrast" * is_normalised,
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
