from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

from semattn.errors import ShapeError
from semattn.explain import Explanation
from semattn.grid import PatchGrid
from semattn.images import Images
from semattn.keypoints import Keypoints
from semattn.viz import figure, overlay

GRID = PatchGrid((3, 4), image_size=(48, 64), cell=(16, 16), prefix=1)


def keypoints(xy=((8.0, 8.0), (40.0, 24.0))) -> Keypoints:
    xy = torch.tensor(xy).reshape(-1, 2)
    one = torch.ones(len(xy))
    return Keypoints(
        xy=xy, response=one, size=6 * one, angle=one, descriptor=None, image_size=(48, 64),
        detector="sift",
    )  # fmt: skip


@pytest.fixture
def made() -> Explanation:
    """Two images; the map of the first is hot in its upper left patch alone."""
    relevance = torch.zeros(2, 12)
    relevance[0, 0] = 5
    relevance[1] = torch.arange(12.0)
    pixels = np.full((2, 48, 64, 3), 128, dtype=np.uint8)
    pixels[1, :24] = (200, 40, 40)
    return Explanation(
        heat=GRID.upsample(relevance),
        patch_map=GRID.fold(relevance),
        images=Images(torch.zeros(2, 3, 48, 64), pixels, ("a.png", "b.png"), True),
        keypoints=[keypoints(), keypoints(())],
        concentration=torch.full((2, 12), 1 / 12, dtype=torch.float64),
        grid=GRID,
        logits=torch.tensor([[0.0, 2.0], [1.0, 0.0]]),
        target=torch.tensor([1, 1]),
        classes=("cat", "$5 dog_of$ war"),
        notes=("a note",),
        manifest={"method": "sift-patch-interrelation", "parameters": {"density": "count"}},
    )


def texts(drawn) -> str:
    return "\n".join(text.get_text() for text in drawn.texts)


def test_the_overlay_colours_what_matters_and_nothing_else(made):
    picture = overlay(made)
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    spread = picture.max(axis=-1).astype(int) - picture.min(axis=-1)
    assert spread[8, 8] > 80, "hot is coloured"
    assert spread[40, 56] == 0, "cold stays as grey as it was"


def test_the_overlay_does_not_hang_on_one_pixel_or_on_scale(made):
    plain = overlay(made, 1)
    spiked = made.heat.clone()
    spiked[1, 0, 0] = 1e6
    spiked = overlay(dataclasses.replace(made, heat=spiked), 1)
    assert np.abs(spiked.astype(int) - plain)[1:].max() < 20
    scaled = dataclasses.replace(made, heat=made.heat * 1e-9)
    assert np.array_equal(overlay(scaled, 1), plain)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_map_draws_nothing(made, value):
    flat = dataclasses.replace(made, heat=torch.full_like(made.heat, value))
    picture = overlay(flat)
    assert (picture == picture[0, 0]).all()


def test_a_backdrop_of_another_size_is_drawn_on(made):
    large = np.full((96, 128, 3), 128, dtype=np.uint8)
    picture = overlay(made, backdrop=large)
    assert picture.shape == (96, 128, 3)
    near = picture[1::2, 1::2].astype(int) - overlay(made)
    assert np.abs(near).mean() < 4, "the map lies at the same place"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_is_drawn(made, dtype):
    other = dataclasses.replace(made, heat=made.heat.to(dtype), logits=made.logits.to(dtype))
    assert overlay(other).shape == (48, 64, 3)
    figure(other)


def test_what_cannot_be_drawn_is_refused(made):
    with pytest.raises(ShapeError, match="index: expected one of 2 images, got 2"):
        overlay(made, 2)
    with pytest.raises(ShapeError, match="backdrop: expected"):
        figure(made, backdrop=np.zeros((4, 4), dtype=np.uint8))


def test_the_figure_says_what_it_shows(made):
    said = texts(figure(made))
    for part in (
        "$5 dog_of$ war  88.1 %",
        "the predicted class",
        "2 keypoints on 4 × 3 patches",
        "64 × 48 pixels",
        "evidence for $5 dog_of$ war",
        "a note",
    ):
        assert part in said
    said = texts(figure(made, 1))
    assert "asked for; predicted is cat 73.1 %" in said
    assert "0 keypoints" in said


def test_the_figure_of_a_model_without_classes(made):
    said = texts(figure(dataclasses.replace(made, target=None, classes=None)))
    assert "feature direction" in said


def test_the_panels_share_one_frame_and_hold_patches_in_place(made):
    drawn = figure(made)
    panels = drawn.axes[:4]
    assert {axes.get_xlim() for axes in panels} == {(-0.5, 63.5)}
    assert {axes.get_ylim() for axes in panels} == {(47.5, -0.5)}
    circles = panels[1].collections[-1]
    assert circles.get_offsets().tolist() == [[8, 8], [40, 24]]


def test_the_concentration_lies_on_its_patches(made):
    p = torch.full((2, 12), 0.01, dtype=torch.float64)
    p[0, 5] = 1 - 0.11
    drawn = figure(dataclasses.replace(made, concentration=p))
    tile = drawn.axes[2].images[-1]
    assert tile.get_extent() == [-0.5, 63.5, 47.5, -0.5]
    opacity = tile.get_array()[..., 3]
    assert np.unravel_index(opacity.argmax(), opacity.shape) == (1, 1)
    assert "10.7 × even" in texts(drawn)


def test_the_figure_is_written_and_leaves_no_trace(made, tmp_path):
    figure(made).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    pyplot = sys.modules.get("matplotlib.pyplot")  # captum imports it; nothing may be left there
    assert pyplot is None or not pyplot.get_fignums()
