"""Tables of recurring marks: ``python -m benchmarks.studies.spurious.mark_table``.

Rows are means over the searches that are finished. Proportions have exact (Clopper-Pearson)
intervals over searches; paired differences have bootstrap intervals over searches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text
from semattn.utils.statistics import CONFIDENCE, Estimate, difference

from ...datasets.marked_sets import DATASETS
from ...datasets.moving_marks import MARKS
from .mark_metrics import MIN_MARKED, OVERLAP
from .marks import ALPHA, MARK_RESULTS, METHODS, SEEDS, TWIN_RATE, TWINS
from .spurious_table import make_table

OURS = "SIFT"
COMMAND = "`python -m benchmarks.studies.spurious.marks`"
TWIN_TITLES = {
    "clean": "no mark in any image",
    "everywhere": f"mark on {TWIN_RATE:g} of every class",
    "permuted": f"mark on {TWIN_RATE:g} of one class, labels in random order",
}
SETTING = (
    "No model is used. Two sets: 236 compositions of 13 classes in which every cut-out appears "
    "once, and 390 photographs of CIFAR-10 enlarged to 224 pixels. Enlarged pictures are smooth: "
    "CIFAR-10 has few keypoints of its own, so that a mark is easier to find there. A mark has a "
    "random place, scale (0.7 to 1.4) and rotation (20 degrees at most). Marked class, images and "
    f"poses by seed ({SEEDS[0]} to {SEEDS[-1]}). "
)


def proportion_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson 1934).

    Examples
    --------
    >>> [round(end, 3) for end in proportion_interval(0, 20)]
    [0.0, 0.168]
    """
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, successes, count - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, count - successes) if successes < count else 1.0
    return float(low), float(high)


def finished(folder: Path) -> list[dict[str, Any]]:
    """Return the results of the fresh seeds."""
    results = [json.loads(path.read_text(encoding="utf-8"))
               for path in sorted(folder.glob("*.json"))]  # fmt: skip
    return [result for result in results if result["case"]["seed"] in SEEDS]


def is_recalled(result: dict[str, Any], n_first: int) -> bool:
    """Return whether the planted mark is among the first marks of a search."""
    return result["rank"] is not None and result["rank"] <= n_first


