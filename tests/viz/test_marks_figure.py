"""Figure of recurring marks: a row per mark, with outlines; sentences where there is no mark."""

from __future__ import annotations

import numpy as np
import pytest

from semattn import viz
from semattn.viz.texts import mark_frequency, marks_outcome
from tests import marked


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_each_significant_mark_has_a_row_with_outlined_places():
    several = [marked.mark("a$b^_"), marked.mark("dog", examples=9), marked.mark("owl"),
               marked.mark("cat", significant=False)]  # fmt: skip
    figure = viz.marks(marked.discovery(*several))
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == (1 + 3) + (1 + 6) + (1 + 3)
    assert not panels[0].collections, "the mean picture"
    lines = panels[1].collections[-1].get_paths()
    assert len(lines) == 2, "a line around each place"
    corners = lines[0].vertices[:4]
    assert np.array_equal(corners, several[0].examples[0].regions[0].outline)
    assert "3 marks are more frequent in one class than in the others at level .05" in words(figure)
    assert "in 9 images of the class (75 %), 1 of others (4 %), p < .001" in words(figure)
    assert "36 images of 3 classes" in words(figure) and "1 skipped" in words(figure)
    assert words(figure).count("mean of 10 images") == 3
    figure.canvas.draw()


def test_panels_keep_the_shape_of_their_picture():
    figure = viz.marks(marked.discovery(marked.mark()))
    box = figure.axes[1].get_position()
    width, height = figure.get_size_inches()
    assert box.width * width / (box.height * height) == pytest.approx(80 / 64)


def test_four_marks_are_drawn_and_the_others_counted():
    figure = viz.marks(marked.discovery(*[marked.mark(examples=1)] * 7))
    assert len([axes for axes in figure.axes if axes.images]) == 4 * 2
    assert "3 more in the result files" in words(figure)


@pytest.mark.parametrize("marks", [(), (marked.mark("a$b^_" * 20, significant=False),)])
def test_a_search_without_a_significant_mark_is_a_sentence(marks):
    discovery = marked.discovery(*marks)
    figure = viz.marks(discovery)
    assert ("No significant mark" if marks else "No recurring mark") in words(figure)
    assert "colours, and marks that are different in each image are not found" in words(figure)
    assert ("75 %" in words(figure)) == bool(marks)
    figure.canvas.draw()


def test_marks_without_classes_are_drawn_and_not_tested():
    discovery = marked.discovery(marked.counted_mark(), classes={"": 36})
    figure = viz.marks(discovery)
    assert len([axes for axes in figure.axes if axes.images]) == 4
    assert marks_outcome(discovery) == (
        "1 mark recurs in the images, which have no classes to compare"
    )
    assert mark_frequency(discovery.marks[0]) == "in 9 images (25 %)"
    assert " p " not in words(figure) and "36 images  ·" in words(figure)
