"""Texts that figures and reports share: explained class, probability, model."""

from __future__ import annotations

from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING

from ..utils.provenance import model_label
from .letters import DrawableNames

if TYPE_CHECKING:
    from ..explain import Explanation


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters, cut between words."""
    return shorten(text, length, placeholder=" …")


def with_drawable_names(explanation: Explanation) -> Explanation:
    """Return the explanation with class names that a figure can show; see `DrawableNames`."""
    if not explanation.classes:
        return explanation
    return replace(explanation, classes=DrawableNames(explanation.classes))


def explained(explanation: Explanation, index: int) -> str:
    """Return the explained class, or a description of another explained output."""
    if explanation.target is None:
        return explanation.target_description or "the model's own feature direction"
    return explanation.label(int(explanation.target[index]))


def headline(explanation: Explanation, index: int, length: int = 60) -> str:
    """Return the explained class in at most `length` characters, with its probability."""
    text = cut(explained(explanation, index), length)
    answer = explanation.target_answer(index)
    if answer is None:
        return text[:1].upper() + text[1:]
    return f"{text}  {explanation.share_text(index, answer)}"


def how_chosen(explanation: Explanation, index: int) -> str:
    """Return text on whether the explained class is the predicted one, and the predicted one."""
    predicted = explanation.predicted()
    answer = explanation.target_answer(index)
    binary = explanation.output.is_binary(explanation.outputs)
    if predicted is None or (answer is None and not binary):
        return "explained instead of a class"
    best = int(predicted[index])
    share = explanation.share_text(index, best)
    if answer is None:
        return f"predicted is {cut(explanation.answer_label(best), 60)}, {share}"
    if answer == best:
        return "the predicted class"
    return f"not the predicted class, which is {cut(explanation.answer_label(best), 60)} {share}"


def model_name(explanation: Explanation) -> str:
    """Return the name of the model."""
    return model_label(explanation.manifest)


def count(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural.

    Examples
    --------
    >>> count(1, "keypoint"), count(0, "keypoint")
    ('1 keypoint', '0 keypoints')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
