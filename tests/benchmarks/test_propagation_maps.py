"""The study of relevance propagation: rule for the default map, and weights of keypoints."""

from __future__ import annotations

import math

import numpy as np
import torch

from benchmarks.studies.explain import propagation_rows as rows, propagation_tables as tables
from semattn.keypoints import Keypoints

RNG = np.random.default_rng(0)
BASE = {metric: RNG.normal(0.5, 0.1, 20) for metric in tables.METRICS}


def changed(ap: float, insertion_deletion: float) -> dict[str, np.ndarray]:
    """Return the values of a map that differ from ours by these means."""
    changes = dict(zip(tables.METRICS, (ap, insertion_deletion), strict=True))
    return {m: BASE[m] + changes[m] + RNG.normal(0, 0.01, 20) for m in tables.METRICS}


def test_the_default_has_the_greatest_gain_among_the_maps_that_are_not_below_ours() -> None:
    columns = {
        "ours": BASE,
        "best on one metric": changed(-0.1, 0.5),
        "better": changed(0.02, 0.02),
        "best": changed(0.001, 0.08),
        "not measured": {"ap": BASE["ap"] + 1, "insertion-deletion": np.full(20, np.nan)},
        "on few images": {metric: np.append(BASE[metric][:19] + 1, np.nan) for metric in BASE},
    }
    assert tables.default_map(columns) == "best"
    expected = sum(
        (columns["best"][m] - BASE[m]).mean() / BASE[m].std(ddof=1) for m in tables.METRICS
    )
    assert math.isclose(tables.sum_of_gains(columns["best"], BASE), expected)
    worse = {name: columns[name] for name in ("ours", "best on one metric")}
    assert tables.default_map(worse) == "ours"


def test_differences_are_of_the_images_that_both_have() -> None:
    first_half = {metric: values + 0.1 for metric, values in BASE.items()}
    for values in first_half.values():
        values[10:] = np.nan
    changes = tables.gains(first_half, BASE)
    assert all(change.count == 10 and abs(change.mean - 0.1) < 1e-9 for change in changes.values())


def test_each_comparison_has_its_rows() -> None:
    names = {name for comparison in rows.COMPARISONS for name in comparison[2:]}
    assert names <= rows.ROWS.keys()
    assert rows.ROWS.keys() - rows.CANDIDATES.keys() <= names


def test_keypoint_weights_equal_the_sum_of_gaussians() -> None:
    xy, size = torch.tensor([[3.0, 5.0], [7.5, 1.0]]), torch.tensor([2.0, 4.0])
    ones = torch.ones(2)
    keypoints = Keypoints(xy, ones, size, ones, None, (8, 12), "sift")
    weights = rows.keypoint_weights(keypoints)
    for y, x in ((0, 0), (5, 3), (2, 7)):
        expected = sum(
            math.exp(-((x - kx) ** 2 + (y - ky) ** 2) / (2 * (s / 2) ** 2))
            for (kx, ky), s in zip(xy.tolist(), size.tolist(), strict=True)
        )
        assert math.isclose(float(weights[y, x]), expected, rel_tol=1e-5)
    moved = rows.shifted(keypoints)
    torch.testing.assert_close(moved.xy, torch.tensor([[9.0, 1.0], [1.5, 5.0]]))
