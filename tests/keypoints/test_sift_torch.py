"""SIFT of PyTorch: the keypoints and descriptors of OpenCV, in batches and on any device."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from semattn import SIFTPatchInterrelation
from semattn.keypoints import Keypoints, detect, detectors, sift, sift_torch
from semattn.keypoints.scale_space import grey
from tests.accelerator import accelerator, reads
from tests.conftest import tiny

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
NEAR, SIZE = 0.5, 0.05  # pixels, and part of the size
ANGLE = 5.0  # degrees


def crops(side: int, count: int) -> np.ndarray:
    """Return crops of photographs at random places and scales."""
    rng = np.random.default_rng(0)
    images = []
    for name in itertools.islice(itertools.cycle(PHOTOGRAPHS), count):
        photograph = getattr(skimage.data, name)()
        factor = rng.uniform(side / min(photograph.shape[:2]), 1)
        small = cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        y, x = (rng.integers(0, length - side + 1) for length in small.shape[:2])
        images.append(small[y : y + side, x : x + side])
    return np.stack(images)


def matches(first: Keypoints, second: Keypoints) -> torch.Tensor:
    """Return which keypoints of the second are those of the first, (K1, K2)."""
    distance = (first.xy[:, None] - second.xy[None]).norm(dim=-1)
    ratio = first.size[:, None] / second.size[None]
    return (distance < NEAR) & ((ratio - 1).abs() < SIZE)


@pytest.fixture(scope="module")
def pixels():
    return crops(160, 12)


@pytest.fixture(scope="module")
def both(pixels):
    """Keypoints of OpenCV and of PyTorch, with every orientation."""
    return [
        detect(pixels, name, descriptors=True, duplicates="keep", **options)
        for name, options in (("sift", {}), ("sift-torch", {"device": "cpu"}))
    ]


def test_the_keypoints_are_those_of_opencv(both):
    for first, second in (both, both[::-1]):
        found = [matches(*pair).any(dim=1) for pair in zip(first, second, strict=True)]
        assert torch.cat(found).float().mean() >= 0.98
    counts = [[len(keypoints) for keypoints in of_detector] for of_detector in both]
    assert np.corrcoef(counts)[0, 1] >= 0.99 and sum(counts[0]) > 500
    assert sum(counts[1]) == pytest.approx(sum(counts[0]), rel=0.01), "as many orientations"


def test_orientations_responses_and_descriptors_are_those_of_opencv(both):
    similarities, is_turned, responses = [], [], []
    for first, second in zip(*both, strict=True):
        turn = (first.angle[:, None] - second.angle[None] + 180) % 360 - 180
        pairs = matches(first, second)
        is_turned.append((pairs & (turn.abs() < ANGLE)).any(dim=1)[pairs.any(dim=1)])
        rows, columns = (pairs & (turn.abs() < ANGLE)).nonzero().unbind(dim=1)
        vectors = first.descriptor[rows], second.descriptor[columns]
        similarities.append(torch.cosine_similarity(*vectors))
        responses.append((first.response[rows] - second.response[columns]).abs())
    assert torch.cat(is_turned).float().mean() >= 0.98
    assert torch.cat(similarities).mean() >= 0.999
    assert torch.cat(responses).quantile(0.98) < 1e-5
    assert all(torch.equal(k.descriptor, k.descriptor.round().clamp(0, 255)) for k in both[1])


@pytest.mark.parametrize("shape", [(223, 317), (61, 64), (12, 300), (5, 5), (1, 1), (3, 64)])
def test_any_size_is_searched(shape):
    image = skimage.data.astronaut()[None, 100 : 100 + shape[0], 100 : 100 + shape[1]]
    (first,), (second,) = detect(image, "sift"), detect(image, "sift-torch", device="cpu")
    assert second.image_size == shape and abs(len(first) - len(second)) <= 0.01 * len(first)
    assert not len(first) or matches(first, second).any(dim=1).float().mean() >= 0.98


def test_images_without_structure_have_no_keypoints():
    flat = np.full((2, 64, 64, 3), 255, np.uint8)
    assert [len(keypoints) for keypoints in detect(flat, "sift-torch", device="cpu")] == [0, 0]
    (empty,) = detect(flat[:1], "sift-torch", descriptors=True, device="cpu")
    assert empty.descriptor is not None and empty.descriptor.shape == (0, 128)


def test_an_image_does_not_depend_on_its_batch(pixels):
    batch = detect(pixels[:3], "sift-torch", descriptors=True, device="cpu")
    alone = sift_torch(pixels[1], descriptors=True, device="cpu")
    for name in ("xy", "size", "angle", "response", "descriptor"):
        assert torch.equal(getattr(batch[1], name), getattr(alone, name)), name
    assert alone.detector == "sift-torch" and isinstance(alone, Keypoints)


def test_contrast_and_duplicates_are_those_of_opencv(pixels):
    for options in ({"contrast_threshold": 0.04}, {"duplicates": "drop"}):
        counts = [
            [len(keypoints) for keypoints in detect(pixels[:4], name, **options, **more)]
            for name, more in (("sift", {}), ("sift-torch", {"device": "cpu"}))
        ]
        assert np.allclose(*counts, rtol=0.02, atol=1), options
    with pytest.raises(ValueError, match="contrast_threshold"):
        sift_torch(pixels[0], contrast_threshold=-1, device="cpu")
    with pytest.raises(ValueError, match="duplicates"):
        sift_torch(pixels[0], duplicates="some", device="cpu")


def test_grey_values_are_those_of_opencv():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 97, 101, 3)).astype(np.uint8)
    expected = cv2.cvtColor(pixels[0], cv2.COLOR_RGB2GRAY)
    assert np.array_equal(grey(torch.from_numpy(pixels))[0].numpy(), expected)


def test_an_accelerator_gives_the_same_keypoints(pixels):
    expected = detect(pixels[:2], "sift-torch", descriptors=True, device="cpu")
    with accelerator() as device:
        detect(pixels[:2], "sift-torch", descriptors=True, device=device)
        reads.clear()
        actual = detect(pixels[:2], "sift-torch", descriptors=True, device=device)
    for first, second in zip(expected, actual, strict=True):
        assert torch.equal(first.xy, second.xy) and torch.equal(first.descriptor, second.descriptor)


def test_explainers_use_it_by_name():
    image = crops(64, 1)[0]
    explanation = SIFTPatchInterrelation(detector="sift-torch").explain(tiny(), image)
    expected = SIFTPatchInterrelation().explain(tiny(), image)
    assert explanation.keypoints[0].detector == "sift-torch" and "sift-torch" in detectors
    assert torch.allclose(explanation.concentration, expected.concentration, atol=1e-3)
    assert len(explanation.keypoints[0]) == len(sift(explanation.images.pixels[0]))
