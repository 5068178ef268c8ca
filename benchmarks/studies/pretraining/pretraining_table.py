"""Table of `bench_pretraining`: ``python -m benchmarks.studies.pretraining.pretraining_table``.

The speed-up of an arm is the ratio of the times at which random masking and the arm reach random
masking's final accuracy, on the curves' means over seeds, interpolated linearly between probed
epochs, in epochs and in seconds. Intervals are percentiles of a bootstrap over seeds and test
images, with the same resamples for both arms. An arm that does not reach the accuracy is "not
reached"; the same holds for the bounds of an interval.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from .acceleration import ARMS, short
from .probes import unpacked

DRAWS, CONFIDENCE = 2000, 95
PROBES = {"knn": "k-NN", "linear": "linear probe"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves of an arm over S seeds, E probed epochs and N test images.

    Parameters
    ----------
    epochs : (E,)
    seconds : (S, E), keypoint detection included
    right : probe: (S, E, N) 0 and 1
    loss : (S, E), with the fixed masks
    """

    epochs: Floats
    seconds: Floats
    right: dict[str, Floats]
    loss: Floats


def curves_of(results: list[dict[str, Any]]) -> Curves:
    """Return the curves of an arm from its results, one per seed."""
    images = results[0]["about"]["test"]
    probed = [[entry for entry in run_result["curve"] if "knn" in entry] for run_result in results]

    def table(name: str) -> Floats:
        return np.array([[entry[name] for entry in curve] for curve in probed], dtype=np.float64)

    return Curves(
        table("epoch")[0],
        table("seconds"),
        {probe: np.array([[unpacked(entry[f"{probe}_right"], images) for entry in curve]
                          for curve in probed], dtype=np.float64) for probe in PROBES},
        table("fixed_loss"),
    )  # fmt: skip


def reached(positions: Floats, curve: Floats, target: float) -> float:
    """Return the position where a curve first reaches a target, by linear interpolation; else inf.

    Examples
    --------
    >>> reached(np.array([0.0, 10, 20]), np.array([0.1, 0.3, 0.7]), 0.5)
    15.0
    """
    above = np.flatnonzero(curve >= target)
    if not len(above):
        return float("inf")
    index = above[0]
    if index == 0:
        return float(positions[0])
    fraction = (target - curve[index - 1]) / (curve[index] - curve[index - 1])
    return float(positions[index - 1] + fraction * (positions[index] - positions[index - 1]))


def speedup(arm: Floats, base: Floats, at_arm: Floats, at_base: Floats) -> float:
    """Return the speed-up of an arm to the base's final accuracy; 0 if it is not reached."""
    base_position = reached(at_base, base, float(base[-1]))
    return base_position / max(reached(at_arm, arm, float(base[-1])), 1e-9)


def compared(arm: Curves, base: Curves, probe: str, draws: int = DRAWS) -> dict[str, Any]:
    """Return the difference of the final accuracies and both speed-ups, with intervals."""
    seeds, _, images = arm.right[probe].shape
    rng = np.random.default_rng(0)

    def metrics(seed_indices: NDArray[np.int64], weights: Floats) -> tuple[float, float, float]:
        arm_curve, base_curve = (
            curves.right[probe][seed_indices].mean(0) @ weights for curves in (arm, base)
        )
        time = [curves.seconds[seed_indices].mean(0) for curves in (arm, base)]
        return (
            float(arm_curve[-1] - base_curve[-1]),
            speedup(arm_curve, base_curve, arm.epochs, base.epochs),
            speedup(arm_curve, base_curve, time[0], time[1]),
        )

    uniform = np.full(images, 1 / images)
    estimate = metrics(np.arange(seeds), uniform)
    resampled = [
        metrics(rng.integers(0, seeds, seeds), rng.multinomial(images, uniform) / images)
        for _ in range(draws)
    ]
    bounds = np.percentile(
        np.array(resampled), [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2], axis=0
    )
    names = ("difference", "epochs", "seconds")
    return {
        name: {"value": estimate[i], "low": float(bounds[0, i]), "high": float(bounds[1, i])}
        for i, name in enumerate(names)
    }


