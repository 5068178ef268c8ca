"""What every figure says of the image: what was explained, how probable it is, by which model."""

from __future__ import annotations

from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING

from ..utils.provenance import model_label
from .letters import DrawableNames

if TYPE_CHECKING:
    from ..explain import Explanation


def cut(text: str, length: int) -> str:
    """A text of at most so many characters, cut between words."""
    return shorten(text, length, placeholder=" …")


def with_drawable_names(explanation: Explanation) -> Explanation:
    """Return the explanation with class names that a figure can show; see `DrawableNames`."""
    if not explanation.classes:
        return explanation
    return replace(explanation, classes=DrawableNames(explanation.classes))


def explained(explanation: Explanation, index: int) -> str:
    """The explained class, or what was explained in place of one."""
    if explanation.target is None:
        return explanation.explains or "the model's own feature direction"
    return explanation.label(int(explanation.target[index]))


def headline(explanation: Explanation, index: int, length: int = 60) -> str:
    """What was explained, in so many characters, and its probability where it is a class."""
    said = cut(explained(explanation, index), length)
    answer = explanation.target_answer(index)
    if answer is None:
        return said[:1].upper() + said[1:]
    return f"{said}  {explanation.share_text(index, answer)}"


def how_chosen(explanation: Explanation, index: int) -> str:
    """Whether the explained class is the predicted one; the predicted one, where it is not."""
    predicted = explanation.predicted()
    answer = explanation.target_answer(index)
    binary = explanation.output.is_binary(explanation.outputs)
    if predicted is None or (answer is None and not binary):
        return "explained in place of a class"
    best = int(predicted[index])
    share = explanation.share_text(index, best)
    if answer is None:
        return f"predicted is {cut(explanation.answer_label(best), 60)}, {share}"
    if answer == best:
        return "the predicted class"
    return f"asked for; predicted is {cut(explanation.answer_label(best), 60)} {share}"


def model_name(explanation: Explanation) -> str:
    """What the model calls itself."""
    return model_label(explanation.manifest)


def count(number: int, thing: str) -> str:
    """A number of things.

    Examples
    --------
    >>> count(1, "keypoint"), count(0, "keypoint")
    ('1 keypoint', '0 keypoints')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"
