"""Texts about a search for cues that figure, report and command share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .words import count

if TYPE_CHECKING:
    from ..spurious import Discovery, Effect, SpuriousCue


def search_outcome(discovery: Discovery) -> str:
    """Return the number of confirmed cues as text; if it is 0, with the limits of the search."""
    counts = f"among {count(discovery.candidates, 'candidate')}, {len(discovery.cues)} tested"
    alpha = f"at level {format_p(discovery.alpha)}"
    if discovery.confirmed:
        return f"{count(len(discovery.confirmed), 'cue')} confirmed {alpha} {counts}"
    return (
        f"no cue confirmed {alpha} {counts}; this does not prove that there is none: {LIMITATIONS}"
    )


LIMITATIONS = (
    "the search skips cues on the object itself and can miss cues that are rare or have a small "
    "effect"
)


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


def rejection_reason(cue: SpuriousCue, discovery: Discovery) -> str:
    """Return why a tested cue is not confirmed; "" for a confirmed cue."""
    from ..spurious.significance import REMOVAL_WAYS

    if cue.confirmed:
        return ""
    if not cue.removal.count:
        return "transplanting it into images of other classes has no effect; removal was not tested"
    # The p-value of the cue is the largest of these times a common correction, at most 1.
    p_values = {
        "no significant effect of its transplant into images of other classes": cue.transplant.p,
        "no significant effect of its removal": REMOVAL_WAYS * cue.removal.p,
    }
    largest = max(p_values.values())
    return " and ".join(
        text for text, p in p_values.items() if p * cue.p / largest >= discovery.alpha
    )


def examples_text(cue: SpuriousCue) -> str:
    """Return the mean probability of the class over the examples, before and after removal."""
    probabilities = [
        (example.before, example.without)
        for example in cue.examples
        if math.isfinite(example.before) and math.isfinite(example.without)
    ]
    if not probabilities:
        return ""
    before, without = (sum(part) / len(probabilities) for part in zip(*probabilities, strict=True))
    return f"{format_percent(before)} → {format_percent(without)} after removal"


def _format_signed(value: float) -> str:
    text = f"{value:.2f}"
    return text.replace("-", "" if float(text) == 0 else "−")
