"""Texts that figures, report and commands share: explained class, probability, model, cues."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from ..utils.provenance import model_label
from .canvas import DrawableNames

if TYPE_CHECKING:
    from ..explain import Explanation
    from ..spurious import Discovery, Effect, Mark, MarkDiscovery, SpuriousCue


LIMITATIONS = (
    "the search skips cues on the object itself and can miss cues that are rare or have a small "
    "effect"
)

MARK_LIMITATIONS = (
    "small letters of fewer than about 10 pixels, colours, and marks that are different in each "
    "image are not found"
)

_DENSITIES = {  # what the concentration of a patch measures
    "count": "keypoints in each patch",
    "response": "keypoint responses in each patch",
    "size": "keypoint sizes in each patch",
    "gaussian": "keypoints spread over their size",
    "distinct": "distinct keypoints in each patch",
    "distinct-size": "large distinct keypoints",
    "surround": "keypoints minus surround",
    "distinct-size-surround": "large distinct minus surround",
}


def density_text(settings: Mapping[str, Any]) -> str:
    """Return what the concentration of a patch measures, for the parameters of a manifest.

    Examples
    --------
    >>> density_text({}), density_text({"density": "sobel"})
    ('keypoints in each patch', 'density sobel')
    """
    name = settings.get("density", "count")
    return _DENSITIES.get(name, f"density {shorten_text(name, 24)}")


def shorten_text(text: str, length: int) -> str:
    """Return a text of at most `length` characters, cut between words."""
    return shorten(text, length, placeholder=" …")


def count_text(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in singular or plural, by default with an s.

    Examples
    --------
    >>> count_text(1, "keypoint"), count_text(0, "keypoint"), count_text(2, "class", "classes")
    ('1 keypoint', '0 keypoints', '2 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def with_drawable_names(explanation: Explanation) -> Explanation:
    """Return the explanation with class names that a figure can show; see `DrawableNames`."""
    if not explanation.classes:
        return explanation
    return replace(explanation, classes=DrawableNames(explanation.classes))


def target_text(explanation: Explanation, index: int) -> str:
    """Return the explained class, or a description of another explained output."""
    if explanation.target is None:
        return explanation.target_description or "the model's own feature direction"
    return explanation.label(int(explanation.target[index]))


def headline(explanation: Explanation, index: int, length: int = 60) -> str:
    """Return the explained class in at most `length` characters, with its probability."""
    text = shorten_text(target_text(explanation, index), length)
    answer = explanation.target_answer(index)
    if answer is None:
        return text[:1].upper() + text[1:]
    return f"{text}  {explanation.share_text(index, answer)}"


def selection_text(explanation: Explanation, index: int) -> str:
    """Return text on whether the explained class is the predicted one, and the predicted one."""
    predicted = explanation.predicted()
    answer = explanation.target_answer(index)
    binary = explanation.output.is_binary(explanation.outputs)
    if predicted is None or (answer is None and not binary):
        return "explained instead of a class"
    best = int(predicted[index])
    share = explanation.share_text(index, best)
    if answer is None:
        return f"predicted is {shorten_text(explanation.answer_label(best), 60)}, {share}"
    if answer == best:
        return "the predicted class"
    predicted_label = shorten_text(explanation.answer_label(best), 60)
    return f"not the predicted class, which is {predicted_label} {share}"


def model_name(explanation: Explanation) -> str:
    """Return the name of the model."""
    return model_label(explanation.manifest)


def search_outcome(discovery: Discovery) -> str:
    """Return the number of confirmed cues as text; if it is 0, with the limits of the search."""
    counts = f"among {count_text(discovery.candidates, 'candidate')}, {len(discovery.cues)} tested"
    alpha = f"at level {format_p(discovery.alpha)}"
    if discovery.confirmed:
        return f"{count_text(len(discovery.confirmed), 'cue')} confirmed {alpha} {counts}"
    return (
        f"no cue confirmed {alpha} {counts}; this does not prove that there is none: {LIMITATIONS}"
    )


def marks_outcome(discovery: MarkDiscovery) -> str:
    """Return the number of marks as text; if none is significant, with the limits of the search.

    All marks that were found count, also those that the result does not list.
    """
    count = discovery.n_found
    recurring = f"{count_text(count, 'mark')} recur{'s' if count == 1 else ''} in the images"
    if not count:
        return f"no mark recurs in the images; {MARK_LIMITATIONS}"
    if len(discovery.classes) < 2:
        return f"{recurring}, which have no classes to compare"
    n_tests = count_text(discovery.n_tests, "test")
    level = f"at level {format_p(discovery.alpha)}, corrected for {n_tests}"
    if number := discovery.n_significant:
        verb = "is" if number == 1 else "are"
        return (
            f"{count_text(number, 'mark')} {verb} more frequent in one class than in the others "
            f"{level}"
        )
    return (
        f"{recurring}, none significantly more often in one class than in the others {level}; "
        f"{MARK_LIMITATIONS}"
    )


def mark_frequency(mark: Mark) -> str:
    """Return how many images of the class, and of other classes, show a mark, with the p-value."""
    if math.isnan(mark.p):
        return f"in {count_text(mark.images, 'image')} ({format_percent(mark.inside)})"
    return (
        f"in {count_text(mark.n_inside, 'image')} of the class "
        f"({format_percent(mark.inside)}), {mark.n_outside} of others "
        f"({format_percent(mark.outside)}), p {format_p(mark.p)}"
    )


def mean_picture_text(mark: Mark) -> str:
    """Return the number of images that the mean picture of a mark is made of, as text."""
    from ..spurious.marks.mark import MAX_PICTURED

    return f"mean of {count_text(min(mark.images, MAX_PICTURED), 'image')}"


def mark_of(cue: SpuriousCue) -> Mark | None:
    """Return the mark of a cue; None for a cue of patches."""
    from ..spurious.marks.cue import MarkCue

    return cue.mark if isinstance(cue, MarkCue) else None


def rejection_reason(cue: SpuriousCue, discovery: Discovery) -> str:
    """Return why a tested cue is not confirmed; "" for a confirmed cue.

    A mark is erased and pasted; patches are removed and transplanted.
    """
    from ..spurious.significance import REMOVAL_WAYS

    if cue.confirmed:
        return ""
    is_mark = mark_of(cue) is not None
    removal = "erasing it" if is_mark else "its removal"
    transplant = "pasting it" if is_mark else "its transplant"
    if not cue.removal.count:
        if is_mark:
            return "pasting it into images of other classes has no effect; erasing was not tested"
        return "transplanting it into images of other classes has no effect; removal was not tested"
    # The p-value of the cue is the largest of these times a common correction, at most 1.
    removal_ways = 1 if is_mark else REMOVAL_WAYS
    p_values = {
        f"no significant effect of {transplant} into images of other classes": cue.transplant.p,
        f"no significant effect of {removal}": removal_ways * cue.removal.p,
        f"{transplant} affects other classes as much": cue.transplant.specificity,
    }
    largest = max(p_values.values())
    return " and ".join(
        text for text, p in p_values.items() if p * cue.p / largest >= discovery.alpha
    )


def examples_text(cue: SpuriousCue) -> str:
    """Return the mean probability of the class over the examples, before and after removal.

    A mark is removed by erasing it.
    """
    probabilities = [
        (example.before, example.without)
        for example in cue.examples
        if math.isfinite(example.before) and math.isfinite(example.without)
    ]
    if not probabilities:
        return ""
    before, without = (sum(part) / len(probabilities) for part in zip(*probabilities, strict=True))
    change = "removal" if mark_of(cue) is None else "erasing"
    return f"{format_percent(before)} → {format_percent(without)} after {change}"


def extent_text(cue: SpuriousCue) -> str:
    """Return the part of an image that shows a cue, and the part of it off the object."""
    text = f"on {format_percent(cue.covers)} of an image"
    if math.isnan(cue.off_object):
        return text
    return f"{text}, {format_percent(cue.off_object)} of it off the object"


def format_percent(part: float) -> str:
    """Return a share as a percentage.

    Examples
    --------
    >>> format_percent(0.925), format_percent(0.004), format_percent(0.0), format_percent(math.nan)
    ('92 %', '0.4 %', '0 %', '–')
    """
    if not math.isfinite(part):
        return "–"
    digits = 1 if 0 < part < 0.0095 else 0
    return f"{100 * part:.{digits}f} %"


def format_nats(effect: Effect) -> str:
    """Return a change of log-odds and its interval as text.

    Examples
    --------
    >>> from semattn.spurious import Effect
    >>> format_nats(Effect(1.25, 1, -0.5, 9, 0.01))
    '1.25 [1.00, −0.50]'
    """
    if not math.isfinite(effect.mean):
        return "–"
    mean, low, high = map(_format_signed, (effect.mean, effect.low, effect.high))
    return f"{mean} [{low}, {high}]"


def format_p(p: float) -> str:
    """Return a p-value as text: three decimals, no zero before the point."""
    if p >= 0.9995:
        return "1"
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0").rstrip("0")


def _format_signed(value: float) -> str:
    text = f"{value:.2f}"
    return text.replace("-", "" if float(text) == 0 else "−")
