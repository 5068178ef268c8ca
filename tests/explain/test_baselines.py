"""Baselines equal their densities on any model."""

from __future__ import annotations

import pytest
import torch

from semattn import Center, KeypointDensity, Random
from semattn.density import Scene, concentration, densities
from semattn.errors import NoKeypointWarning
from semattn.grid import PatchGrid
from semattn.images import pixels_of
from semattn.keypoints import detect
from tests.models import build, images

GRID = PatchGrid((3, 4), (48, 64), (16, 16), prefix=1)


@pytest.mark.parametrize(
    ("explainer", "density"),
    [
        (KeypointDensity(), "count"),
        (KeypointDensity(density="sobel"), "sobel"),
        (Random(), "random"),
        (Random(density="sobel", seed=3), "random"),
        (Center(), "center"),
    ],
)
def test_the_map_is_the_concentration(explainer: object, density: str) -> None:
    x = images(2, torch.float64)
    pixels = pixels_of(x)
    scene = Scene(pixels, detect(pixels), GRID, explainer.seed)
    expected = concentration(densities[density](scene))
    for name in ("class-token", "unfused"):
        actual = explainer.patch_map(build(name, torch.float64), x)
        torch.testing.assert_close(actual.flatten(1), expected, atol=1e-15, rtol=0)


def test_the_random_map_depends_on_the_seed() -> None:
    model, x = build("class-token"), images()
    assert not torch.equal(Random().patch_map(model, x), Random(seed=1).patch_map(model, x))


def test_an_image_without_keypoints_has_an_even_density() -> None:
    with pytest.warns(NoKeypointWarning):
        explanation = KeypointDensity().explain(
            build("class-token"), torch.full((1, 3, 48, 64), 0.5)
        )
    assert explanation.notes == ("image 0: no keypoints were used, so the map is uniform.",)
    assert (explanation.patch_map == explanation.patch_map[0, 0, 0]).all()
