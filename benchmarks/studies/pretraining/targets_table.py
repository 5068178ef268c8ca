"""Tables of `targets`: ``python -m benchmarks.studies.pretraining.targets_table``.

Writes the final accuracy of each arm, the part of pixels' epochs and seconds in which an arm
reaches pixels' final accuracy, and SIFT minus each control. Intervals are percentiles of a
bootstrap that draws seeds and test images with replacement, the same for both arms of a difference;
for one seed it draws test images only. Arms without results are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from .pretraining_table import CONFIDENCE, PROBES, Curves, compared, said_points
from .probes import unpacked
from .target_arms import FIRST_FRESH_SEED, TARGET_ARMS
from .targets import SUPERVISED

BASE, METHOD = "pixels", "SIFT"
MEASURES = {**PROBES, "finetune": "1,000 labels"}
BOOTSTRAP = f"{CONFIDENCE} % intervals over seeds and test images"
Runs = dict[str, dict[int, dict[str, Any]]]
Comparisons = dict[str, tuple[int, dict[str, dict[str, Any]]]]


def read_runs(folder: Path, setting: dict[str, Any], fresh: bool = True) -> Runs:
    """Return the finished runs of a setting by arm and seed.

    Development runs have the learning rate of the arm; a fresh seed has one run of each arm.

    Parameters
    ----------
    folder : folder of results
    setting : entries of `about` that a run must have
    fresh : fresh seeds; otherwise development seeds
    """
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if not run.get("finished") or not setting.items() <= run["about"].items():
            continue
        arm = TARGET_ARMS.get(run["arm"])
        at_rate = fresh or arm is None or run["learning_rate"] == arm.learning_rate
        if at_rate and (run["seed"] >= FIRST_FRESH_SEED) == fresh:
            by_seed = runs.setdefault(run["arm"], {})
            if run["seed"] in by_seed:
                raise SystemExit(f"{path}: expected one run of {run['arm']} and seed "
                                 f"{run['seed']}, got two learning rates — remove one")  # fmt: skip
            by_seed[run["seed"]] = run
    order = [*TARGET_ARMS, SUPERVISED]
    return {arm: runs[arm] for arm in order if arm in runs}


def curves_of(runs: Iterable[dict[str, Any]], fine_tuned: bool) -> Curves:
    """Return the curves of runs, and the fine-tuned accuracy if all runs have it."""
    runs = list(runs)
    images = runs[0]["about"]["test"]
    probed = [[entry for entry in run["curve"] if "knn" in entry] for run in runs]
    right = {
        measure: np.array(
            [[unpacked(entry[f"{measure}_right"], images) for entry in curve] for curve in probed],
            dtype=np.float64,
        )
        for measure in PROBES
    }
    if fine_tuned:
        tuned = [unpacked(run["finetune_right"], images) for run in runs]
        right["finetune"] = np.array(tuned, dtype=np.float64)[:, None]
    epochs = np.array([entry["epoch"] for entry in probed[0]], dtype=np.float64)
    seconds = np.array([[entry["seconds"] for entry in curve] for curve in probed])
    return Curves(epochs, seconds, right, np.full_like(seconds, np.nan))


def compare(arm: dict[int, Any], base: dict[int, Any]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the number of common seeds and the comparison of each measure over these seeds."""
    seeds = sorted(arm.keys() & base.keys())
    if not seeds:
        return 0, {}
    pairs = [(arm[seed], base[seed]) for seed in seeds]
    fine_tuned = all("finetune" in run for pair in pairs for run in pair)
    arm_curves, base_curves = (
        curves_of((pair[side] for pair in pairs), fine_tuned) for side in (0, 1)
    )
    comparisons = {}
    for measure in arm_curves.right:
        comparison = compared(arm_curves, base_curves, measure)
        ends = [curves.right[measure][:, -1].mean(-1) for curves in (arm_curves, base_curves)]
        comparison["ahead"] = int((ends[0] > ends[1]).sum())
        comparisons[measure] = comparison
    return len(seeds), comparisons


def compare_all(runs: Runs, base: str) -> Comparisons:
    """Return the comparison of each other arm with the arm `base`, over their common seeds."""
    comparisons = {
        arm: compare(by_seed, runs.get(base, {})) for arm, by_seed in runs.items() if arm != base
    }
    return {arm: (count, measures) for arm, (count, measures) in comparisons.items() if count}


def said_difference(comparison: dict[str, Any], seeds: int) -> str:
    """Format a difference in points, its interval, and the number of seeds that are ahead."""
    return f"{said_points(comparison['difference'])}, {comparison['ahead']} of {seeds}"


