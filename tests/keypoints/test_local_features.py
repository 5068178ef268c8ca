"""Features of many images: enlarged detection, RootSIFT, mirrored descriptors, and their arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from semattn.keypoints import Keypoints, no_keypoints, sift
from semattn.keypoints.local_features import (
    FINE_CONTRAST,
    fine_sift,
    keypoints_from_arrays,
    keypoints_to_arrays,
    local_features,
    root_sift,
    unit_descriptors,
)
from semattn.keypoints.matching import concatenate
from tests.keypoints.drawn_marks import picture

FIELDS = ("xy", "response", "size", "angle", "descriptor")


def spots(places: list[tuple[float, float]], height: int, width: int) -> np.ndarray:
    """Return bright Gaussian spots on grey."""
    down, across = np.mgrid[:height, :width]
    bumps = [np.exp(-((across - x) ** 2 + (down - y) ** 2) / 32) for x, y in places]
    grey = 40 + 180 * np.sum(bumps, axis=0)
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


def drawn_keypoints(count: int, dimensions: int = 128, detector: str = "sift-fine") -> Keypoints:
    """Return random keypoints with integer descriptors."""
    rng = np.random.default_rng((count, dimensions))
    xy, response, size, angle = (
        torch.from_numpy(rng.random(shape).astype(np.float32) * 99)
        for shape in ((count, 2), count, count, count)
    )
    descriptor = torch.from_numpy(rng.integers(0, 256, (count, dimensions)).astype(np.float32))
    return Keypoints(xy, response, size, angle, descriptor, (90 + count, 120), detector)


# --- detection


@pytest.mark.parametrize("size", [(96, 131), (260, 301), (447, 200), (300, 460)])
def test_positions_and_sizes_are_those_of_the_image_itself(size):
    height, width = size
    places = [(30.0, 40.0), (60.5, 70.25), (width - 31.0, height - 33.0)]
    pixels = spots(places, height, width)
    fine, coarse = fine_sift(pixels), sift(pixels)
    for place in places:
        first, second = (
            int(np.hypot(*(keypoints.xy.numpy() - place).T).argmin())
            for keypoints in (fine, coarse)
        )
        assert fine.xy[first].tolist() == pytest.approx(place, abs=0.1)
        assert fine.xy[first].tolist() == pytest.approx(coarse.xy[second].tolist(), abs=0.1)
        assert fine.size[first].item() == pytest.approx(coarse.size[second].item(), rel=0.1)
    assert fine.image_size == size and fine.detector == "sift-fine"


def test_a_large_image_is_not_enlarged():
    pixels = picture(0, (60, 460))
    fine, own = fine_sift(pixels), sift(pixels, contrast_threshold=FINE_CONTRAST, descriptors=True)
    assert len(fine) == len(own) <= 400
    torch.testing.assert_close(fine.xy, own.xy)
    for field in FIELDS[1:]:
        assert torch.equal(getattr(fine, field), getattr(own, field))


def test_small_letters_have_several_times_more_keypoints():
    image = Image.new("RGB", (120, 80), (120, 120, 120))
    ImageDraw.Draw(image).text((20, 30), "SAMPLE", fill=(255, 255, 255), font_size=10)
    pixels = np.asarray(image)
    fine, own = fine_sift(pixels), sift(pixels, contrast_threshold=FINE_CONTRAST)
    assert len(fine) >= 3 * len(own) and len(fine) >= 20


def test_the_strongest_keypoints_are_kept():
    pixels = picture(1)
    every, few = fine_sift(pixels, max_keypoints=10**6), fine_sift(pixels, max_keypoints=7)
    assert len(every) > 20 and len(few) == 7
    for field in FIELDS:
        assert torch.equal(getattr(few, field), getattr(every, field)[:7])
    assert (every.response.diff() <= 0).all()
    assert fine_sift(pixels, descriptors=False).descriptor is None


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 50), (40, 40)])
def test_an_image_without_texture_has_no_keypoints(size):
    keypoints = fine_sift(np.full((*size, 3), 90, np.uint8))
    assert len(keypoints) == 0 and keypoints.descriptor.shape == (0, 128)
    assert keypoints.image_size == size


# --- descriptors


def test_root_sift_is_the_root_of_the_part_of_the_sum():
    descriptors = np.random.default_rng(0).integers(0, 256, (6, 128)).astype(np.float32)
    descriptors[2] = 0
    for row, root in zip(descriptors.astype(float), root_sift(descriptors), strict=True):
        total = sum(row.tolist())
        expected = [(value / total) ** 0.5 if total else 0.0 for value in row.tolist()]
        np.testing.assert_allclose(root, expected, atol=1e-6)
    assert np.linalg.norm(root_sift(descriptors)[[0, 1, 3]], axis=1) == pytest.approx(1)


def test_descriptors_of_other_detectors_are_divided_by_their_length():
    keypoints = drawn_keypoints(3, 32, "orb")
    values = keypoints.descriptor.numpy()
    expected = [row / np.sqrt((row.astype(float) ** 2).sum()) for row in values]
    np.testing.assert_allclose(unit_descriptors(keypoints), expected, atol=1e-6)
    np.testing.assert_array_equal(
        unit_descriptors(drawn_keypoints(3)), root_sift(drawn_keypoints(3).descriptor.numpy())
    )


@pytest.mark.parametrize("dimensions", [32, 128])
def test_only_descriptors_of_sift_are_mirrored(dimensions):
    features = local_features([drawn_keypoints(3, dimensions, "orb")])
    assert features.mirrored_descriptors() is None
    assert features.rows(slice(2)).mirrored_descriptors() is None
    assert concatenate([features, features]).mirrored_descriptors() is None
    assert local_features([drawn_keypoints(3)]).mirrored_descriptors() is not None
    if dimensions != 128:
        with pytest.raises(ValueError, match=r"expected \(M, 128\) .* got \(.*, 32\) .*is_sift="):
            replace(features, is_sift=True).mirrored_descriptors()


def test_keypoints_without_descriptors_are_refused():
    bare = sift(picture(0))
    for function in (local_features, keypoints_to_arrays):
        with pytest.raises(
            ValueError, match="^keypoints: expected descriptors, got none from sift"
        ):
            function([bare])


def test_mirrored_descriptors_are_those_of_the_mirrored_image():
    pixels = picture(2)
    features, others = (
        local_features([sift(image, descriptors=True, duplicates="keep")])
        for image in (pixels, np.ascontiguousarray(np.fliplr(pixels)))
    )
    mirrored = features.mirrored_descriptors()
    correlations = []
    for row in range(len(features)):
        x, y = features.xy[row]
        distance = np.hypot(*(others.xy - [pixels.shape[1] - 1 - x, y]).T)
        turn = (others.angle - (180 - features.angle[row]) + 180) % 360 - 180
        octaves = np.log2(others.size / features.size[row])
        same = np.flatnonzero((distance < 0.2) & (abs(turn) < 3) & (abs(octaves) < 0.05))
        correlations += [
            np.corrcoef(mirrored[row], others.descriptors[pair])[0, 1] for pair in same[:1]
        ]
    assert len(correlations) > 0.9 * len(features) > 20
    assert np.median(correlations) > 0.999 and min(correlations) > 0.9
    twice = replace(features, descriptors=mirrored).mirrored_descriptors()
    np.testing.assert_array_equal(twice, features.descriptors)


# --- arrays


@pytest.mark.parametrize("dimensions", [128, 32])
def test_keypoints_of_several_images_return_from_arrays(dimensions):
    counts = (0, 5, 0, 0, 3, 1, 0)
    images = [drawn_keypoints(count, dimensions) for count in counts]
    arrays = keypoints_to_arrays(images)
    assert arrays["descriptor"].dtype == np.uint8
    _check_equal(images, keypoints_from_arrays(arrays))
    _check_equal(images[:1], keypoints_from_arrays(keypoints_to_arrays(images[:1])))


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0])
def test_descriptors_that_are_no_bytes_keep_their_values(value):
    keypoints = drawn_keypoints(4)
    keypoints.descriptor[2, 7] = value
    _check_equal([keypoints], keypoints_from_arrays(keypoints_to_arrays([keypoints])))


def test_detected_keypoints_return_from_arrays():
    images = [fine_sift(picture(0)), fine_sift(np.zeros((20, 30, 3), np.uint8))]
    arrays = keypoints_to_arrays(images)
    assert arrays["descriptor"].dtype == np.uint8
    _check_equal(images, keypoints_from_arrays(arrays))


def _check_equal(images: list[Keypoints], returned: list[Keypoints]) -> None:
    assert len(images) == len(returned)
    for before, after in zip(images, returned, strict=True):
        assert before.image_size == after.image_size and before.detector == after.detector
        for field in FIELDS:
            value = getattr(after, field)
            assert value.dtype == torch.float32 and torch.equal(value, getattr(before, field))


def test_rows_of_images_without_keypoints():
    counts = (0, 3, 0, 2, 0)
    images = [drawn_keypoints(count) for count in counts]
    features = local_features(images)
    assert len(features) == 5 and features.n_images == 5
    assert features.starts.tolist() == [0, 0, 3, 3, 5, 5]
    assert features.image.tolist() == [1, 1, 1, 3, 3]
    part = features.rows(slice(3, 5))
    np.testing.assert_array_equal(part.xy, images[3].xy.numpy())
    np.testing.assert_array_equal(part.size, images[3].size.numpy())
    np.testing.assert_array_equal(part.angle, images[3].angle.numpy())
    np.testing.assert_array_equal(part.descriptors, unit_descriptors(images[3]))
    assert part.n_images == 5
    empty = local_features([no_keypoints((9, 9))] * 2)
    assert len(empty) == 0 and empty.starts.tolist() == [0, 0, 0]
    assert empty.mirrored_descriptors().shape == (0, 128)
