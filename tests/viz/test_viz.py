from __future__ import annotations

import dataclasses
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from semattn.errors import ShapeError
from semattn.explain import Explanation
from semattn.explain.comparison import Comparison, MethodResult
from semattn.grid import PatchGrid
from semattn.images import Images
from semattn.keypoints import Keypoints
from semattn.viz import comparison, figure, overlay
from semattn.viz.explanation_figures import columns
from semattn.viz.overlay import blend

GRID = PatchGrid((3, 4), image_size=(48, 64), cell=(16, 16), prefix=1)


def keypoints(xy=((8.0, 8.0), (40.0, 24.0))) -> Keypoints:
    xy = torch.tensor(xy).reshape(-1, 2)
    ones = torch.ones(len(xy))
    return Keypoints(
        xy=xy, response=ones, size=6 * ones, angle=ones, descriptor=None, image_size=(48, 64),
        detector="sift",
    )  # fmt: skip


@pytest.fixture
def explanation() -> Explanation:
    """Two images; the map of the first is hot in its upper left patch alone."""
    relevance = torch.zeros(2, 12)
    relevance[0, 0] = 5
    relevance[1] = torch.arange(12.0)
    pixels = np.full((2, 48, 64, 3), 128, dtype=np.uint8)
    pixels[1, :24] = (200, 40, 40)
    return Explanation(
        heat_map=GRID.upsample(relevance),
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


def texts(rendered) -> str:
    return "\n".join(text.get_text() for text in rendered.texts)


def test_the_overlay_colours_what_matters_and_nothing_else(explanation):
    picture = overlay(explanation)
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    spread = picture.max(axis=-1).astype(int) - picture.min(axis=-1)
    assert spread[8, 8] > 80, "hot is coloured"
    assert spread[40, 56] == 0, "cold stays as grey as it was"


def test_the_overlay_does_not_hang_on_one_pixel_or_on_scale(explanation):
    plain = overlay(explanation, 1)
    spiked = explanation.heat_map.clone()
    spiked[1, 0, 0] = 1e6
    spiked = overlay(dataclasses.replace(explanation, heat_map=spiked), 1)
    assert np.abs(spiked.astype(int) - plain)[1:].max() < 20
    scaled = dataclasses.replace(explanation, heat_map=explanation.heat_map * 1e-9)
    assert np.array_equal(overlay(scaled, 1), plain)


@pytest.mark.parametrize("high", [0.05, 0.5, 0.79])
def test_the_picture_stays_visible_under_a_map_that_is_high_nearly_everywhere(high):
    heat_map = torch.zeros(50, 100)
    heat_map[:, : round(100 * high)] = 1.0
    black, white = (blend(heat_map, np.full((50, 100, 3), v, dtype=np.uint8)) for v in (0, 255))
    visible = (white.astype(int) - black).mean(axis=-1) / (0.9 * 255)  # 1 without a map
    assert visible[:, -1] == pytest.approx(1, abs=0.01)
    assert visible[:, 0] == pytest.approx(1 - min(0.88, 0.30 / high), abs=0.01)


def test_the_concentration_says_what_it_weighs(explanation):
    for name in ("count", "gaussian", "distinct-size-surround", "sobel"):
        manifest = {"parameters": {"density": name}}
        rendered = figure(dataclasses.replace(explanation, manifest=manifest))
        keypoints, concentration = (
            next(text for text in rendered.texts if text.get_text().endswith(end))
            for end in ("circle size = scale", "; 1 = the average patch")
        )
        assert (f"density {name}" in concentration.get_text()) is (name == "sobel")
        renderer = rendered.canvas.get_renderer()
        left, right = (each.get_window_extent(renderer) for each in (keypoints, concentration))
        assert left.x1 < right.x0 and right.x1 < rendered.axes[3].get_window_extent().x0


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_map_draws_nothing(explanation, value):
    flat = dataclasses.replace(explanation, heat_map=torch.full_like(explanation.heat_map, value))
    picture = overlay(flat)
    assert (picture == picture[0, 0]).all()


def test_a_backdrop_of_another_size_is_drawn_on(explanation):
    large = np.full((96, 128, 3), 128, dtype=np.uint8)
    picture = overlay(explanation, backdrop=large)
    assert picture.shape == (96, 128, 3)
    near = picture[1::2, 1::2].astype(int) - overlay(explanation)
    assert np.abs(near).mean() < 4, "the map lies at the same place"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_is_drawn(explanation, dtype):
    other = dataclasses.replace(
        explanation, heat_map=explanation.heat_map.to(dtype), logits=explanation.logits.to(dtype)
    )
    assert overlay(other).shape == (48, 64, 3)
    figure(other)


def test_what_cannot_be_drawn_is_refused(explanation):
    with pytest.raises(ShapeError, match="index: expected one of 2 images, got 2"):
        overlay(explanation, 2)
    with pytest.raises(ShapeError, match="backdrop: expected"):
        figure(explanation, backdrop=np.zeros((4, 4), dtype=np.uint8))


def test_the_figure_says_what_it_shows(explanation):
    text_shown = texts(figure(explanation))
    for part in (
        "$5 dog_of$ war  88.1 %",
        "the predicted class",
        "2 keypoints on 4 × 3 patches; circle size = scale",
        "keypoints in each patch; 1 = the average patch",
        "high, relative to this picture",
        "64 × 48 pixels",
        "evidence for $5 dog_of$ war",
        "a note",
    ):
        assert part in text_shown
    text_shown = texts(figure(explanation, 1))
    assert "not the predicted class, which is cat 73.1 %" in text_shown
    assert "0 keypoints" in text_shown


def test_the_figure_of_a_model_without_classes(explanation):
    text_shown = texts(figure(dataclasses.replace(explanation, target=None, classes=None)))
    assert "The model's own feature direction" in text_shown
    assert "evidence for the model's own feature direction" in text_shown


def test_the_figure_says_what_is_explained_in_place_of_a_class(explanation):
    text_shown = texts(
        figure(
            dataclasses.replace(explanation, target=None, target_description="similarity to a cat")
        )
    )
    assert "Similarity to a cat" in text_shown
    assert "evidence for similarity to a cat" in text_shown
    assert "feature direction" not in text_shown and "predicted" not in text_shown


def test_of_a_signed_map_the_positive_part_is_drawn_and_said(explanation):
    against = explanation.heat_map.clone()
    against[0, 24:] = -100.0
    signed = dataclasses.replace(explanation, heat_map=against)
    assert np.array_equal(overlay(signed), overlay(explanation)), (
        "what is against is drawn as nothing"
    )
    assert "evidence for $5 dog_of$ war, positive part" in texts(figure(signed))
    assert "positive part" not in texts(figure(explanation))
    nothing = overlay(dataclasses.replace(explanation, heat_map=-explanation.heat_map))
    assert (nothing == nothing[0, 0]).all()


def test_the_panels_share_one_frame_and_hold_patches_in_place(explanation):
    rendered = figure(explanation)
    panels = rendered.axes[:4]
    assert {axes.get_xlim() for axes in panels} == {(-0.5, 63.5)}
    assert {axes.get_ylim() for axes in panels} == {(47.5, -0.5)}
    circles = panels[1].collections[-1]
    assert circles.get_offsets().tolist() == [[8, 8], [40, 24]]


def test_the_concentration_lies_on_its_patches(explanation):
    p = torch.full((2, 12), 0.01, dtype=torch.float64)
    p[0, 5] = 1 - 0.11
    rendered = figure(dataclasses.replace(explanation, concentration=p))
    tile = rendered.axes[2].images[-1]
    assert tile.get_extent() == [-0.5, 63.5, 47.5, -0.5]
    opacity = tile.get_array()[..., 3]
    assert np.unravel_index(opacity.argmax(), opacity.shape) == (1, 1)
    assert "10.7 × average" in texts(rendered)


def test_the_figure_is_written_and_leaves_no_trace(explanation, tmp_path):
    figure(explanation).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    pyplot = sys.modules.get("matplotlib.pyplot")  # captum imports it; nothing may be left there
    assert pyplot is None or not pyplot.get_fignums()


LONG = "blocks.0.attn (GPSA): expected one attention call a $forward pass, got a second one " * 6


@pytest.fixture
def compared(explanation) -> Comparison:
    """A map, a signed one, a refusal."""
    first = explanation
    single = dataclasses.replace(
        first,
        heat_map=first.heat_map[:1], patch_map=first.patch_map[:1], keypoints=first.keypoints[:1],
        logits=first.logits[:1], target=first.target[:1], concentration=first.concentration[:1],
        images=Images(torch.zeros(1, 3, 48, 64), first.images.pixels[:1], ("a.png",), True),
    )  # fmt: skip
    signed = dataclasses.replace(single, heat_map=single.heat_map - single.heat_map.mean())
    rows = (
        MethodResult("ours", single, 1.234, 5.0, 0.126),
        MethodResult("occlusion", signed, 123.4, None, None),
        MethodResult("broken", refusal=LONG),
    )
    return Comparison(rows, single, 0)


def test_a_comparison_says_of_each_method_what_was_measured(compared):
    rendered = comparison(compared)
    text_shown = texts(rendered)
    for part in (
        "$5 dog_of$ war  88.1 %",
        "the predicted class  ·  3 methods",
        "2 by sift",
        "ours\nsensitivity 0.13  ·  1.23 s",
        "occlusion\nsensitivity –  ·  123 s",
        "broken\nrefused",
        "moves when cat is explained instead",
        "Positive part of signed maps: occlusion.",
    ):
        assert part in text_shown
    assert text_shown.count("a note") == 1
    refusal = rendered.axes[4].texts[0].get_text()
    assert refusal.startswith("blocks.0.attn (GPSA)") and refusal.endswith("…")
    assert not rendered.axes[2].texts


def test_a_comparison_draws_each_map_as_an_overlay_in_one_frame(compared):
    rendered = comparison(compared)
    panels = rendered.axes[:5]
    assert {axes.get_xlim() for axes in panels} == {(-0.5, 63.5)}
    assert {axes.get_ylim() for axes in panels} == {(47.5, -0.5)}
    for axes, row in zip(panels[2:4], compared.rows, strict=False):
        assert np.array_equal(axes.images[0].get_array(), overlay(row.explanation))
    assert panels[1].collections[-1].get_offsets().tolist() == [[8, 8], [40, 24]]
    assert len({round(axes.get_position().width, 9) for axes in panels}) == 1
    places = [axes.get_position() for axes in panels]
    assert len({round(place.y0, 9) for place in places}) == 1, "five panels stand in one row"
    assert all(left.x1 < right.x0 for left, right in pairwise(places))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 15, 22])
