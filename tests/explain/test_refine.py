"""Refinement keeps the scale of the map and follows the edges of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semattn.explain.refine import EPSILON, RADIUS, refinements
from semattn.grid import PatchGrid

GRID = PatchGrid((6, 8), image_size=(96, 128), cell=(16, 16))


def two_colours() -> np.ndarray:
    """Return an image with an edge inside a patch: dark red left of x = 70, blue right of it."""
    pixels = np.zeros((1, 96, 128, 3), np.uint8)
    pixels[:, :, :70] = (90, 20, 20)
    pixels[:, :, 70:] = (30, 90, 230)
    return pixels


@pytest.mark.parametrize("name", list(refinements))
def test_a_constant_map_stays_constant(name: str) -> None:
    flat = torch.full((1, 48), 0.7)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 96, 128, 3), np.uint8)
    actual = refinements[name](GRID.upsample(flat), pixels, GRID)
    torch.testing.assert_close(actual, torch.full((1, 96, 128), 0.7), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["superpixels", "guided"])
def test_the_map_follows_a_border_that_bilinear_misses(name: str) -> None:
    patches = torch.zeros(1, 6, 8)
    patches[:, :, 5:] = 1
    patches[:, :, 4] = 0.6
    smooth = GRID.upsample(patches.flatten(1))
    blurred = refinements["none"](smooth, two_colours(), GRID)[0]
    sharp = refinements[name](smooth, two_colours(), GRID)[0]

    def step(heat_map: torch.Tensor) -> float:
        return float(heat_map[:, 72].mean() - heat_map[:, 67].mean())

    assert step(sharp) > 1.8 * step(blurred)
    assert sharp.min() >= 0 and sharp.max() <= 1.001


def test_the_guided_filter_equals_its_definition_on_windows() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = PatchGrid((2, 2), image_size=(20, 24), cell=(10, 12))
    pixels = torch.randint(0, 255, (1, 20, 24, 3), generator=generator, dtype=torch.uint8).numpy()
    patches = torch.rand(1, 4, generator=generator)
    smooth = grid.upsample(patches)
    actual = refinements["guided"](smooth, pixels, grid)[0].double()
    smooth = smooth[0]
    source = (smooth / smooth.max()).double().numpy()
    guide = pixels[0].astype(np.float64) / 255

    def window(array: np.ndarray, y: int, x: int) -> np.ndarray:
        cut = array[max(y - RADIUS, 0) : y + RADIUS + 1, max(x - RADIUS, 0) : x + RADIUS + 1]
        return cut.reshape(-1, *array.shape[2:])

    fits = np.zeros((20, 24, 4))
    for y in range(20):
        for x in range(24):
            colours, values = window(guide, y, x), window(source, y, x)
            centered = colours - colours.mean(0)
            variance = centered.T @ centered / len(colours) + EPSILON * np.eye(3)
            slope = np.linalg.solve(variance, centered.T @ (values - values.mean()) / len(colours))
            fits[y, x] = [*slope, values.mean() - slope @ colours.mean(0)]
    for y, x in [(0, 0), (9, 11), (19, 23), (4, 20)]:
        mean = window(fits, y, x).mean(0)
        expected = np.clip(mean[:3] @ guide[y, x] + mean[3], 0, 1) * float(smooth.max())
        assert abs(float(actual[y, x]) - expected) < 1e-5


def test_an_all_zero_map_stays_zero() -> None:
    for refine in refinements.values():
        zero = torch.zeros(1, 96, 128)
        assert torch.equal(refine(zero, two_colours(), GRID), zero)


def test_bilinear_is_interpolation_at_patch_centres() -> None:
    patches = torch.rand(2, 48, generator=torch.manual_seed(0))
    actual = refinements["none"](GRID.upsample(patches), two_colours().repeat(2, 0), GRID)
    expected = F.interpolate(patches.view(2, 1, 6, 8), size=(96, 128), mode="bilinear")[:, 0]
    torch.testing.assert_close(actual, expected)