def said_part(speedup: dict[str, float]) -> str:
    """Format the part of the base's epochs or seconds that an arm needs, with its interval.

    Examples
    --------
    >>> said_part({"value": 2.0, "low": 0.0, "high": 4.0})
    '0.50 [0.25, not reached]'
    """
    if not speedup["high"] > 0:
        return "not reached"
    value, low, high = (
        f"{1 / speedup[name]:.2f}" if speedup[name] > 0 else "not reached"
        for name in ("value", "high", "low")
    )
    return f"{value} [{low}, {high}]"


def mean_of(runs: Iterable[dict[str, Any]], measure: str) -> float | None:
    """Return the final accuracy over the runs in percent, or None if a run does not have it."""
    runs = list(runs)
    values = [(run if measure == "finetune" else run["curve"][-1]).get(measure) for run in runs]
    return None if None in values else 100 * float(np.mean(values))


def final_table(
    runs: Runs, to_base: Comparisons, floors: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the table of final accuracies and of their differences to pixels."""
    columns = [{"key": "arm", "title": "target"}, {"key": "seeds", "title": "seeds", "format": "d"}]
    for measure, title in MEASURES.items():
        columns += [
            {"key": measure, "title": f"{title}, %", "format": ".1f"},
            {"key": f"{measure}_difference", "title": f"− {BASE}"},
        ]
    columns.append({"key": "seconds", "title": "seconds", "format": ",.0f"})
    rows: list[dict[str, Any]] = []
    for arm, by_seed in runs.items():
        row: dict[str, Any] = {"arm": arm, "seeds": len(by_seed)}
        row["seconds"] = float(np.mean([run["curve"][-1]["seconds"] for run in by_seed.values()]))
        row |= {measure: mean_of(by_seed.values(), measure) for measure in MEASURES}
        count, comparisons = to_base.get(arm, (0, {}))
        row |= {
            f"{measure}_difference": said_difference(comparison, count)
            for measure, comparison in comparisons.items()
        }
        rows.append(row)
    rows += floor_rows(runs, floors)
    caption = (
        f"{setting_caption(runs)} Differences: points, {BOOTSTRAP}, and the number of seeds in "
        f"which the arm is ahead. Seconds: CPU seconds of pre-training with targets and keypoints. "
        f"{SUPERVISED}: from scratch with 1,000 labels, for the seconds of pixels with "
        "fine-tuning; its k-NN and linear probe are those of its encoder. SIFT and HOG of the "
        "image: probes of descriptors without a model; mean averages all patches, grid joins "
        "windows that do not overlap. Made by "
        "`python -m benchmarks.studies.pretraining.targets` and `targets_table`."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def floor_rows(runs: Runs, floors: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the untrained encoder, raw pixels and dense descriptors."""
    base_runs = runs.get(BASE, {}).values()
    starts = [run["curve"][0] for run in base_runs if run["curve"][0]["epoch"] == 0]
    rows = []
    if starts:
        means = {probe: float(np.mean([start[probe] for start in starts])) for probe in PROBES}
        rows.append({"arm": "untrained encoder", **{p: 100 * means[p] for p in PROBES}})
    return rows + [
        {"arm": name, **{probe: 100 * values[probe] for probe in PROBES}}
        for name, values in floors.items()
    ]


def time_table(runs: Runs, to_base: Comparisons) -> dict[str, Any]:
    """Return the parts of pixels' epochs and seconds that each arm needs."""
    columns = [{"key": "arm", "title": "target"}, {"key": "seeds", "title": "seeds", "format": "d"}]
    columns += [
        {"key": f"{probe}_{unit}", "title": f"{title}: part of {unit}"}
        for probe, title in PROBES.items()
        for unit in ("epochs", "seconds")
    ]
    rows = []
    for arm, (count, comparisons) in to_base.items():
        if arm == SUPERVISED:
            continue
        row: dict[str, Any] = {"arm": arm, "seeds": count}
        for probe in PROBES:
            for unit in ("epochs", "seconds"):
                row[f"{probe}_{unit}"] = said_part(comparisons[probe][unit])
        rows.append(row)
    caption = (
        f"{setting_caption(runs)} Epochs and seconds in which the mean curve of an arm reaches the "
        f"final accuracy of {BASE}, divided by those of {BASE}; interpolated between epochs; "
        f"{BOOTSTRAP}."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def control_table(runs: Runs) -> dict[str, Any]:
    """Return SIFT minus each other arm, for the same seeds."""
    columns = [
        {"key": "arm", "title": f"{METHOD} minus"},
        {"key": "seeds", "title": "seeds", "format": "d"},
    ]
    columns += [{"key": measure, "title": title} for measure, title in MEASURES.items()]
    rows = []
    for arm, by_seed in runs.items():
        count, comparisons = compare(runs.get(METHOD, {}), by_seed)
        if not count or arm in (METHOD, SUPERVISED):
            continue
        row: dict[str, Any] = {"arm": arm, "seeds": count}
        row |= {
            measure: said_difference(comparison, count)
            for measure, comparison in comparisons.items()
        }
        rows.append(row)
    caption = (
        f"{setting_caption(runs)} Points, {BOOTSTRAP}, and the number of seeds in which {METHOD} "
        "is ahead."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def setting_caption(runs: Runs) -> str:
    """Return a sentence on the data, the model and the seeds."""
    run = next(iter(next(iter(runs.values())).values()))
    about, seeds = run["about"], sorted({seed for by_seed in runs.values() for seed in by_seed})
    return (
        f"{about['epochs']} epochs of {about['pictures']:,} pictures ({about['data']}), "
        f"{about['image_size']} pixels, patches of {about['patch_size']}, {about['model']} model; "
        f"{about['test']:,} images of the {about['split']} split; seeds "
        f"{', '.join(map(str, seeds))}."
    )


def rate_table(folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """Return k-NN and linear probe by arm, number of epochs and learning rate, on all seeds."""
    cells: dict[tuple[int, str], dict[float, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if not run.get("finished") or run["arm"] not in TARGET_ARMS:
            continue
        if run["seed"] < FIRST_FRESH_SEED and setting.items() <= run["about"].items():
            by_rate = cells.setdefault((run["about"]["epochs"], run["arm"]), {})
            by_rate.setdefault(run["learning_rate"], []).append(run)
    rates = sorted({rate for by_rate in cells.values() for rate in by_rate})
    columns: list[dict[str, Any]] = [
        {"key": "arm", "title": "target"},
        {"key": "epochs", "title": "epochs", "format": "d"},
        *({"key": f"{rate:g}", "title": f"{rate:g}"} for rate in rates),
    ]
    order = list(TARGET_ARMS)
    rows = []
    for epochs, arm in sorted(cells, key=lambda cell: (cell[0], order.index(cell[1]))):
        row: dict[str, Any] = {"arm": arm, "epochs": epochs}
        for rate, runs in cells[epochs, arm].items():
            knn, linear = (mean_of(runs, probe) for probe in PROBES)
            mark = "**" if rate == TARGET_ARMS[arm].learning_rate else ""
            row[f"{rate:g}"] = f"{mark}{knn:.1f}, {linear:.1f}{mark}"
        rows.append(row)
    seeds = sorted(
        {run["seed"] for by_rate in cells.values() for runs in by_rate.values() for run in runs}
    )
    caption = (
        "k-NN and linear probe of the validation images, %, by learning rate of AdamW for a batch "
        f"of 32; bold: the rate of the comparison. Development seeds {', '.join(map(str, seeds))}."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def read_floors(folder: Path, setting: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Return the probes without a model, or an empty dict."""
    for path in sorted(folder.glob(f"*-floors-{split}.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if all(setting.get(key, value) == value for key, value in stored["about"].items()):
            floors: dict[str, dict[str, Any]] = stored["floors"]
            return floors
    return {}


def main() -> None:
    """Write the tables of the finished runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS_DIR / "pretraining_targets")
    parser.add_argument(
        "--out", type=Path, default=RESULTS_DIR / "pretraining_targets.json",
        help="the other tables have its name and _time, _controls, _development, _rates",
    )  # fmt: skip
    parser.add_argument("--development", action="store_true", help="the tables of these seeds")
    parser.add_argument("--data", default="CIFAR-10")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--model", default="small")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    data = {"data": options.data, "pictures": options.pictures, "image_size": options.size,
            "model": options.model}  # fmt: skip
    setting = {**data, "epochs": options.epochs}
    split = "validation" if options.development else "test"
    runs = read_runs(options.results, setting, fresh=not options.development)
    if not runs:
        raise SystemExit(f"{options.results}: expected finished runs of {setting}, got none — run "
                         "python -m benchmarks.studies.pretraining.targets")  # fmt: skip
    floors = read_floors(options.results, setting, split)
    to_base = compare_all(runs, BASE)
    tables = {"": final_table(runs, to_base, floors), "_time": time_table(runs, to_base),
              "_controls": control_table(runs)}  # fmt: skip
    if options.development:
        tables = {f"_development{suffix}": table for suffix, table in tables.items()}
        tables["_rates"] = rate_table(options.results, data)
    for suffix, table in tables.items():
        path = options.out.with_name(f"{options.out.stem}{suffix}.json")
        write_text(path, json.dumps(table, indent=1) + "\n")
    for row in next(iter(tables.values()))["rows"]:
        print({key: value for key, value in row.items() if value is not None})


if __name__ == "__main__":
    main()
