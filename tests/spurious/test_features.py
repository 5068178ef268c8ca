"""Features of patches, their projection, and the detector on both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints
from semattn.spurious.cue_detector import CueDetector
from semattn.spurious.feature_extractor import (
    colour_features,
    descriptor_features,
    feature_blocks,
)
from semattn.spurious.projection import fit_projection, fit_whitening


def test_colours_and_descriptors_of_patches():
    grid = PatchGrid((1, 2), (8, 16), (8, 8))
    pixels = np.zeros((1, 8, 16, 3), np.uint8)
    pixels[0, :, 8:, 0] = 200
    features = colour_features(pixels, grid)[0]
    assert features[0, 0] == 0 and features[1, 0] == pytest.approx(np.log(216 / 16), rel=1e-4)
    keypoints = Keypoints(
        xy=torch.tensor([[9.0, 4.0], [12.0, 4.0]]), response=torch.ones(2), size=torch.ones(2),
        angle=torch.zeros(2), descriptor=torch.eye(128)[:2] * 9, image_size=(8, 16), detector="a",
    )  # fmt: skip
    patches = descriptor_features([keypoints], grid)[0]
    assert not patches[0].any()
    assert patches[1, :2].tolist() == [0.5, 0.5]
    assert patches[1, 128] == pytest.approx(np.log(3))


def test_projection_weighs_every_kind_equally_and_a_detector_can_precede_it():
    rng = np.random.default_rng(0)
    width = 2 * 6 + 4 + 129
    sample = rng.normal(size=(400, width)) * np.r_[np.full(6, 9.0), np.full(width - 6, 0.1)]
    projection = fit_projection(sample, 0)
    coordinates = projection(sample)
    blocks = [coordinates[:, :6], coordinates[:, projection.object_axes]]
    assert [float(block.var(axis=0).mean()) for block in blocks] == pytest.approx([1, 1], rel=1e-2)
    assert feature_blocks(width)[1] == slice(6, 12)
    detector = CueDetector(rng.normal(size=coordinates.shape[1]).astype(np.float32), 0.3, 1.0, -0.5)
    images = coordinates[:12].reshape(3, 4, -1)
    count = (detector.scores(images) > 0).sum(axis=1)
    shown = 1 / (1 + np.exp(-(1.0 * np.log(1 + count) - 0.5)))
    patch_probability = 1 / (1 + np.exp(-detector.scores(images)))
    np.testing.assert_allclose(detector(images), patch_probability * shown[:, None], rtol=1e-5)
    before = detector.for_features(projection)
    np.testing.assert_allclose(before.scores(sample), detector.scores(coordinates), atol=1e-3)
    white = fit_whitening(coordinates)(coordinates)
    assert np.abs(np.cov(white.T) - np.eye(white.shape[1])).max() < 0.4
