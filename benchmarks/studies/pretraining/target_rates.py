"""Learning rate of an arm by one rule for all arms: the best of its development runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .probes import PROBES
from .target_arms import FIRST_FRESH_SEED, TARGET_ARMS


def best_rate(folder: Path, arm: str, model: str, image_size: int) -> float:
    """Return the rate with the highest sum of k-NN and linear probe, over all development seeds.

    The runs with the most epochs decide, if they tried at least two rates; else those with fewer.
    Without such runs it is the rate in `TARGET_ARMS`.
    """
    values: dict[int, dict[float, list[float]]] = {}
    for path in sorted(folder.glob("*.json")):
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if run.get("arm") != arm or not run["finished"] or run["seed"] >= FIRST_FRESH_SEED:
            continue
        about = run["about"]
        if (about["model"], about["image_size"]) != (model, image_size):
            continue
        last = run["curve"][-1]
        by_rate = values.setdefault(about["epochs"], {})
        by_rate.setdefault(run["learning_rate"], []).append(sum(last[probe] for probe in PROBES))
    for epochs in sorted(values, reverse=True):
        if len(values[epochs]) > 1:
            means = {rate: float(np.mean(sums)) for rate, sums in values[epochs].items()}
            return max(means, key=lambda rate: means[rate])
    return TARGET_ARMS[arm].learning_rate