def said_times(metric: dict[str, float]) -> str:
    """Format a speed-up with its interval."""
    value, low, high = (
        f"{metric[name]:.2f}" if metric[name] > 0 else "not reached"
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if metric["high"] > 0 else "not reached"


def said_points(metric: dict[str, float]) -> str:
    """Format a difference of accuracies, in points, with its interval."""
    value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def read(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the finished results of each arm by seed, for seeds that random masks have too."""
    results_of: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for arm, by_seed in results_of.items():
        for path in sorted(folder.glob(f"{short(arm)}-*.json")):
            run_result = json.loads(path.read_text(encoding="utf-8"))
            if run_result["finished"] and run_result["arm"] == arm:
                by_seed[run_result["seed"]] = run_result
    if not results_of["random"]:
        raise SystemExit(f"{folder}: expected finished runs of the arm random, got none — run "
                         "python -m benchmarks.studies.pretraining.acceleration")  # fmt: skip
    paired_results = {
        arm: {seed: by_seed[seed] for seed in sorted(by_seed.keys() & results_of["random"].keys())}
        for arm, by_seed in results_of.items()
    }
    return {arm: by_seed for arm, by_seed in paired_results.items() if by_seed}


def result(results_of: dict[str, dict[int, dict[str, Any]]], raw: dict[str, Any]) -> dict[str, Any]:
    """Return the rows as `render_tables` reads them, and the curves."""
    random = results_of["random"]
    rows: list[dict[str, Any]] = []
    for arm, by_seed in results_of.items():
        curves = curves_of(list(by_seed.values()))
        base = curves_of([random[seed] for seed in by_seed])
        row: dict[str, Any] = {"arm": arm, "seeds": len(by_seed),
                               "fixed_loss": float(curves.loss[:, -1].mean()),
                               "seconds": float(curves.seconds[:, -1].mean())}  # fmt: skip
        for probe in PROBES:
            row[probe] = 100 * float(curves.right[probe][:, -1].mean())
            if arm != "random":
                comparison = compared(curves, base, probe)
                row[f"{probe}_difference"] = said_points(comparison["difference"])
                row[f"{probe}_epochs"] = said_times(comparison["epochs"])
                row[f"{probe}_seconds"] = said_times(comparison["seconds"])
        rows.append(row)
    random_curves = curves_of(list(random.values()))
    for name, values in (
        (
            "untrained encoder",
            {probe: float(random_curves.right[probe][:, 0].mean()) for probe in PROBES},
        ),
        ("raw pixels", {probe: raw[probe] for probe in PROBES}),
    ):
        rows.append({"arm": name, **{probe: 100 * value for probe, value in values.items()}})
    columns = [{"key": "arm", "title": "masks"}, {"key": "seeds", "title": "seeds", "format": "d"}]
    for probe, title in PROBES.items():
        columns += [
            {"key": probe, "title": f"{title}, %", "format": ".1f"},
            {"key": f"{probe}_difference", "title": "− random"},
            {"key": f"{probe}_epochs", "title": "× epochs"},
            {"key": f"{probe}_seconds", "title": "× seconds"},
        ]
    columns += [{"key": "fixed_loss", "title": "fixed loss", "format": ".4f"},
                {"key": "seconds", "title": "seconds", "format": ",.0f"}]  # fmt: skip
    about, seeds = next(iter(random.values()))["about"], sorted(random)
    caption = (
        f"{about['epochs']} epochs of {about['pictures']:,} pictures ({about['data']}), "
        f"{about['image_size']} pixels, patches of {about['patch_size']}; probes on the "
        f"{about['split']} split, {about['test']:,} images; seeds {', '.join(map(str, seeds))}, "
        "each arm against random masks of the same seeds. × epochs, × seconds: how "
        "many times sooner random masking's final accuracy is reached, keypoints included; "
        f"{CONFIDENCE} % intervals over seeds and images. Made by `python -m benchmarks."
        "bench_pretraining` and `pretraining_table`."
    )
    return {
        "caption": caption, "columns": columns, "rows": rows, "about": about, "seeds": seeds,
        "curves": {
            arm: {str(seed): _probed_entries(run_result) for seed, run_result in by_seed.items()}
            for arm, by_seed in results_of.items()
        },
    }  # fmt: skip


def _probed_entries(run_result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the probed entries of a curve without the bits of each image."""
    return [
        {key: value for key, value in entry.items() if not key.endswith("_right")}
        for entry in run_result["curve"]
        if "knn" in entry
    ]


def main() -> None:
    """Write the table of the finished runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS_DIR / "pretraining")
    parser.add_argument("--out", type=Path, help="default: the name of the folder with .json")
    options = parser.parse_args()
    out = options.out or options.results.with_suffix(".json")
    raw = json.loads((options.results / "raw_pixels.json").read_text(encoding="utf-8"))
    table = result(read(options.results), raw)
    write_text(out, json.dumps(table, indent=1) + "\n")
    for row in table["rows"]:
        print({key: value for key, value in row.items() if value is not None})


if __name__ == "__main__":
    main()
