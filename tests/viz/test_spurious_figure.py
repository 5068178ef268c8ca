"""Figure and texts of cues that are recurring marks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from semattn import viz
from semattn.spurious import Effect
from semattn.viz.spurious_figure import fade_outside
from semattn.viz.texts import examples_text, extent_text, mean_picture_text, rejection_reason
from tests.discoveries import NONE, cue, discovery, mark_cue


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_patches_of_the_object_that_look_like_the_cue_are_half_faded():
    (shown,) = cue(examples=1).examples
    faded, pixels = fade_outside(shown).astype(int), shown.pixels.astype(int)
    rest, on_object, of_cue = (0, 0), (0, 16), (40, 56)
    assert np.array_equal(faded[of_cue], pixels[of_cue])
    assert np.array_equal(pixels[rest], pixels[on_object]) and (faded[rest] > pixels[rest]).all()
    halves = (faded[rest] + pixels[rest]) / 2
    assert np.abs(faded[on_object] - halves).max() <= 1
    figure = viz.spurious(discovery(cue()))
    assert "on 17 % of an image, 50 % of it off the object" in words(figure)
    assert len(figure.axes[0].collections[0].get_segments()) == 4, "one patch is outlined"
    earlier = replace(shown, off_object=None)
    assert np.array_equal(fade_outside(earlier)[on_object], shown.pixels[on_object])
    assert extent_text(cue(off_object=math.nan)) == "on 17 % of an image"


def test_a_mark_has_its_outlines_and_its_mean_picture():
    shown = mark_cue()
    figure = viz.spurious(discovery(shown))
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 + 1
    lines = panels[0].collections[-1].get_paths()
    regions = shown.mark.examples[0].regions
    assert len(lines) == len(regions) == 2
    for line, region in zip(lines, regions, strict=True):
        assert np.array_equal(line.vertices[:4], region.outline)
    assert panels[0].get_xlim() == (-0.5, 79.5), "in pixels of the example"
    assert np.array_equal(panels[-1].images[0].get_array(), shown.mark.picture)
    assert "Mark mean of 10 images" in words(figure) and "Location" not in words(figure)
    assert "a mark at any place, keypoint-rich" in words(figure)
    assert "images  ·  3 classes searched  ·" in words(figure)
    one = replace(discovery(shown), classes=discovery().classes[:1])
    assert "images  ·  1 class searched  ·" in words(viz.spurious(one))
    assert "90 % → 25 % after erasing" in words(figure)
    figure.canvas.draw()


def test_a_mark_at_a_fixed_place_and_patches_keep_the_location_map():
    figure = viz.spurious(discovery(mark_cue(where="same place"), cue()))
    assert words(figure).count("Location of the cue yellow: in 95 % of its images") == 2
    assert "mean of" not in words(figure)


def test_panels_stay_inside_their_row():
    """The first cue gives panels of 64 x 48 pixels: a square picture must not reach below."""
    mark = replace(mark_cue().mark, picture=np.zeros((40, 40, 3), np.uint8))
    figure = viz.spurious(discovery(cue(examples=5), mark_cue(mark=mark)))
    panels = [axes for axes in figure.axes if axes.images]
    mean, location = panels[-1].get_position(), panels[5].get_position()
    width, height = figure.get_size_inches()
    assert mean.width * width == pytest.approx(mean.height * height)
    assert mean.height == pytest.approx(location.height)


def test_the_mean_picture_is_of_at_most_thirty_images():
    mark = mark_cue().mark
    assert mean_picture_text(replace(mark, n_inside=1, n_outside=0)) == "mean of 1 image"
    assert mean_picture_text(replace(mark, n_inside=40)) == "mean of 30 images"


@pytest.mark.parametrize(
    ("p", "removal", "transplant", "reason"),
    [
        (1.0, NONE, (0.5, 0.0),
         "pasting it into images of other classes has no effect; erasing was not tested"),
        (0.06, (0.03,), (0.0001, 0.0001), "no significant effect of erasing it"),
        (0.06, (0.0001,), (0.03, 0.0001),
         "no significant effect of pasting it into images of other classes"),
        (0.06, (0.02,), (0.0001, 0.03), "pasting it affects other classes as much"),
    ],
)  # fmt: skip
def test_the_reason_for_a_mark_is_about_erasing_and_pasting(p, removal, transplant, reason):
    """The p-value of erasing is not corrected for several ways of removal: the last case."""
    effects = {
        "removal": removal if removal is NONE else Effect(1.0, 0.5, 2.0, 24, *removal),
        "transplant": Effect(1.0, 0.5, 2.0, 24, *transplant),
    }
    tested = mark_cue(confirmed=False, p=p, **effects)
    assert rejection_reason(tested, discovery(tested)) == reason
    assert rejection_reason(mark_cue(), discovery()) == ""
    assert examples_text(cue()).endswith("after removal")
