"""The results of a comparison as a person reads them: estimates, and differences to baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..density import densities
from ..explain import explainers
from ..utils.statistics import Difference, Estimate, difference, estimate, holm
from .measures import measures
from .runner import Results

BASELINES = (
    "attention-rollout", "grad-cam", "sift-patch-interrelation:uniform",
    "sift-patch-interrelation:sobel",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows in the order of the first metric, the best first; controls last.

    `estimates` is by (method, metric), `differences` by (method, baseline, metric): the method less
    the baseline, p-values corrected by Holm over all pairs of one metric. `seconds` and `peak_mib`
    are medians over images.
    """

    methods: tuple[str, ...]
    controls: frozenset[str]
    metrics: tuple[str, ...]
    baselines: tuple[str, ...]
    estimates: dict[tuple[str, str], Estimate]
    differences: dict[tuple[str, str, str], Difference]
    seconds: dict[str, float]
    peak_mib: dict[str, float]


def is_control(name: str) -> bool:
    """Whether a row is one to compare with: it owes the model or the keypoints nothing."""
    base, _, density = name.partition(":")
    known = base in explainers and bool(explainers[base].control)
    return known or (density in densities and bool(densities[density].control))


def check_baselines(wanted: Sequence[str] | None, rows: Sequence[str]) -> list[str]:
    """The baselines among the rows; None is those of `BASELINES` that are.

    Raises
    ------
    ValueError
        For one that is no row.
    """
    if wanted is None:
        return [one for one in BASELINES if one in rows]
    if missing := [one for one in wanted if one not in rows]:
        raise ValueError(
            f"baselines: expected some of {', '.join(rows)}, got {', '.join(missing)} — "
            "add them to the methods"
        )
    return list(wanted)


def table(found: Results, baselines: Sequence[str] | None = None, seed: int = 0) -> Table:
    """Estimates with intervals over images, and paired differences to each baseline.

    Parameters
    ----------
    baselines : methods among the rows; None is those of `BASELINES` that are

    Raises
    ------
    ValueError
        For a baseline that is no row.
    """
    rows = [name for name in found.methods if name not in found.refused]
    chosen = check_baselines(baselines, found.methods)
    chosen = [one for one in chosen if one in rows]
    place = {name: index for index, name in enumerate(found.methods)}
    estimates, differences = {}, {}
    for k, metric in enumerate(found.metrics):
        for name in rows:
            estimates[name, metric] = estimate(found.values[:, place[name], k], seed)
        pairs = [(one, other) for one in rows for other in chosen if one != other]
        compared = [
            difference(found.values[:, place[one], k], found.values[:, place[other], k], seed)
            for one, other in pairs
        ]
        corrected = holm([one.p for one in compared])
        for (one, other), paired, p in zip(pairs, compared, corrected, strict=True):
            differences[one, other, metric] = replace(paired, corrected=p)
    first = found.metrics[0]
    sign = -1 if measures[first].more else 1
    controls = frozenset(name for name in rows if is_control(name))
    order = sorted(rows, key=lambda name: (name in controls, _key(sign, estimates[name, first])))
    return Table(
        tuple(order), controls, found.metrics, tuple(chosen), estimates, differences,
        {name: float(np.median(found.seconds[:, place[name]])) for name in rows},
        {name: float(np.median(found.peak_mib[:, place[name]])) for name in rows},
    )  # fmt: skip


def _key(sign: int, one: Estimate) -> float:
    return np.inf if np.isnan(one.mean) else sign * one.mean


def heading(metric: str) -> str:
    """A metric's title, and an arrow to where the better values are."""
    return f"{measures[metric].title} {'↑' if measures[metric].more else '↓'}"


def page(found: Results, made: Table) -> str:
    """The table in Markdown, and under it on what it was measured, and how it is read."""
    data, at = found.manifest["data"], found.manifest["setting"]
    right = [one for one in found.right if one is not None]
    classes = "the predicted class explained"
    if right:
        classes = f"the true class explained (the model is right on {sum(right)})"
    images = "1 image" if len(found.names) == 1 else f"{len(found.names)} images"
    said = (
        f"{images} ({data['name']}), {classes}; refinement: {found.manifest['refine']}; "
        f"perturbed in {at['steps']} steps, {at['baseline']} for what is gone, in "
        f"{at['precision']}. Means, and differences in pairs, with 95 % bootstrap intervals over "
        "images; \\* p < .05 by flips of the signs, after Holm's correction over all pairs of a "
        "metric. ↑ more is better, ↓ less. Seconds and MiB of one map: medians over images."
    )
    refused = [f"Refused: {name}: {why}" for name, why in found.refused.items()]
    return "\n\n".join([markdown(made).rstrip("\n"), said, *refused]) + "\n"


def markdown(made: Table) -> str:
    """The table in Markdown: means with intervals, then differences to each baseline."""
    arrows = [heading(one) for one in made.metrics]
    lines = [
        _line(["method", *arrows, "seconds", "MiB"]),
        _line(["---", *["---:"] * (len(arrows) + 2)]),
    ]
    for name in made.methods:
        cells = [_said(made.estimates[name, metric]) for metric in made.metrics]
        label = f"{name} (control)" if name in made.controls else name
        memory = made.peak_mib[name]
        lines.append(_line([
            label, *cells, f"{made.seconds[name]:.3f}", "–" if np.isnan(memory) else f"{memory:.0f}"
        ]))  # fmt: skip
    parts = ["\n".join(lines)]
    for baseline in made.baselines:
        lines = [_line([f"less {baseline}", *arrows]), _line(["---", *["---:"] * len(arrows)])]
        for name in made.methods:
            if name != baseline:
                cells = [
                    _said(one, "+.3f") + (" *" if one.corrected < 0.05 else "")
                    for one in (made.differences[name, baseline, m] for m in made.metrics)
                ]
                lines.append(_line([name, *cells]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _said(one: Estimate, form: str = ".3f") -> str:
    if not one.count:
        return "–"
    return f"{one.mean:{form}} [{one.low:{form}}, {one.high:{form}}]"
