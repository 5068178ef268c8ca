"""The table of `bench_prompting`: accuracies, paired differences, what of the limit is recovered.

All intervals are 95 % percentile intervals of a bootstrap over the images of each group and seed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from .confounded_birds import GROUPS
from .prompting_arms import ARMS

Accuracies = dict[
    str, np.ndarray
]  # of each arm: (draws + 1, seeds, groups), the data themselves first


def drawn(seeds: list[dict[str, Any]], head: str, draws: int) -> Accuracies:
    """Group accuracies of every arm on the same resampled images; the first on all as they are."""
    rng = np.random.default_rng(0)
    found = {arm.name: np.empty((draws + 1, len(seeds), len(GROUPS))) for arm in ARMS}
    for number, one in enumerate(seeds):
        group = np.array(one["group"])
        for place in range(len(GROUPS)):
            own = np.flatnonzero(group == place)
            picked = np.vstack([own, own[rng.integers(len(own), size=(draws, len(own)))]])
            for arm in ARMS:
                right = np.array(list(one["arms"][arm.name][head])) == "1"
                found[arm.name][:, number, place] = right[picked].mean(axis=1)
    return found


def mean(accuracy: np.ndarray) -> np.ndarray:
    """Of the four groups, and of the seeds, in per cent."""
    return 100 * accuracy.mean(axis=(1, 2))


def worst(accuracy: np.ndarray) -> np.ndarray:
    """The worst group of each seed, averaged over seeds, in per cent."""
    return 100 * accuracy.min(axis=2).mean(axis=1)


def said(values: np.ndarray, form: str = "+.1f") -> str:
    """The figure on the data, and its interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def result(
    seeds: list[dict[str, Any]], train: int, validation: int, limit: str, ours: str, draws: int
) -> dict[str, Any]:
    """Everything that is published."""
    confounded = drawn(seeds, "confounded", draws)
    even = drawn(seeds, "even", draws)
    none, best = confounded["none"], confounded[limit]
    rows = []
    for arm in ARMS:
        mine = confounded[arm.name]
        options = [one["arms"][arm.name]["option"] for one in seeds]
        gained = [figure(mine) - figure(none) for figure in (mean, worst)]
        possible = [figure(best) - figure(none) for figure in (mean, worst)]
        whole = arm.name == "none"
        rows.append({
            "arm": arm.name, "what": arm.what,
            "option": "" if whole else ", ".join(f"{one:g}" for one in options),
            "mean": float(mean(mine)[0]), "worst": float(worst(mine)[0]),
            "groups": " / ".join(f"{100 * one:.0f}" for one in mine[0].mean(axis=0)),
            "mean_gain": None if whole else said(gained[0]),
            "worst_gain": None if whole else said(gained[1]),
            "mean_part": None if whole else float(gained[0][0] / possible[0][0]),
            "worst_part": None if whole else float(gained[1][0] / possible[1][0]),
            "mean_sobel": None if whole else said(mean(mine) - mean(confounded["sobel"])),
            "ours": None if whole or arm.name == ours else said(
                mean(confounded[ours]) - mean(mine)
            ),
            "ours_worst": None if whole or arm.name == ours else said(
                worst(confounded[ours]) - worst(mine)
            ),
            "even": None if whole else said(mean(even[arm.name]) - mean(even["none"])),
        })  # fmt: skip
    images = len(seeds[0]["group"]) // len(GROUPS)
    return {
        "caption": (
            f"Per cent right on {len(seeds)} seeds x {images} test images of each of the four "
            "groups (scenes unseen in training, in validation and while prompting was developed); "
            f"a linear head on the frozen embedded backbone, trained on {train} images of which "
            "95 % agree with their background; the last third of the layers is led. The option "
            "(strength; part of the tokens that is dropped; pixels of blur) is chosen on "
            f"{validation} validation images a group, for each seed, by worst-group accuracy. "
            "Groups: land bird on land / on water, water bird on land / on water. Gains and "
            "differences are paired, in points, with 95 % bootstrap intervals over images; "
            "recovered is the gain over that "
            "of the object's mask; the last column is the change for a head "
            "trained without confounding, same options. Made by "
            "`python -m benchmarks.bench_prompting`."
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
            {"key": "mean_sobel", "title": "mean, over Sobel"},
            {"key": "ours", "title": f"{ours} over it, mean"},
            {"key": "ours_worst", "title": f"{ours} over it, worst"},
            {"key": "even", "title": "cost without confounding"},
            {"key": "option", "title": "options"},
        ],
        "rows": rows,
        "apart": max(one["apart"] for one in seeds),
    }  # fmt: skip


def scenes(seeds: list[dict[str, Any]], ours: str, limit: str) -> dict[str, Any]:
    """By background, from the keypoint-poorest on: where prompting helps and where it hurts."""
    shown = {"none": "none", "prompted": ours, "limit": limit}
    found: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for one in seeds:
        for index, scene in enumerate(one["scene"]):
            right = [float(one["arms"][arm]["confounded"][index] == "1") for arm in shown.values()]
            found[scene, one["group"][index] // 2].append([one["background"][index], *right])
    rows = []
    for (scene, label), values in found.items():
        density, *right = np.mean(values, axis=0)
        name = scene.split("/")[1] if "contents" in scene else scene.split("/")[-1][:-4]
        rows.append({
            "scene": name.split("_by_")[0], "bird": ("land", "water")[label],
            "density": float(density), "images": len(values),
            **{key: 100 * float(part) for key, part in zip(shown, right, strict=True)},
        })  # fmt: skip
    return {
        "caption": (
            "The same images by their background, the keypoint-poorest first: keypoints a patch "
            f"outside the object, and per cent right without prompt, with {ours}, and with the "
            "object's own mask. Made by `python -m benchmarks.bench_prompting`."
        ),
        "columns": [
            {"key": "scene", "title": "background"},
            {"key": "bird", "title": "bird of"},
            {"key": "density", "title": "keypoints a patch", "format": ".2f"},
            {"key": "none", "title": "no prompt", "format": ".1f"},
            {"key": "prompted", "title": ours, "format": ".1f"},
            {"key": "limit", "title": limit, "format": ".1f"},
            {"key": "images", "title": "images", "format": "d"},
        ],
        "rows": sorted(rows, key=lambda row: (row["density"], row["bird"])),
    }
