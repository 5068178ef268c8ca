"""The table of `bench_pretraining`: ``python -m benchmarks.pretraining_table``.

Speed-up is how many times sooner an arm reaches random masking's final accuracy than random masking
itself does: on the curves' means over seeds, between probed epochs by straight lines, in epochs and
in seconds. Intervals are percentiles of a bootstrap over seeds and test images, the same draws for
both arms. An arm that does not get there is "not reached", and so is an end of an interval.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semattn.utils.atomic_files import write_text

from .bench_pretraining import ARMS, RESULTS, short
from .pretraining_probes import unpacked

DRAWS, LEVEL = 2000, 95
PROBES = {"knn": "k-NN", "linear": "linear probe"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of an arm: over S seeds, E probed epochs, and N test images.

    Parameters
    ----------
    epochs : (E,)
    seconds : (S, E), finding keypoints included
    right : probe: (S, E, N) 0 and 1
    loss : (S, E) under the fixed masks
    """

    epochs: Floats
    seconds: Floats
    right: dict[str, Floats]
    loss: Floats


def curves_of(results: list[dict[str, Any]]) -> Curves:
    """Of the results of an arm, one a seed."""
    images = results[0]["about"]["test"]
    probed = [[one for one in made["curve"] if "knn" in one] for made in results]

    def table(name: str) -> Floats:
        return np.array([[one[name] for one in curve] for curve in probed], dtype=np.float64)

    return Curves(
        table("epoch")[0],
        table("seconds"),
        {probe: np.array([[unpacked(one[f"{probe}_right"], images) for one in curve]
                          for curve in probed], dtype=np.float64) for probe in PROBES},
        table("fixed_loss"),
    )  # fmt: skip


def reached(at: Floats, curve: Floats, target: float) -> float:
    """Where a curve first reaches a target, between its points by straight lines; inf for never.

    Examples
    --------
    >>> reached(np.array([0.0, 10, 20]), np.array([0.1, 0.3, 0.7]), 0.5)
    15.0
    """
    above = np.flatnonzero(curve >= target)
    if not len(above):
        return float("inf")
    last = above[0]
    if last == 0:
        return float(at[0])
    part = (target - curve[last - 1]) / (curve[last] - curve[last - 1])
    return float(at[last - 1] + part * (at[last] - at[last - 1]))


def speedup(arm: Floats, base: Floats, at_arm: Floats, at_base: Floats) -> float:
    """How many times sooner an arm reaches the base's final accuracy; 0 for never."""
    own = reached(at_base, base, float(base[-1]))
    return own / max(reached(at_arm, arm, float(base[-1])), 1e-9)


def compared(arm: Curves, base: Curves, probe: str, draws: int = DRAWS) -> dict[str, Any]:
    """Difference of the final accuracies and both speed-ups, with intervals."""
    seeds, _, images = arm.right[probe].shape
    rng = np.random.default_rng(0)

    def figures(which: NDArray[np.int64], weight: Floats) -> tuple[float, float, float]:
        mine, theirs = (one.right[probe][which].mean(0) @ weight for one in (arm, base))
        time = [one.seconds[which].mean(0) for one in (arm, base)]
        return (
            float(mine[-1] - theirs[-1]),
            speedup(mine, theirs, arm.epochs, base.epochs),
            speedup(mine, theirs, time[0], time[1]),
        )

    even = np.full(images, 1 / images)
    point = figures(np.arange(seeds), even)
    drawn = [
        figures(rng.integers(0, seeds, seeds), rng.multinomial(images, even) / images)
        for _ in range(draws)
    ]
    ends = np.percentile(np.array(drawn), [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    names = ("difference", "epochs", "seconds")
    return {
        name: {"value": point[i], "low": float(ends[0, i]), "high": float(ends[1, i])}
        for i, name in enumerate(names)
    }


def said_times(figure: dict[str, float]) -> str:
    """A speed-up in words."""
    value, low, high = (
        f"{figure[name]:.2f}" if figure[name] > 0 else "not reached"
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if figure["high"] > 0 else "not reached"


def said_points(figure: dict[str, float]) -> str:
    """A difference of accuracies in points."""
    value, low, high = (100 * figure[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def read(results: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """The finished results of each arm by seed, for the seeds that random masks have too."""
    found: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for arm, own in found.items():
        for path in sorted(results.glob(f"{short(arm)}-*.json")):
            made = json.loads(path.read_text(encoding="utf-8"))
            if made["finished"] and made["arm"] == arm:
                own[made["seed"]] = made
    if not found["random"]:
        raise SystemExit(f"{results}: expected finished runs of the arm random, got none — run "
                         "python -m benchmarks.bench_pretraining")  # fmt: skip
    shared = {
        arm: {seed: own[seed] for seed in sorted(own.keys() & found["random"].keys())}
        for arm, own in found.items()
    }
    return {arm: own for arm, own in shared.items() if own}


def result(found: dict[str, dict[int, dict[str, Any]]], raw: dict[str, Any]) -> dict[str, Any]:
    """Rows as `render_tables` reads them, and the curves behind them."""
    random = found["random"]
    rows: list[dict[str, Any]] = []
    for arm, own in found.items():
        mine = curves_of(list(own.values()))
        base = curves_of([random[seed] for seed in own])
        row: dict[str, Any] = {"arm": arm, "seeds": len(own),
                               "fixed_loss": float(mine.loss[:, -1].mean()),
                               "seconds": float(mine.seconds[:, -1].mean())}  # fmt: skip
        for probe in PROBES:
            row[probe] = 100 * float(mine.right[probe][:, -1].mean())
            if arm != "random":
                figures = compared(mine, base, probe)
                row[f"{probe}_difference"] = said_points(figures["difference"])
                row[f"{probe}_epochs"] = said_times(figures["epochs"])
                row[f"{probe}_seconds"] = said_times(figures["seconds"])
        rows.append(row)
    every = curves_of(list(random.values()))
    for name, values in (
        ("untrained encoder", {p: float(every.right[p][:, 0].mean()) for p in PROBES}),
        ("raw pixels", {p: raw[p] for p in PROBES}),
    ):
        rows.append({"arm": name, **{p: 100 * value for p, value in values.items()}})
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
        f"{LEVEL} % intervals over seeds and images. Made by `python -m benchmarks."
        "bench_pretraining` and `pretraining_table`."
    )
    return {
        "caption": caption, "columns": columns, "rows": rows, "about": about, "seeds": seeds,
        "curves": {
            arm: {str(seed): _light(one) for seed, one in own.items()} for arm, own in found.items()
        },
    }  # fmt: skip


def _light(made: dict[str, Any]) -> list[dict[str, Any]]:
    """A curve without the bits of each image."""
    return [
        {key: value for key, value in one.items() if not key.endswith("_right")}
        for one in made["curve"]
        if "knn" in one
    ]


def main() -> None:
    """Write the table of what is finished."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS / "pretraining")
    parser.add_argument("--out", type=Path, help="the folder's name and .json if left out")
    options = parser.parse_args()
    out = options.out or options.results.with_suffix(".json")
    raw = json.loads((options.results / "raw_pixels.json").read_text(encoding="utf-8"))
    made = result(read(options.results), raw)
    write_text(out, json.dumps(made, indent=1) + "\n")
    for row in made["rows"]:
        print({key: value for key, value in row.items() if value is not None})


if __name__ == "__main__":
    main()
