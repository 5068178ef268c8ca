"""Descriptors of each patch of a batch of images: RootSIFT, HOG, colour and normalised pixels.

All functions run on the device of the images, without synchronisation and without a loop over
patches. They return unit vectors (B, P, D), or zeros for patches without contrast, and compute no
gradient. They use torch only; OpenCV's own SIFT is in `semattn.keypoints`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.validation import check_number, check_values

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in `semattn.images.luma`
CELLS, ORIENTATIONS, CLIP = 4, 8, 0.2  # of SIFT (Lowe, IJCV 2004, section 6)
# OpenCV smooths to a blur of 1.6 pixels and assumes that the image already has a blur of .5.
SMOOTHING = math.sqrt(1.6**2 - 0.5**2)
RADIUS = 6  # of the smoothing kernel, pixels: 4 standard deviations
HOG_CELL, HOG_BINS = 4, 9  # pixels; unsigned orientations
COLOUR_CELLS = 4  # along each side of a patch
EPSILON = 1e-6  # added to the variance of a patch, as in MAE
# Norm below which a vector is zero. One step of an 8-bit image gives about 1e-3, rounding 1e-6.
NO_CONTRAST = 1e-4


@torch.no_grad()
def dense_rootsift(images: Tensor, patch_size: int = 16, window: float = 16.0) -> Tensor:
    """Compute the upright RootSIFT descriptor of a window around the centre of each patch.

    The image is made grey and smoothed. Each gradient adds its magnitude to the histograms of 4x4
    cells with 8 orientations, with linear interpolation along x, y and orientation, and with a
    Gaussian weight of standard deviation `window / 2`. The 128 values are divided by their norm,
    clipped at .2, divided by their sum, and replaced by their square roots.

    Parameters
    ----------
    images : (B, 3, H, W), uint8, or floating point in [0, 1]
    patch_size : side of a patch, pixels
    window : side of the 4x4 cells, pixels; may exceed the patch

    Returns
    -------
    Tensor
        (B, P, 128), float32 (float64 for float64 images). The last axis is (row of cells, column of
        cells, orientation), orientations counterclockwise from +x, in OpenCV's order.

    Raises
    ------
    ShapeError
        For images of another shape, of sides below 7 pixels or that are no multiple of the patch.

    Notes
    -----
    Equal to OpenCV's SIFT at octave 0 with angle 0 and size `window / 6`, except that OpenCV rounds
    the centre to whole pixels, and grey levels and descriptors to 8 bits. Sources: Lowe, IJCV 2004;
    Arandjelovic and Zisserman, CVPR 2012 (RootSIFT).

    Examples
    --------
    >>> dense_rootsift(torch.rand(2, 3, 32, 48), patch_size=16).shape
    torch.Size([2, 6, 128])
    """
    check_number("window", window, minimum=1, maximum=1e6)
    images, _ = _check_images(images, patch_size)
    if min(images.shape[-2:]) <= RADIUS:
        raise ShapeError(
            f"images: expected sides of at least {RADIUS + 1} pixels, got "
            f"{images.shape[-2]}x{images.shape[-1]} — enlarge the images"
        )
    with torch.autocast(images.device.type, enabled=False):
        smooth = _smoothed(_grey(images))
        # The outermost pixels have no central difference and are left out.
        dx = smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2]
        dy = smooth[:, :-2, 1:-1] - smooth[:, 2:, 1:-1]  # upwards
        magnitude = torch.hypot(dx, dy)
        position = _orientation(dx, dy, ORIENTATIONS, period=2 * math.pi)
        channels = (
            magnitude * _bin_weight(position, number, ORIENTATIONS)
            for number in range(ORIENTATIONS)
        )
        return pool_channels(channels, images, patch_size, window)


def pool_channels(
    channels: Iterable[Tensor], images: Tensor, patch_size: int, window: float
) -> Tensor:
    """Pool C channels in the cells of the window of each patch and normalise as RootSIFT.

    `dense_rootsift` is this function of 8 channels of oriented gradients.

    Parameters
    ----------
    channels : C tensors (B, H - 2, W - 2), >= 0: all pixels but the outermost
    images : (B, 3, H, W), for the size, dtype and device
    patch_size, window : as for `dense_rootsift`

    Returns
    -------
    Tensor
        (B, P, 16 C). The last axis is (row of cells, column of cells, channel).
    """
    h, w = images.shape[-2] // patch_size, images.shape[-1] // patch_size
    rows = _cell_weights(h, patch_size, window, images)
    columns = _cell_weights(w, patch_size, window, images).T
    histograms = torch.stack([rows @ channel @ columns for channel in channels], dim=-1)
    cells = histograms.reshape(-1, h, CELLS, w, CELLS, histograms.shape[-1])
    vectors = cells.transpose(2, 3).reshape(len(images), h * w, -1)
    clipped = unit_vectors(vectors).clamp(max=CLIP)
    # Division by the sum makes the second division by the norm superfluous.
    return (clipped / clipped.sum(-1, keepdim=True).clamp(min=NO_CONTRAST)).sqrt()


@torch.no_grad()
def dense_hog(images: Tensor, patch_size: int = 16) -> Tensor:
    """Compute the histograms of oriented gradients (HOG) of the 4-pixel cells of each patch.

    Each gradient adds its magnitude to the 9 unsigned orientations of its cell, with linear
    interpolation between the two nearest orientations. Each cell is divided by its norm, then the
    patch by its own.

    Parameters
    ----------
    images, patch_size : as for `dense_rootsift`; the patch size is a multiple of 4

    Returns
    -------
    Tensor
        (B, P, 9 (patch_size / 4)^2). The last axis is (row of cells, column of cells, orientation);
        orientation k is centred at 20 k + 10 degrees.

    Notes
    -----
    Dalal and Triggs (CVPR 2005) normalise blocks of cells and take the colour channel of the
    largest gradient; here, as in MaskFeat (arXiv 2112.09133), single cells are normalised, and the
    image is grey. There is no interpolation between cells.

    Examples
    --------
    >>> dense_hog(torch.rand(2, 3, 32, 48), patch_size=8).shape
    torch.Size([2, 24, 36])
    """
    images, (h, w) = _check_images(images, patch_size, multiple=HOG_CELL)
    with torch.autocast(images.device.type, enabled=False):
        grey = _grey(images)
        across = F.pad(grey, (1, 1, 0, 0), mode="reflect")
        down = F.pad(grey[:, None], (0, 0, 1, 1), mode="reflect")[:, 0]
        dx, dy = across[:, :, 2:] - across[:, :, :-2], down[:, :-2] - down[:, 2:]
        magnitude = torch.hypot(dx, dy)
        position = _orientation(dx, dy, HOG_BINS, period=math.pi, offset=0.5)
        histograms = torch.stack([
            F.avg_pool2d(magnitude * _bin_weight(position, number, HOG_BINS), HOG_CELL)
            for number in range(HOG_BINS)
        ], dim=-1)  # fmt: skip
        side = patch_size // HOG_CELL
        cells = unit_vectors(histograms).reshape(-1, h, side, w, side, HOG_BINS)
        return unit_vectors(cells.transpose(2, 3).reshape(-1, h * w, side * side * HOG_BINS))


@torch.no_grad()
def dense_colour(images: Tensor, patch_size: int = 16) -> Tensor:
    """Compute the mean colours of 4x4 cells of each patch, without brightness and contrast.

    The mean of the 48 values of a patch is subtracted, and they are divided by their norm: a patch
    of one grey level gives zeros, a patch of one colour gives that colour relative to grey.

    Parameters
    ----------
    images, patch_size : as for `dense_rootsift`; the patch size is a multiple of 4

    Returns
    -------
    Tensor
        (B, P, 48). The last axis is (row of cells, column of cells, red, green and blue).
    """
    images, _ = _check_images(images, patch_size, multiple=COLOUR_CELLS)
    means = F.avg_pool2d(images, patch_size // COLOUR_CELLS)
    colours = patches_of(means, COLOUR_CELLS)
    return unit_vectors(colours - colours.mean(-1, keepdim=True))


@torch.no_grad()
def normalised_pixels(images: Tensor, patch_size: int = 16) -> Tensor:
    """Compute the target of MAE (arXiv 2111.06377): the pixels of each patch, normalised.

    Returns
    -------
    Tensor
        (B, P, 3 patch_size^2), mean 0 and variance 1 in each patch. The last axis is (row, column,
        channel), as in transformers.
    """
    images, _ = _check_images(images, patch_size)
    return normalise_patches(patches_of(images, patch_size))


def normalise_patches(patches: Tensor) -> Tensor:
    """Subtract the mean of each patch (…, D) and divide by its standard deviation, as MAE does."""
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (patches.var(-1, keepdim=True) + EPSILON) ** 0.5


def patches_of(images: Tensor, patch_size: int) -> Tensor:
    """Return the pixels (B, P, patch_size^2 C) of the patches of images (B, C, H, W)."""
    batch, channels, height, width = images.shape
    h, w = height // patch_size, width // patch_size
    parts = images.reshape(batch, channels, h, patch_size, w, patch_size)
    return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, h * w, patch_size**2 * channels)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Divide vectors (…, D) by their norm; vectors without contrast become zeros."""
    norm = vectors.norm(dim=-1, keepdim=True)
    return torch.where(norm > NO_CONTRAST, vectors / norm.clamp(min=NO_CONTRAST), 0.0)