def test_words_and_panels_of_a_comparison_keep_apart(compared, count):
    names = ["sift-patch-interrelation", "transition-attention", "integrated-gradients"]
    rows = tuple(
        dataclasses.replace(compared.rows[number % 3], method=names[number % 3])
        for number in range(count)
    )
    rendered = comparison(dataclasses.replace(compared, rows=rows))
    renderer = rendered.canvas.get_renderer()
    page = rendered.bbox
    words = [text.get_window_extent(renderer) for text in rendered.texts if text.get_text()]
    for axes in rendered.axes:
        for text in axes.texts:
            inside, around = text.get_window_extent(renderer), axes.get_window_extent()
            assert around.x0 <= inside.x0 and inside.x1 <= around.x1
            assert around.y0 <= inside.y0 and inside.y1 <= around.y1
    boxes = words + [axes.get_window_extent() for axes in rendered.axes]
    for number, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1
        assert page.y0 <= box.y0 and box.y1 <= page.y1
        for other in boxes[number + 1 :]:
            apart = (
                box.x1 <= other.x0 or other.x1 <= box.x0
                or box.y1 <= other.y0 or other.y1 <= box.y0
            )  # fmt: skip
            assert apart, "two of them overlap"


def test_columns_leave_few_places_empty():
    assert [columns(panels) for panels in (3, 6, 7, 8, 10, 12, 17)] == [3, 6, 4, 4, 5, 6, 6]
