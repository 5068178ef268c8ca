"""Tables of the study of relevance propagation, and its rule for the default map."""

from __future__ import annotations

from typing import Any

import numpy as np

from semattn.evaluation import difference, estimate, measures

from .propagation_rows import CANDIDATES, COMPARISONS

METRICS = ("ap", "insertion-deletion")
OURS = "ours"
Stored = list[dict[str, dict[str, float]]]  # of each image: row to metric to value
Columns = dict[str, dict[str, np.ndarray]]  # row to metric to values over images
SETTING = (
    "compositions of the validation split (development data; the test splits are unopened), the "
    "embedded model, the true class explained; AP of the upsampled map against the object's mask; "
    "insertion less deletion of patches in {steps} steps against the blurred image, in bfloat16. "
    "Paired differences with 95 % bootstrap intervals over images. Made by "
    "`python -m benchmarks.studies.explain.propagation`."
)


def columns_of(stored: Stored) -> Columns:
    """Return the values of each row and metric over images, NaN where they were not measured."""
    rows = dict.fromkeys(row for values in stored for row in values)
    return {
        row: {
            metric: np.array([values.get(row, {}).get(metric, np.nan) for values in stored])
            for metric in METRICS
        }
        for row in rows
    }


def gains(row: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the paired difference of each metric over the images that both have."""
    return {metric: difference(row[metric], base[metric]) for metric in METRICS}


def sum_of_gains(row: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> float:
    """Return the mean differences divided by the standard deviation of the base, summed."""
    differences = gains(row, base)
    return sum(float(differences[m].mean / np.nanstd(base[m], ddof=1)) for m in METRICS)


def is_not_below(row: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> bool:
    """Return whether the interval of the difference reaches 0 or more, for both metrics.

    A metric that was not measured has no interval.
    """
    return all(change.high >= 0 for change in gains(row, base).values())


def is_complete(row: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> bool:
    """Return whether a row has both metrics for all images of the base."""
    return not any((np.isnan(row[m]) & ~np.isnan(base[m])).any() for m in METRICS)


def default_map(columns: Columns) -> str:
    """Return the row that the rule chooses, see `benchmarks.studies.explain.propagation`."""
    base = columns[OURS]
    allowed = [
        row
        for row, values in columns.items()
        if is_complete(values, base) and is_not_below(values, base)
    ]
    return max(allowed, key=lambda row: sum_of_gains(columns[row], base))


def format_change(change: Any) -> str | None:
    """Format a difference with its interval; None without values."""
    if not change.count:
        return None
    return f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def result_of_maps(stored: Stored, steps: int) -> dict[str, Any]:
    """Return the table of the candidates, best sum of gains first."""
    columns = {row: column for row, column in columns_of(stored).items() if row in CANDIDATES}
    if OURS not in columns:
        return {"caption": "No image is finished.", "columns": [], "rows": []}
    base, chosen = columns[OURS], default_map(columns)
    sums = {
        row: sum_of_gains(values, base) if is_complete(values, base) else -np.inf
        for row, values in columns.items()
    }
    order = sorted(columns, key=lambda row: -sums[row])
    rows = []
    for name in order:
        row: dict[str, Any] = {"map": name}
        changes = gains(columns[name], base)
        for metric in METRICS:
            value = estimate(columns[name][metric])
            row[metric] = value.mean if value.count else None
            row[f"{metric} images"] = value.count or None
            row[f"{metric} change"] = None if name == OURS else format_change(changes[metric])
        has_all = is_complete(columns[name], base)
        row["gain"] = sums[name] if has_all else None
        is_below = has_all and not is_not_below(columns[name], base)
        row["rule"] = "chosen" if name == chosen else "below ours" if is_below else ""
        rows.append(row)
    titles = {metric: measures[metric].title for metric in METRICS}
    count = len(stored)
    return {
        "caption": (
            f"{count} {SETTING.format(steps=steps)} The last columns are the sum of standardised "
            "gains and the result of the rule that was set before the first run; below ours: on "
            "one metric or both, beyond the interval. Maps that were measured on fewer images are "
            "no candidates."
        ),
        "columns": [
            {"key": "map", "title": "map"},
            *(
                column
                for metric in METRICS
                for column in (
                    {"key": f"{metric} images", "title": "images", "format": "d"},
                    {"key": metric, "title": titles[metric], "format": ".3f"},
                    {"key": f"{metric} change", "title": f"it − ours, {titles[metric]}"},
                )
            ),
            {"key": "gain", "title": "gain", "format": "+.2f"},
            {"key": "rule", "title": "rule"},
        ],
        "rows": rows,
    }


def result_of_sift(stored: Stored, steps: int) -> dict[str, Any]:
    """Return the table of SIFT's part under each base, with its controls."""
    columns, rows = columns_of(stored), []
    titles = {metric: measures[metric].title for metric in METRICS}
    for base, part, keypoints, shifted, uniform in COMPARISONS:
        if not {keypoints, shifted, uniform} <= columns.keys():
            continue
        row: dict[str, Any] = {"base": base, "part": part}
        for control, name in ((uniform, "none"), (shifted, "shifted")):
            for metric, change in gains(columns[keypoints], columns[control]).items():
                row[f"{metric} {name}"] = format_change(change)
                row[f"{metric} images"] = change.count or None
        rows.append(row)
    return {
        "caption": f"{len(stored)} {SETTING.format(steps=steps)}",
        "columns": [
            {"key": "base", "title": "base"},
            {"key": "part", "title": "part of SIFT"},
            *(
                column
                for metric in METRICS
                for column in (
                    {"key": f"{metric} images", "title": "images", "format": "d"},
                    {"key": f"{metric} none", "title": f"SIFT − no keypoints, {titles[metric]}"},
                    {"key": f"{metric} shifted", "title": f"SIFT − shifted, {titles[metric]}"},
                )
            ),
        ],
        "rows": rows,
    }
