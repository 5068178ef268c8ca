"""Tests of dense descriptors: slow oracles, OpenCV, scikit-image, mirrors, flat images, errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from skimage import data
from skimage.feature import hog as skimage_hog
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from semattn.errors import ShapeError
from semattn.images import luma
from semattn.masking import dense_colour, dense_hog, dense_rootsift, normalised_pixels

from . import descriptor_oracles as oracles

DESCRIPTORS = {
    "sift": dense_rootsift,
    "hog": dense_hog,
    "colour": dense_colour,
    "pixels": normalised_pixels,
}
each_descriptor = pytest.mark.parametrize("name", DESCRIPTORS)


def photograph(name: str, side: int, width: int | None = None) -> torch.Tensor:
    """Return a photograph (1, 3, H, W) uint8."""
    size = (width or side, side)
    image = Image.fromarray(getattr(data, name)()).resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]


def as_float(images: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return images.to(dtype) / 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("patch_size", "window"), [(16, 16), (8, 16), (8, 11.5), (16, 24)])
def test_sift_is_that_of_the_definition(patch_size, window, dtype):
    images = as_float(torch.cat([photograph("chelsea", 32, 48), photograph("rocket", 32, 48)]))
    actual = dense_rootsift(images.to(dtype), patch_size, window)
    expected = np.stack([oracles.rootsift(image, patch_size, window) for image in images.numpy()])
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["hog", "colour"])
@pytest.mark.parametrize("patch_size", [8, 16])
def test_hog_and_colour_are_those_of_the_definition(name, patch_size):
    images = as_float(torch.cat([photograph("chelsea", 32, 48), photograph("rocket", 32, 48)]))
    expected = np.stack([getattr(oracles, name)(image, patch_size) for image in images.numpy()])
    np.testing.assert_allclose(DESCRIPTORS[name](images, patch_size), expected, atol=1e-9)


def test_pixels_are_the_target_of_the_masked_autoencoder():
    config = ViTMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=1,
        decoder_intermediate_size=16, image_size=32, patch_size=8, norm_pix_loss=True,
    )  # fmt: skip
    images = as_float(photograph("coffee", 32), torch.float32)
    patches = ViTMAEForPreTraining(config).patchify(images)
    expected = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)
    torch.testing.assert_close(normalised_pixels(images, 8), expected, atol=1e-3, rtol=0)


def cosines_to_opencv(image: torch.Tensor, patch_size: int, window: float) -> np.ndarray:
    """Return the cosines (h, w) of RootSIFT to that of OpenCV at the centres of the patches."""
    pixels = image[0].permute(1, 2, 0).contiguous().numpy()
    h, w = (side // patch_size for side in pixels.shape[:2])
    points = [
        cv2.KeyPoint(
            (x + 0.5) * patch_size - 0.5, (y + 0.5) * patch_size - 0.5, window / 6, 0, 1, 0
        )
        for y in range(h)
        for x in range(w)
    ]
    _, values = cv2.SIFT_create().compute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), points)
    expected = np.sqrt(values / values.sum(1, keepdims=True))
    return (expected * dense_rootsift(image, patch_size, window)[0].numpy()).sum(1).reshape(h, w)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize(("patch_size", "window", "bound"), [
    (17, 16, 0.998), (9, 16, 0.998), (17, 24, 0.998),  # centres are whole pixels, as in OpenCV
    (16, 16, 0.99), (8, 16, 0.99), (16, 24, 0.99),  # OpenCV moves the centre by half a pixel
])  # fmt: skip
def test_sift_agrees_with_opencv_away_from_borders(name, patch_size, window, bound):
    margin = 1 if window <= patch_size else 2
    cosines = cosines_to_opencv(photograph(name, 14 * patch_size), patch_size, window)
    assert cosines[margin:-margin, margin:-margin].mean() >= bound


def test_hog_is_close_to_scikit_image():
    image = photograph("chelsea", 64)
    expected = skimage_hog(
        luma(image[0].permute(1, 2, 0).numpy()), 9, (4, 4), (1, 1), block_norm="L2"
    ).reshape(4, 4, 4, 4, 9)
    expected = expected.transpose(0, 2, 1, 3, 4)[..., ::-1].reshape(16, 144) / 4  # rows go down
    cosines = (dense_hog(image, 16)[0].numpy() * expected).sum(1)
    assert cosines.mean() > 0.9  # scikit-image does not interpolate between orientations


def mirrored(vectors: torch.Tensor, columns: int, parts: tuple[int, int, int]) -> torch.Tensor:
    """Return the descriptors of a mirrored image: patches, cells and orientations are moved."""
    side, orientations, first = parts
    batch, patches = vectors.shape[:2]
    cells = vectors.reshape(batch, patches // columns, columns, side, side, orientations)
    order = [(first - number) % orientations for number in range(orientations)]
    return cells.flip(2, 4)[..., order].reshape(vectors.shape)


# Cells along a side, values of a cell, and the number to which orientation 0 moves.
MIRRORS = {"sift": (4, 8, 4), "hog": (4, 9, 8)}


@pytest.mark.parametrize("name", MIRRORS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_targets_of_a_mirrored_image_are_moved_targets(name, seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 16 * rows, 16 * columns)
    images = torch.rand(shape, generator=generator, dtype=torch.float64)
    actual = DESCRIPTORS[name](images.flip(-1), 16)
    expected = mirrored(DESCRIPTORS[name](images, 16), columns, MIRRORS[name])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_colour_of_a_mirrored_image_is_moved():
    images = as_float(photograph("coffee", 32, 48))
    cells = dense_colour(images, 16).reshape(1, 2, 3, 4, 4, 3).flip(2, 4).reshape(1, 6, 48)
    torch.testing.assert_close(dense_colour(images.flip(-1), 16), cells)


def test_edges_have_their_orientation():
    images = torch.zeros(1, 3, 32, 32)
    images[..., 16:] = 1  # brighter to the right: the gradient is +x, orientation 0
    assert dense_rootsift(images, 32, 32).reshape(16, 8).sum(0).argmax() == 0
    # Brighter upwards.
    assert dense_rootsift(images.mT.flip(2), 32, 32).reshape(16, 8).sum(0).argmax() == 2


@each_descriptor
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_flat_images_give_zeros(name, dtype):
    levels = torch.tensor([0, 0.2, 0.7, 1]).to(dtype)
    flat = levels[:, None, None, None].expand(4, 3, 32, 48)
    assert not DESCRIPTORS[name](flat, 16).abs().amax() > (1e-3 if name == "pixels" else 0)


@pytest.mark.parametrize("name", ["sift", "hog", "colour"])
def test_rounding_errors_are_no_contrast(name):
    images = 0.5 + 1e-6 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not DESCRIPTORS[name](images, 16).any()


def test_a_step_of_one_level_is_contrast():
    images = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    images[..., 16:] = 101
    for function in DESCRIPTORS.values():
        assert function(images, 32).norm() > 0.5


@each_descriptor
def test_brightness_and_contrast_do_not_matter(name):
    images = as_float(photograph("chelsea", 32))
    actual = DESCRIPTORS[name](0.5 * images + 0.3, 16)
    tolerance = 1e-2 if name == "pixels" else 1e-6  # a constant is added to the variance of pixels
    torch.testing.assert_close(actual, DESCRIPTORS[name](images, 16), atol=tolerance, rtol=0)


@each_descriptor
def test_descriptors_do_not_depend_on_the_batch_the_type_or_autocast(name):
    images = torch.cat([photograph("chelsea", 32, 48), photograph("rocket", 32, 48)])
    expected = DESCRIPTORS[name](images, 16)
    assert torch.equal(DESCRIPTORS[name](images, 16), expected)
    assert torch.equal(DESCRIPTORS[name](images.float() / 255, 16), expected)
    torch.testing.assert_close(DESCRIPTORS[name](images[1:], 16), expected[1:])
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(DESCRIPTORS[name](channels_last, 16), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(DESCRIPTORS[name](images, 16), expected)
    assert expected.dtype == torch.float32
    assert not DESCRIPTORS[name](as_float(images).requires_grad_(), 16).requires_grad


@each_descriptor
@pytest.mark.parametrize(
    ("images", "patch_size", "error", "message"),
    [
        (torch.rand(3, 32, 32), 16, ShapeError, "images: expected pixels"),
        (torch.rand(1, 1, 32, 32), 16, ShapeError, "images: expected pixels"),
        (torch.rand(0, 3, 32, 32), 16, ShapeError, "images: expected pixels"),
        (torch.rand(1, 3, 32, 33), 16, ShapeError, "images: expected sides"),
        (torch.rand(1, 3, 32, 32) * 3 - 1, 16, ValueError, "images: expected values"),
        (torch.full((1, 3, 32, 32), torch.nan), 16, ValueError, "images: expected values"),
        (torch.ones(1, 3, 32, 32, dtype=torch.int64), 16, TypeError, "images: expected uint8"),
        (np.zeros((1, 3, 32, 32)), 16, TypeError, "images: expected a tensor"),
        (torch.rand(1, 3, 32, 32), 0, ValueError, "patch_size: expected"),
        (torch.rand(1, 3, 32, 32), 16.0, TypeError, "patch_size: expected"),
    ],
)
def test_errors_are_one_line(name, images, patch_size, error, message):
    with pytest.raises(error, match=f"^{message}[^\n]*$"):
        DESCRIPTORS[name](images, patch_size)


def test_errors_of_single_descriptors():
    with pytest.raises(ShapeError, match="at least 7 pixels"):
        dense_rootsift(torch.rand(1, 3, 6, 6), 6)
    with pytest.raises(ValueError, match="window: expected"):
        dense_rootsift(torch.rand(1, 3, 32, 32), 16, window=0)
    for function in (dense_hog, dense_colour):
        with pytest.raises(ValueError, match="patch_size: expected a multiple of 4"):
            function(torch.rand(1, 3, 30, 30), 10)
