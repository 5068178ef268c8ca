"""Table of `bench_prompting`: accuracies, paired differences, and the recovered part of the limit.

All intervals are 95 % percentile intervals of a bootstrap over the images of each group and seed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ...datasets.confounded_birds import GROUPS
from .arms import ARMS

Accuracies = dict[
    str, np.ndarray
]  # of each arm: (draws + 1, seeds, groups), the data themselves first


def resampled_accuracies(seeds: list[dict[str, Any]], head: str, num_resamples: int) -> Accuracies:
    """Return the group accuracies of every arm on the same resamples; the first is the data."""
    rng = np.random.default_rng(0)
    accuracies = {arm.name: np.empty((num_resamples + 1, len(seeds), len(GROUPS))) for arm in ARMS}
    for number, seed_result in enumerate(seeds):
        group = np.array(seed_result["group"])
        for group_index in range(len(GROUPS)):
            group_indices = np.flatnonzero(group == group_index)
            indices = np.vstack(
                [
                    group_indices,
                    group_indices[
                        rng.integers(len(group_indices), size=(num_resamples, len(group_indices)))
                    ],
                ]
            )
            for arm in ARMS:
                right = np.array(list(seed_result["arms"][arm.name][head])) == "1"
                accuracies[arm.name][:, number, group_index] = right[indices].mean(axis=1)
    return accuracies


def mean(accuracy: np.ndarray) -> np.ndarray:
    """Return the mean accuracy over groups and seeds, per cent."""
    return 100 * accuracy.mean(axis=(1, 2))


def worst(accuracy: np.ndarray) -> np.ndarray:
    """Return the accuracy of the worst group of each seed, averaged over seeds, per cent."""
    return 100 * accuracy.min(axis=2).mean(axis=1)


def format_difference(values: np.ndarray, form: str = "+.1f") -> str:
    """Format the value on the data with its bootstrap interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def result(
    seeds: list[dict[str, Any]],
    train: int,
    validation: int,
    limit_arm: str,
    default_arm: str,
    draws: int,
) -> dict[str, Any]:
    """Return the table of all arms."""
    confounded = resampled_accuracies(seeds, "confounded", draws)
    unconfounded = resampled_accuracies(seeds, "even", draws)
    none, best = confounded["none"], confounded[limit_arm]
    rows = []
    for arm in ARMS:
        accuracy = confounded[arm.name]
        options = [seed_result["arms"][arm.name]["option"] for seed_result in seeds]
        gains = [statistic(accuracy) - statistic(none) for statistic in (mean, worst)]
        limit_gains = [statistic(best) - statistic(none) for statistic in (mean, worst)]
        is_baseline = arm.name == "none"
        rows.append({
            "arm": arm.name, "what": arm.source,
            "option": "" if is_baseline else ", ".join(f"{option:g}" for option in options),
            "mean": float(mean(accuracy)[0]), "worst": float(worst(accuracy)[0]),
            "groups": " / ".join(f"{100 * group:.0f}" for group in accuracy[0].mean(axis=0)),
            "mean_gain": None if is_baseline else format_difference(gains[0]),
            "worst_gain": None if is_baseline else format_difference(gains[1]),
            "mean_part": None if is_baseline else float(gains[0][0] / limit_gains[0][0]),
            "worst_part": None if is_baseline else float(gains[1][0] / limit_gains[1][0]),
            "mean_sobel": None if is_baseline else format_difference(
                mean(accuracy) - mean(confounded["sobel"])
            ),
            "ours": None if is_baseline or arm.name == default_arm else format_difference(
                mean(confounded[default_arm]) - mean(accuracy)
            ),
            "ours_worst": None if is_baseline or arm.name == default_arm else format_difference(
                worst(confounded[default_arm]) - worst(accuracy)
            ),
            "even": None if is_baseline else format_difference(
                mean(unconfounded[arm.name]) - mean(unconfounded["none"])
            ),
        })  # fmt: skip
    images = len(seeds[0]["group"]) // len(GROUPS)
    return {
        "caption": (
            f"Per cent right on {len(seeds)} seeds x {images} test images of each of the four "
            "groups (scenes unseen in training, in validation and while prompting was developed); "
            f"a linear head on the frozen embedded backbone, trained on {train} images of which "
            "95 % agree with their background; the last third of the layers is prompted. The "
            "option "
            "(strength; part of the tokens that is dropped; pixels of blur) is chosen on "
            f"{validation} validation images a group, for each seed, by worst-group accuracy. "
            "Groups: land bird on land / on water, water bird on land / on water. Gains and "
            "differences are paired, in points, with 95 % bootstrap intervals over images; "
            "recovered is the gain over that "
            "of the object's mask; the last column is the change for a head "
            "trained without confounding, same options. Made by "
            "`python -m benchmarks.studies.prompting.gain`."
        ),
        "columns": [
            {"key": "arm", "title": "bias by"},
            {"key": "what", "title": ""},
            {"key": "mean", "title": "mean", "format": ".1f"},
            {"key": "worst", "title": "worst group", "format": ".1f"},
            {"key": "groups", "title": "groups"},
            {"key": "mean_gain", "title": "gain of the mean"},
            {"key": "worst_gain", "title": "gain of the worst"},
            {"key": "mean_part", "title": "recovered, mean", "format": ".0%"},
            {"key": "worst_part", "title": "recovered, worst", "format": ".0%"},
            {"key": "mean_sobel", "title": "mean − Sobel"},
            {"key": "ours", "title": f"{default_arm} − it, mean"},
            {"key": "ours_worst", "title": f"{default_arm} − it, worst"},
            {"key": "even", "title": "cost without confounding"},
            {"key": "option", "title": "options"},
        ],
        "rows": rows,
        "apart": max(seed_result["apart"] for seed_result in seeds),
    }  # fmt: skip


def scenes(seeds: list[dict[str, Any]], ours: str, limit: str) -> dict[str, Any]:
    """Return the table by background, sorted by keypoints per patch."""
    arm_of_column = {"none": "none", "prompted": ours, "limit": limit}
    rows_of: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for seed_result in seeds:
        for index, scene in enumerate(seed_result["scene"]):
            right = [
                float(seed_result["arms"][arm]["confounded"][index] == "1")
                for arm in arm_of_column.values()
            ]
            rows_of[scene, seed_result["group"][index] // 2].append(
                [seed_result["background"][index], *right]
            )
    rows = []
    for (scene, label), values in rows_of.items():
        density, *right = np.mean(values, axis=0)
        name = scene.split("/")[1] if "contents" in scene else scene.split("/")[-1][:-4]
        rows.append({
            "scene": name.split("_by_")[0], "bird": ("land", "water")[label],
            "density": float(density), "images": len(values),
            **{key: 100 * float(value) for key, value in zip(arm_of_column, right, strict=True)},
        })  # fmt: skip
    return {
        "caption": (
            "The same images by their background, the keypoint-poorest first: keypoints a patch "
            f"outside the object, and per cent right without prompt, with {ours}, and with the "
            "object's own mask. Made by `python -m benchmarks.studies.prompting.gain`."
        ),
        "columns": [
            {"key": "scene", "title": "background"},
            {"key": "bird", "title": "bird of"},
            {"key": "density", "title": "keypoints per patch", "format": ".2f"},
            {"key": "none", "title": "no prompt", "format": ".1f"},
            {"key": "prompted", "title": ours, "format": ".1f"},
            {"key": "limit", "title": limit, "format": ".1f"},
            {"key": "images", "title": "images", "format": "d"},
        ],
        "rows": sorted(rows, key=lambda row: (row["density"], row["bird"])),
    }
