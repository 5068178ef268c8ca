"""What an analysis says, in sentences: each with its interval, and never without its null.

Layers are grouped into thirds of the depth that are fixed beforehand, so that no group is chosen
for what it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .figures import Array, Figures

ASKS, ASKED = 2, 2  # HIGH, in a lift
WORDS = {
    "shifted": "with the keypoints shifted",
    "other": "with another image's",
    "permuted": "with the patches shuffled",
}


@dataclass(frozen=True)
class Finding:
    """One sentence, and the numbers in it.

    Parameters
    ----------
    text : the sentence
    figure : the name of the figure
    layers : the first and the last layer, both included
    value, low, high : mean over heads and images, and its 95 % interval (None: too few images)
    nulls : name: the mean under that null
    """

    text: str
    figure: str
    layers: tuple[int, int]
    value: float
    low: float | None = None
    high: float | None = None
    nulls: dict[str, float] | None = None


def findings(found: Figures) -> list[Finding]:
    """The findings of an analysis, from the first layers to the last."""
    made = []
    for first, last in _thirds(len(found.layers)):
        made += [
            one(found, first, last) for one in (_dense, _toward, _nearness, _heads, _class, _near)
        ]
    made += [_removed(found, name) for name in ("prefix_mass", "outlier_mass")]
    return [one for one in made if one is not None]


def _thirds(layers: int) -> list[tuple[int, int]]:
    """Places of the first and last layer of each third, the last thirds the larger.

    >>> _thirds(12), _thirds(4), _thirds(1)
    ([(0, 3), (4, 7), (8, 11)], [(0, 0), (1, 1), (2, 3)], [(0, 0)])
    """
    edges = [layers * part // 3 for part in range(4)]
    return [(a, b - 1) for a, b in pairwise(edges) if b > a]


def _given(
    figure: str, words: str, cell: Callable[[Array], Array] = lambda one: one
) -> Callable[[Figures, int, int], Finding | None]:
    """A finding on how much attention is given, over chance: `words` say by whom and to whom."""

    def one(found: Figures, first: int, last: int) -> Finding | None:
        made = _averaged(found, figure, first, last, cell)
        if made is None:
            return None
        value, interval, nulls = made
        return Finding(
            f"{_layers(found, first, last)}: {words} {value:.2f}x{_range(interval)} the attention "
            f"of chance; {_beside(nulls)}.",
            figure, _numbers(found, first, last), value, *interval, nulls,
        )  # fmt: skip

    return one


_dense = _given(
    "lift",
    "patches of HIGH concentration give patches of HIGH",
    lambda one: one[..., ASKS, ASKED],
)
_toward = _given("alignment_plain", "patches give dense patches")
_class = _given("class_alignment", "the class token gives dense patches")


def _nearness(found: Figures, first: int, last: int) -> Finding | None:
    """What is left of alignment when distances are equal."""
    made = _averaged(found, "alignment_matched", first, last)
    if made is None:
        return None
    value, interval, _ = made
    return Finding(
        f"{_layers(found, first, last)}: dense patches give dense patches {value:.2f}x"
        f"{_range(interval)} what they give patches at the same distances on average (1.00x: "
        "nothing but nearness).",
        "alignment_matched", _numbers(found, first, last), value, *interval, {"nearness": 1.0},
    )  # fmt: skip


def _heads(found: Figures, first: int, last: int) -> Finding | None:
    """How many heads differ from each null."""
    here = slice(first, last + 1)
    heads = int(np.isfinite(found.mean("alignment")[here]).sum())
    above, below = {}, {}
    for null in found.nulls("alignment"):
        test = found.against("alignment", null)
        marked = test["significant"][here].astype(bool)
        above[null] = int((marked & (test["z"][here] > 0)).sum())
        below[null] = int((marked & (test["z"][here] < 0)).sum())
    if not heads or not above:
        return None

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{count} than {WORDS[null]}" for null, count in counts.items())

    return Finding(
        f"{_layers(found, first, last)}: of {heads} heads, dense patches give dense patches more "
        f"attention in {listed(above)}, and less in {listed(below)} (false discovery rate 5 %).",
        "alignment", _numbers(found, first, last), float(heads),
    )  # fmt: skip


def _near(found: Figures, first: int, last: int) -> Finding | None:
    """How far attention reaches."""
    made = _averaged(found, "distance", first, last)
    if made is None:
        return None
    value, interval, _ = made
    even = _mean_distance(found)
    return Finding(
        f"{_layers(found, first, last)}: attention reaches {value:.0f}"
        f"{_range(interval, 0)} pixels on average; even attention over the image would reach "
        f"{even:.0f}.",
        "distance", _numbers(found, first, last), value, *interval, {"even": even},
    )  # fmt: skip


def _removed(found: Figures, name: str) -> Finding | None:
    """What goes to tokens that are no patches, or stand for none."""
    made = _averaged(found, name, 0, len(found.layers) - 1)
    if made is None:
        return None
    value, interval, _ = made
    tokens = "prefix tokens (class token, registers)" if name == "prefix_mass" else (
        "register-like outlier tokens"
    )  # fmt: skip
    low, high = interval
    span = "" if low is None or high is None else f" [{low:.2%}, {high:.2%}]"
    said = "and was removed" if name == "prefix_mass" else "and figures are given without them, too"
    return Finding(
        f"All layers: {value:.2%}{span} of the patches' attention goes to {tokens}, {said}.",
        name, _numbers(found, 0, len(found.layers) - 1), value, low, high,
    )  # fmt: skip


Interval = tuple[float | None, float | None]


def _averaged(
    found: Figures,
    name: str,
    first: int,
    last: int,
    cell: Callable[[Array], Array] = lambda one: one,
) -> tuple[float, Interval, dict[str, float]] | None:
    """The mean over heads of some layers, its interval, and the nulls' means; None: undefined."""

    def over_heads(every: Array) -> Array:
        """(…, L, H) as (…)."""
        here = every[..., first : last + 1, :]
        count = np.isfinite(here).sum(axis=(-2, -1))
        return np.nansum(here, axis=(-2, -1)) / np.where(count, count, np.nan)

    value = float(over_heads(cell(found.mean(name))))
    if not np.isfinite(value):
        return None
    low, high = (
        float(one) if np.isfinite(one) else None
        for one in found.interval(name, lambda every: over_heads(cell(every)))
    )
    nulls = {
        null: float(over_heads(cell(found.against(name, null)["expected"])))
        for null in found.nulls(name)
    }
    return value, (low, high), nulls


def _mean_distance(found: Figures) -> float:
    """Of all pairs of patches, pixels."""
    (h, w), (tall, wide) = found.grid.shape, found.grid.cell
    down = np.abs(np.subtract.outer(np.arange(h), np.arange(h))) * tall
    across = np.abs(np.subtract.outer(np.arange(w), np.arange(w))) * wide
    return float(np.hypot(down[:, :, None, None], across[None, None]).mean())


def _numbers(found: Figures, first: int, last: int) -> tuple[int, int]:
    return found.layers[first][0], found.layers[last][0]


def _layers(found: Figures, first: int, last: int) -> str:
    one, other = _numbers(found, first, last)
    return f"Layer {one}" if one == other else f"Layers {one} to {other}"


def _range(interval: Interval, places: int = 2) -> str:
    low, high = interval
    if low is None or high is None:
        return ""
    return f" [{low:.{places}f}, {high:.{places}f}]"


def _beside(nulls: dict[str, float]) -> str:
    """What each null gives."""
    return ", ".join(f"{value:.2f}x {WORDS.get(name, name)}" for name, value in nulls.items())