def _select(results: Sequence[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    return [result for result in results
            if all(result["case"][name] == value for name, value in values.items())]  # fmt: skip


def _rates(results: Sequence[dict[str, Any]]) -> list[float]:
    return sorted({result["case"]["rate"] for result in results}, reverse=True)


def planted_rows(results: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row for all kinds and one for each kind, for each set and rate, of our search."""
    ours = _select(results, method=OURS, twin="")
    for dataset in DATASETS:
        for rate in _rates(ours):
            of_rate = _select(ours, dataset=dataset, rate=rate)
            for kind in ("all", *MARKS):
                group = of_rate if kind == "all" else _select(of_rate, kind=kind)
                if group:
                    yield {"set": dataset, "rate": rate, "kind": kind} | _mean_metrics(group)


def _mean_metrics(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ranks = [result["rank"] or np.inf for result in group]
    fresh = {name: float(np.mean([result["fresh"][name] for result in group]))
             for name in ("iou", "detected", "false", "ap")}  # fmt: skip
    median = float(np.median(ranks))
    return {
        "searches": len(group),
        "with_mark": float(np.mean([result["with_mark"] for result in group])),
        "recall1": format_proportion([is_recalled(result, 1) for result in group]),
        "recall5": float(np.mean([is_recalled(result, 5) for result in group])),
        "rank": median if np.isfinite(median) else None,
        "significant": float(np.mean([result["significant"] for result in group])),
        "other": sum(result["other_significant"] > 0 for result in group),
        "seconds": float(np.mean([result["seconds"] for result in group])),
        **fresh,
    }  # fmt: skip


def format_proportion(values: Sequence[bool]) -> str:
    """Return the proportion of true values with its exact 95 % interval, as text."""
    low, high = proportion_interval(sum(values), len(values))
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


def control_rows(results: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row for each set, rate and control: paired differences from our search."""
    planted = _select(results, twin="")
    for dataset in DATASETS:
        for rate in _rates(planted):
            for method in METHODS:
                pairs = _pairs(_select(planted, dataset=dataset, rate=rate), method)
                if pairs and method != OURS:
                    yield {"set": dataset, "rate": rate, "method": method} | _differences(pairs)


def _pairs(
    results: Sequence[dict[str, Any]], method: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the results of our search and of a method for the same kind and seed."""
    others = {(result["case"]["kind"], result["case"]["seed"]): result
              for result in _select(results, method=method)}  # fmt: skip
    ours = {(result["case"]["kind"], result["case"]["seed"]): result
            for result in _select(results, method=OURS)}  # fmt: skip
    return [(ours[key], others[key]) for key in sorted(ours.keys() & others.keys())]


def _differences(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    columns = {
        "recall1": [[float(is_recalled(result, 1)) for result in pair] for pair in pairs],
        "ap": [[result["fresh"]["ap"] for result in pair] for pair in pairs],
        "iou": [[result["fresh"]["iou"] for result in pair] for pair in pairs],
    }
    row: dict[str, Any] = {"searches": len(pairs)}
    for name, values in columns.items():
        ours, other = np.array(values).T
        interval = difference(ours, other)
        row[f"ours {name}"], row[name] = float(ours.mean()), float(other.mean())
        row[f"difference {name}"] = format_estimate(interval)
    return row | {
        "significant": float(np.mean([other["significant"] for _, other in pairs])),
        "seconds": float(np.mean([other["seconds"] for _, other in pairs])),
    }


def format_estimate(estimate: Estimate) -> str:
    """Return a mean and its interval as text."""
    return f"{estimate.mean:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"


def twin_rows(results: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row for each twin and set, and one for each twin: searches that find a mark."""
    for twin in TWINS:
        of_twin = _select(results, method=OURS, twin=twin)
        for dataset in (*DATASETS, "both"):
            group = of_twin if dataset == "both" else _select(of_twin, dataset=dataset)
            if group:
                is_alarm = [result["significant"] or result["other_significant"] > 0
                            for result in group]  # fmt: skip
                yield {
                    "twin": TWIN_TITLES[twin], "set": dataset, "searches": len(group),
                    "alarms": sum(is_alarm), "rate": format_proportion(is_alarm),
                    "marks": float(np.mean([result["marks"] for result in group])),
                }  # fmt: skip


def tables(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the tables by name."""
    ratios = ", ".join(f"{name} {method.ratio:g}" for name, method in METHODS.items())
    return {
        "marks": make_table(
            SETTING + "Recall: the planted mark is among the first marks (its class; "
            f"{MIN_MARKED:g} of its images have the planted mark; mean intersection over union, "
            f"IoU, of its outline and the convex hull of the planted mark of {OVERLAP:g} or more), "
            "with exact 95 % intervals over searches. Rank: median. Significant: Fisher's test, "
            f"corrected, below {ALPHA:g}; other: searches with another significant mark. The last "
            "columns use the first mark of each search on 40 fresh images with the planted mark "
            "and 40 without: mean IoU (0 where no place is found), detected (IoU of "
            f"{OVERLAP:g}), false (images without the mark in which a place is found), and average "
            "precision of the pixels in the hull. Seconds: of one processor, of the search after "
            f"detection. Targets set before the run: recall@1 of .95 at rate .5, .9 at .2, .5 at "
            f".1. Made by {COMMAND}.",
            """
            set | images
            rate | rate | .2f
            kind | mark
            searches | searches | d
            with_mark | images with mark | .1f
            recall1 | recall@1
            recall5 | recall@5 | .2f
            rank | rank | .1f
            significant | significant | .2f
            other | other | d
            iou | IoU | .2f
            detected | detected | .2f
            false | false | .3f
            ap | AP | .2f
            seconds | seconds | .1f
            """,
            list(planted_rows(results)),
        ),
        "marks_controls": make_table(
            "The same searches on other features. Paired differences, SIFT less the control, over "
            "the same images, marks and seeds, with 95 % bootstrap intervals over searches; AP and "
            "IoU as above. Pixel patches: grey patches of 16 x 16 at the keypoints of SIFT, turned "
            "and scaled. No geometry: SIFT, four matches link two images and five locate a mark. "
            "Keys: keys of layer 6 of the embedded model, one per patch. ORB has as many keypoints "
            "as SIFT at most. Greatest squared distance of a match, as a fraction of that to "
            f"unrelated images: {ratios}. Made by {COMMAND}.",
            """
            set | images
            rate | rate | .2f
            method | control
            searches | searches | d
            ours recall1 | recall@1, SIFT | .2f
            recall1 | recall@1, control | .2f
            difference recall1 | difference
            difference ap | difference, AP
            difference iou | difference, IoU
            significant | significant, control | .2f
            seconds | seconds, control | .1f
            """,
            list(control_rows(results)),
        ),
        "marks_twins": make_table(
            SETTING + f"Searches with a significant mark (level {ALPHA:g}, corrected) where no "
            "class has a mark of its own, with exact 95 % intervals over searches; marks: "
            f"recurring marks per search, significant or not. Made by {COMMAND} with --twins.",
            """
            twin | twin
            set | images
            searches | searches | d
            alarms | with a significant mark | d
            rate | proportion
            marks | marks | .1f
            """,
            list(twin_rows(results)),
        ),
    }


def main() -> None:
    """Write the tables of the finished searches."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=MARK_RESULTS)
    options = parser.parse_args()
    for name, table in tables(finished(options.results)).items():
        if table["rows"]:
            write_text(RESULTS_DIR / f"{name}.json", json.dumps(table, indent=1) + "\n")
            print(name, len(table["rows"]), "rows")


if __name__ == "__main__":
    main()
