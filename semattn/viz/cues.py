"""What figure, report and command say of a search for cues, so that all three say the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .words import count

if TYPE_CHECKING:
    from ..spurious import Discovery, Effect, SpuriousCue


def outcome(found: Discovery) -> str:
    """How many cues are confirmed, or that this is no proof that there is none."""
    tried = f"among {count(found.candidates, 'candidate')}, {len(found.cues)} tried"
    level = f"at level {figure(found.level)}"
    if found.confirmed:
        return f"{count(len(found.confirmed), 'cue')} confirmed {level} {tried}"
    return f"no cue confirmed {level} {tried}; that is no proof that there is none: {UNSEEN}"


UNSEEN = (
    "cues on the object itself are not looked for, and those in few of the images, or whose effect "
    "is small, are missed"
)


def share(part: float) -> str:
    """A part as a percentage.

    Examples
    --------
    >>> share(0.925), share(0.004), share(0.0), share(float("nan"))
    ('92 %', '0.4 %', '0 %', '–')
    """
    if not math.isfinite(part):
        return "–"
    digits = 1 if 0 < part < 0.0095 else 0
    return f"{100 * part:.{digits}f} %"


def nats(effect: Effect) -> str:
    """A change of log-odds and its interval.

    Examples
    --------
    >>> from semattn.spurious import Effect
    >>> nats(Effect(1.25, 1, -0.5, 9, 0.01)), nats(Effect(math.nan, math.nan, math.nan, 0, 1.0))
    ('1.25 [1.00, −0.50]', '–')
    """
    if not math.isfinite(effect.mean):
        return "–"
    return f"{_nat(effect.mean)} [{_nat(effect.low)}, {_nat(effect.high)}]"


def figure(p: float) -> str:
    """A probability as it is read: three figures, no zero before the point."""
    if p >= 0.9995:
        return "1"
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0").rstrip("0")


def reason(cue: SpuriousCue, found: Discovery) -> str:
    """Why a cue that was tried is not confirmed; "" for one that is."""
    from ..spurious.significance import WAYS

    if cue.confirmed:
        return ""
    if not cue.removed.count:
        return "nothing comes with it to images of other classes; removal was not tried"
    # The cue's p is the greatest of these times what both are corrected by, or 1.
    own = {
        "nothing sure comes with it to images of other classes": cue.transplanted.p,
        "nothing sure goes with it": WAYS * cue.removed.p,
    }
    most = max(own.values())
    return ", and ".join(words for words, p in own.items() if p * cue.p / most >= found.level)


def examples_said(cue: SpuriousCue) -> str:
    """The mean probability of the class over the examples that were tried, before and after."""
    known = [
        (one.before, one.without)
        for one in cue.examples
        if math.isfinite(one.before) and math.isfinite(one.without)
    ]
    if not known:
        return ""
    before, without = (sum(part) / len(known) for part in zip(*known, strict=True))
    return f"{share(before)} → {share(without)} without it"


def _nat(value: float) -> str:
    said = f"{value:.2f}"
    return said.replace("-", "" if float(said) == 0 else "−")