def _check_images(
    images: Tensor, patch_size: int, multiple: int = 1
) -> tuple[Tensor, tuple[int, int]]:
    """Return floating point images in [0, 1] and the patch rows and columns; raise for others."""
    check_number("patch_size", patch_size, minimum=1, integer=True)
    if patch_size % multiple:
        raise ValueError(
            f"patch_size: expected a multiple of {multiple}, got {patch_size} — the cells of the "
            "descriptor divide the patch"
        )
    check_values("images", images)
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ShapeError(
            f"images: expected pixels (B, 3, H, W), got {tuple(images.shape)} — repeat a grey "
            "channel three times"
        )
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size or min(height, width) < 2:
        raise ShapeError(
            f"images: expected sides that are multiples of {patch_size}, got {height}x{width} — "
            "resize the images, or pass the model's patch_size"
        )
    if images.dtype == torch.uint8:
        images = images.float() / 255
    elif not images.is_floating_point():
        raise TypeError(
            f"images: expected uint8, or floating point in [0, 1], got {images.dtype} — convert "
            "them first"
        )
    elif images.device.type == "cpu":  # elsewhere a check would wait
        low, high = (float(bound) for bound in torch.aminmax(images))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images: expected values in [0, 1], got {low:.3g} to {high:.3g} — undo the "
                "normalisation, or clamp the values"
            )
    is_double = images.dtype == torch.float64
    images = images if is_double else images.float()
    return images, (height // patch_size, width // patch_size)


def _grey(images: Tensor) -> Tensor:
    """Return the luma (B, H, W) of images (B, 3, H, W)."""
    red, green, blue = images.unbind(1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _smoothed(grey: Tensor) -> Tensor:
    """Smooth images (B, H, W) with a Gaussian; borders are reflected as in OpenCV."""
    weights = [math.exp(-((i / SMOOTHING) ** 2) / 2) for i in range(-RADIUS, RADIUS + 1)]
    for axis, pad in ((1, (0, 0, RADIUS, RADIUS)), (2, (RADIUS, RADIUS, 0, 0))):
        padded = F.pad(grey[:, None], pad, mode="reflect")[:, 0]
        length = grey.shape[axis]
        # Sums of shifted images: unlike a convolution, they are never in TF32.
        grey = torch.zeros_like(grey)
        for start, weight in enumerate(weights):
            grey.add_(padded.narrow(axis, start, length), alpha=weight / sum(weights))
    return grey


def _orientation(dx: Tensor, dy: Tensor, bins: int, period: float, offset: float = 0.0) -> Tensor:
    """Return the orientation of gradients in bins, in [-offset, bins - offset]."""
    angle = torch.atan2(dy, dx)
    return torch.where(angle < 0, angle + period, angle).mul_(bins / period).sub_(offset)


def _bin_weight(position: Tensor, number: int, bins: int) -> Tensor:
    """Return max(0, 1 - d) for the cyclic distance d of positions in bins from a bin."""
    half = bins / 2  # for |x| <= bins: d = half - ||x| - half|
    return (position - number).abs_().sub_(half).abs_().add_(1 - half).clamp_(min=0)


def _cell_weights(patches: int, patch_size: int, window: float, like: Tensor) -> Tensor:
    """Return the weights (4 P, length - 2) of the inner pixels of an axis for the cells of patches.

    A weight is the product of the Gaussian of the window and of the linear interpolation.
    """
    dtype, device = like.dtype, like.device
    centres = (torch.arange(patches, dtype=dtype, device=device) + 0.5) * patch_size - 0.5
    pixels = torch.arange(1, patches * patch_size - 1, dtype=dtype, device=device)
    offset = (pixels - centres[:, None, None]) / (window / CELLS)  # in cells
    cells = torch.arange(CELLS, dtype=dtype, device=device)[:, None] - (CELLS - 1) / 2
    linear = (1 - (offset - cells).abs()).clamp(min=0)
    gaussian = torch.exp(-(offset**2) / (2 * (CELLS / 2) ** 2))
    return (linear * gaussian).reshape(patches * CELLS, -1)
