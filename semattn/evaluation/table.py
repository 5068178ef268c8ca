"""Tables of a comparison: estimates, and differences to baselines."""

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
    """Comparison of methods, sorted by the first metric from best to worst, with controls last.

    `estimates` has the keys (method, metric); `differences` has the keys (method, baseline, metric)
    and holds the method minus the baseline, with p-values corrected by Holm's method over all
    pairs of one metric. `seconds` and
    `peak_mib` are medians over images.
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
    """Return whether a row is a control: it ignores the model or the keypoints."""
    base, _, density = name.partition(":")
    is_baseline = base in explainers and bool(explainers[base].is_baseline)
    return is_baseline or (density in densities and getattr(densities[density], "control", False))


def check_baselines(baselines: Sequence[str] | None, rows: Sequence[str]) -> list[str]:
    """Return the baselines; None selects the methods of `BASELINES` among the rows.

    Raises
    ------
    ValueError
        For a baseline that is not a row.
    """
    if baselines is None:
        return [baseline for baseline in BASELINES if baseline in rows]
    if missing := [baseline for baseline in baselines if baseline not in rows]:
        raise ValueError(
            f"baselines: expected some of {', '.join(rows)}, got {', '.join(missing)} — "
            "add them to the methods"
        )
    return list(baselines)


def table(results: Results, baselines: Sequence[str] | None = None, seed: int = 0) -> Table:
    """Compute the mean of each metric, and the paired difference of each method to each baseline.

    Means and differences have 95 % bootstrap confidence intervals over images.

    Parameters
    ----------
    results : result of `evaluate`
    baselines : methods among the rows; None selects those of `BASELINES`
    seed : seed of the bootstrap

    Raises
    ------
    ValueError
        For a baseline that is not a row.
    """
    rows = [name for name in results.methods if name not in results.refused]
    used_baselines = check_baselines(baselines, results.methods)
    used_baselines = [baseline for baseline in used_baselines if baseline in rows]
    column = {name: index for index, name in enumerate(results.methods)}
    estimates, differences = {}, {}
    for k, metric in enumerate(results.metrics):
        for name in rows:
            estimates[name, metric] = estimate(results.values[:, column[name], k], seed)
        pairs = [(row, baseline) for row in rows for baseline in used_baselines if row != baseline]
        compared = [
            difference(
                results.values[:, column[row], k], results.values[:, column[baseline], k], seed
            )
            for row, baseline in pairs
        ]
        corrected = holm([paired.p for paired in compared])
        for (row, baseline), paired, p in zip(pairs, compared, corrected, strict=True):
            differences[row, baseline, metric] = replace(paired, corrected=p)
    first = results.metrics[0]
    sign = -1 if measures[first].higher_is_better else 1
    controls = frozenset(name for name in rows if is_control(name))
    order = sorted(
        rows, key=lambda name: (name in controls, _sort_key(sign, estimates[name, first]))
    )
    return Table(
        tuple(order), controls, results.metrics, tuple(used_baselines), estimates, differences,
        {name: float(np.median(results.seconds[:, column[name]])) for name in rows},
        {name: float(np.median(results.peak_mib[:, column[name]])) for name in rows},
    )  # fmt: skip


def _sort_key(sign: int, value: Estimate) -> float:
    return np.inf if np.isnan(value.mean) else sign * value.mean


def heading(metric: str) -> str:
    """Return the title of a metric, with an arrow toward better values."""
    return f"{measures[metric].title} {'↑' if measures[metric].higher_is_better else '↓'}"


def page(results: Results, rendered: Table) -> str:
    """Return the table in Markdown, followed by the data, the settings and how to read it."""
    data, setting = results.manifest["data"], results.manifest["setting"]
    right = [is_right for is_right in results.right if is_right is not None]
    classes = "target: the predicted class"
    if right:
        classes = f"target: the true class ({sum(right)} predicted correctly)"
    images = "1 image" if len(results.names) == 1 else f"{len(results.names)} images"
    caption = (
        f"{images} ({data['name']}), {classes}; refinement: {results.manifest['refine']}; "
        f"perturbed in {setting['steps']} steps with baseline {setting['baseline']}, in "
        f"{setting['precision']}. Means and paired differences with 95 % bootstrap confidence "
        "intervals over images; \\* p < .05 in a sign-flip test, with Holm's correction over all "
        "pairs of a metric. ↑ higher is better, ↓ lower is better. Seconds and MiB per map: "
        "medians over images."
    )
    refused = [f"Refused: {name}: {why}" for name, why in results.refused.items()]
    return "\n\n".join([markdown(rendered).rstrip("\n"), caption, *refused]) + "\n"


def markdown(comparison: Table) -> str:
    """Return the table in Markdown: means with intervals, then differences to each baseline."""
    arrows = [heading(metric) for metric in comparison.metrics]
    lines = [
        _line(["method", *arrows, "seconds", "MiB"]),
        _line(["---", *["---:"] * (len(arrows) + 2)]),
    ]
    for name in comparison.methods:
        cells = [_format(comparison.estimates[name, metric]) for metric in comparison.metrics]
        label = f"{name} (control)" if name in comparison.controls else name
        memory = comparison.peak_mib[name]
        lines.append(_line([
            label, *cells, f"{comparison.seconds[name]:.3f}",
            "–" if np.isnan(memory) else f"{memory:.0f}",
        ]))  # fmt: skip
    tables = ["\n".join(lines)]
    for baseline in comparison.baselines:
        lines = [_line([f"minus {baseline}", *arrows]), _line(["---", *["---:"] * len(arrows)])]
        for name in comparison.methods:
            if name != baseline:
                cells = [
                    _format(value, "+.3f") + (" *" if value.corrected < 0.05 else "")
                    for value in (
                        comparison.differences[name, baseline, metric]
                        for metric in comparison.metrics
                    )
                ]
                lines.append(_line([name, *cells]))
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format(value: Estimate, form: str = ".3f") -> str:
    if not value.count:
        return "–"
    return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"
