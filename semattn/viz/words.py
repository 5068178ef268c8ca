"""What every figure says of the image: what was explained, how probable it is, by which model."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..explain import Explanation


def cut(text: str, length: int) -> str:
    """A text of at most so many characters, cut between words."""
    return shorten(text, length, placeholder=" …")


def explained(explanation: Explanation, index: int) -> str:
    """The explained class, or what was explained in place of one."""
    if explanation.target is None:
        return explanation.explains or "the model's own feature direction"
    return explanation.label(int(explanation.target[index]))


def headline(explanation: Explanation, index: int, length: int = 60) -> str:
    """What was explained, in so many characters, and its probability where it is a class."""
    said = cut(explained(explanation, index), length)
    if explanation.target is None:
        return said[:1].upper() + said[1:]
    return f"{said}  {_percent(explanation, index, int(explanation.target[index]))}"


def how_chosen(explanation: Explanation, index: int) -> str:
    """Whether the explained class is the predicted one; the predicted one, where it is not."""
    if explanation.target is None:
        return "explained in place of a class"
    best = int(explanation.logits[index].argmax())
    if int(explanation.target[index]) == best:
        return "the predicted class"
    said = f"{cut(explanation.label(best), 60)} {_percent(explanation, index, best)}"
    return f"asked for; predicted is {said}"


def model_name(explanation: Explanation) -> str:
    """What the model calls itself."""
    manifest = explanation.manifest
    return str(manifest.get("architecture") or manifest.get("model") or "")


def count(number: int, thing: str) -> str:
    """A number of things.

    Examples
    --------
    >>> count(1, "keypoint"), count(0, "keypoint")
    ('1 keypoint', '0 keypoints')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _percent(explanation: Explanation, index: int, number: int) -> str:
    chance = explanation.logits[index].detach().cpu().double().softmax(-1)
    percent = 100 * float(chance[number])
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
