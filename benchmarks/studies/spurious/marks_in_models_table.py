"""Tables of marks that models use: ``python -m benchmarks.studies.spurious.marks_in_models_table``.

Reads the results of `marks_in_models`, `mark_maps` and `marks`. Writes ``marks_in_models.json``,
``marks_model_twins.json``, ``marks_maps.json`` and ``marks_loop.json``, for the tables of
docs/spurious-studies.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text
from semattn.utils.statistics import difference

from ...datasets.marked_sets import DATASETS
from ...datasets.moving_marks import MARKS
from .mark_maps import RESULTS as MAPS
from .mark_table import format_estimate, format_proportion
from .marked_models import GROUPS, MORE_TRAIN, RATES, TRAIN, TWINS
from .marks import MARK_RESULTS, Case as SearchCase
from .marks_in_models import RESULTS
from .spurious_table import format_interval, make_table

DRAWS = 2000
ALPHA = 0.05
WAYS = ("suppressed", "erased")
SHOWN = ("cue", "oracle", "wrong cue", "wrong region")  # what is suppressed or erased
ARMS = tuple(f"{shown} {way}" for way in WAYS for shown in SHOWN)
TWIN_TITLES = {
    "clean": "no mark",
    "everywhere": "mark on half of every class",
    "untrained": "model trained without the mark",
    "permuted": "labels in random order",
}

Result = dict[str, Any]


def read_results() -> list[Result]:
    """Return the results of the finished cases."""
    results = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))
    ]
    return [result | {"case": {"n_train": TRAIN} | result["case"]} for result in results]


def settings(*more: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the number of training images, the set, whether the mark is fixed, and more values."""
    return product((TRAIN, MORE_TRAIN), DATASETS, (False, True), *more)


def select(results: list[Result], **values: Any) -> list[Result]:
    """Return the results whose case has these values."""
    return [
        result
        for result in results
        if all(result["case"][name] == value for name, value in values.items())
    ]


def search_rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Yield one row for each number of training images, set, pose, rate and kind of mark."""
    for n_train, dataset, is_fixed, rate, kind in settings(RATES, (*MARKS, "all")):
        of_kind = {} if kind == "all" else {"kind": kind}
        part = select(
            results, n_train=n_train, dataset=dataset, is_fixed=is_fixed, rate=rate, twin="",
            **of_kind,
        )  # fmt: skip
        if part:
            used = [result for result in part if is_used(result)]
            yield {
                "n_train": n_train, "dataset": dataset,
                "pose": "fixed" if is_fixed else "moving", "rate": rate,
                "kind": kind, "searches": len(part),
                "first": float(np.mean([result["rank"] == 1 for result in part])),
                "used": len(used) / len(part),
                "confirmed": float(np.mean([result["confirmed"] for result in part])),
                "confirmed_used": f"{sum(result['confirmed'] for result in used)} of {len(used)}",
                "false": sum(result["false"] for result in part),
                "seconds": float(np.mean([result["seconds"]["search"] for result in part])),
            }  # fmt: skip


def is_used(result: Result) -> bool:
    """Return whether the interventions on the true regions of the mark are significant."""
    p_values = [value for name, value in result["true_effects"].items() if name.endswith("_p")]
    return max(p_values, default=1.0) < ALPHA


def twin_rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Yield one row for each twin and set, and one for each twin."""
    for twin, dataset in product(TWINS, (*DATASETS, "both")):
        of_set = {} if dataset == "both" else {"dataset": dataset}
        part = select(results, twin=twin, **of_set)
        if part:
            confirmed = [[cue for cue in result["cues"] if cue["confirmed"]] for result in part]
            is_alarm = [len(cues) > 0 for cues in confirmed]
            yield {
                "twin": TWIN_TITLES[twin], "dataset": dataset, "searches": len(part),
                "alarms": sum(is_alarm), "rate": format_proportion(is_alarm),
                "marks": sum(any(cue["is_mark"] for cue in cues) for cues in confirmed),
            }  # fmt: skip


def map_rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Yield one row for each set, rate and method: the same models, images and marks.

    Differences are paired, the marks of `find_marks` less the method.
    """
    maps = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(MAPS.glob("*.json"))]
    for dataset, rate in product(DATASETS, RATES):
        found: dict[str, list[dict[str, Any]]] = {}
        for result in select(maps, dataset=dataset, rate=rate):
            (searched,) = select(results, **result["case"])
            file = SearchCase(
                dataset, searched["case"]["kind"], rate, searched["case"]["seed"]
            ).file
            fresh = json.loads((MARK_RESULTS / file).read_text(encoding="utf-8"))["fresh"]
            marks = {name: searched[name] for name in ("rank", "confirmed")} | {"ap": fresh["ap"]}
            for name, values in ({"marks": marks} | result["methods"]).items():
                found.setdefault(name, []).append(values | {"ap of marks": fresh["ap"]})
        for name, of_method in found.items():
            precision, of_marks = (
                np.array([values[key] for values in of_method]) for key in ("ap", "ap of marks")
            )
            yield {
                "dataset": dataset, "rate": rate, "method": name, "models": len(of_method),
                "first": float(np.mean([values["rank"] == 1 for values in of_method])),
                "confirmed": f"{np.mean([values['confirmed'] for values in of_method]):.2f}"
                if "confirmed" in of_method[0] else "–",
                "ap": float(precision.mean()),
                "difference": "–" if name == "marks"
                else format_estimate(difference(of_marks, precision)),
            }  # fmt: skip


def loop_rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Yield one row for each setting and kind of mark: accuracy, and points gained."""
    for n_train, dataset, is_fixed, kind in settings((*MARKS, "all")):
        of_kind = {} if kind == "all" else {"kind": kind}
        part = [
            result
            for result in select(
                results,
                n_train=n_train,
                dataset=dataset,
                is_fixed=is_fixed,
                rate=RATES[0],
                twin="",
                **of_kind,
            )
            if "cue erased" in result["test"]["right"]
        ]
        if not part:
            continue
        others = GROUPS.index("others, mark")
        clean = [accuracy(result, "none", GROUPS.index("others, no mark")) for result in part]
        marked = [accuracy(result, "none", others) for result in part]
        yield {
            "n_train": n_train, "dataset": dataset,
            "pose": "fixed" if is_fixed else "moving", "kind": kind,
            "models": len(part), "clean": np.mean(clean), "marked": np.mean(marked),
            **{arm: gain(part, arm, others) for arm in ARMS},
            "worst": worst(part, "none"),
            **{f"worst cue {way}": worst(part, f"cue {way}") for way in WAYS},
        }  # fmt: skip


def accuracy(result: Result, arm: str, group: int) -> float:
    """Return the accuracy in a group of test images, per cent."""
    right, groups = np.array(result["test"]["right"][arm]), np.array(result["test"]["group"])
    return float(100 * right[groups == group].mean())


def worst(results: list[Result], arm: str) -> float:
    """Return the mean over models of the accuracy in the worst group, per cent."""
    return float(np.mean([
        min(accuracy(result, arm, group) for group in range(len(GROUPS))) for result in results
    ]))  # fmt: skip


def gain(results: list[Result], arm: str, group: int) -> str:
    """Return the points gained in a group, mean over models, with a bootstrap over images."""
    rng = np.random.default_rng(0)
    means = []
    for result in results:
        in_group = np.array(result["test"]["group"]) == group
        changed, plain = (
            np.array(result["test"]["right"][name])[in_group] for name in (arm, "none")
        )
        difference = 100.0 * (changed - plain)
        draws = rng.integers(len(difference), size=(DRAWS, len(difference)))
        means.append(np.r_[difference.mean(), difference[draws].mean(axis=1)])
    return format_interval(np.mean(means, axis=0), "+.1f")


def main() -> None:
    """Write the tables of the finished cases."""
    results = read_results()
    seeds = sorted({result["case"]["seed"] for result in results})
    counts = Counter(result["precision"].removeprefix("torch.") for result in results)
    precisions = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items()))
    setting = (
        "Embedded backbone whose last layer and head are trained on other images with the mark at "
        f"the same rate; seeds {', '.join(map(str, seeds))}; cases: {precisions}. "
    )
    command = "Made by `python -m benchmarks.studies.spurious.marks_in_models`."
    tables = {
        "marks_in_models": make_table(
            setting
            + "First: the planted mark is the first cue; used: removal, transplant and specificity "
            "are significant on the true regions of the mark; confirmed: it is confirmed, in all "
            "searches and in those whose model uses the mark; false: other confirmed cues, in all "
            "searches together; seconds while other work ran. " + command,
            """
            n_train | training images | d
            dataset | images
            pose | mark
            rate | rate | .1f
            kind | kind
            searches | searches | d
            first | first | .2f
            used | used | .2f
            confirmed | confirmed | .2f
            confirmed_used | confirmed, if used
            false | false | d
            seconds | seconds | .0f
            """,
            list(search_rows(results)),
        ),
        "marks_model_twins": make_table(
            setting
            + "Searches with a confirmed cue where none is to be confirmed, at significance "
            "level .05 per search, with exact 95 % intervals; marks: those with a confirmed mark. "
            + command,
            """
            twin | twin
            dataset | images
            searches | searches | d
            alarms | with a confirmed cue | d
            rate | proportion
            marks | marks | d
            """,
            list(twin_rows(results)),
        ),
        "marks_maps": make_table(
            setting + "Marks: this search; kinds of patches: the same search without recurring "
            "marks; first: the planted mark is the first cue, or in SpRAy and attribution alone, "
            "which rank the classes, the marked class is the first. AP: average precision of the "
            "pixels of the mark in fresh images, by places, by the patches of the first cue, or by "
            "relevance maps; difference: marks less the method, with 95 % bootstrap intervals over "
            "models. Made by `python -m benchmarks.studies.spurious.mark_maps`.",
            """
            dataset | images
            rate | rate | .1f
            method | method
            models | models | d
            first | first | .2f
            confirmed | confirmed
            ap | AP | .2f
            difference | difference, AP
            """,
            list(map_rows(results)),
        ),
        "marks_loop": make_table(
            setting + "Rate .5. Test images that neither the model nor the search saw; per cent "
            "right in images of other classes without and with the mark, and points gained there "
            "with 95 % bootstrap intervals over images. Suppressed: patches hidden in all layers; "
            "erased: pixels inpainted; oracle: the true region of the mark; wrong cue: the mark of "
            "another kind, which `find_marks` finds in the same images if it is drawn there "
            "instead; wrong region: a region of this shape elsewhere. Worst: lowest accuracy of "
            "four groups "
            f"({', '.join(GROUPS)}) as it is, and with the cue suppressed or erased. " + command,
            """
            n_train | training images | d
            dataset | images
            pose | mark
            kind | kind
            models | models | d
            clean | no mark | .1f
            marked | mark | .1f
            cue suppressed | cue suppressed
            oracle suppressed | oracle suppressed
            wrong cue suppressed | wrong cue suppressed
            wrong region suppressed | wrong region suppressed
            cue erased | cue erased
            oracle erased | oracle erased
            wrong cue erased | wrong cue erased
            wrong region erased | wrong region erased
            worst | worst | .1f
            worst cue suppressed | worst, suppressed | .1f
            worst cue erased | worst, erased | .1f
            """,
            list(loop_rows(results)),
        ),
    }
    for name, table in tables.items():
        if table["rows"]:
            write_text(RESULTS_DIR / f"{name}.json", json.dumps(table, indent=1) + "\n")
            print(name, len(table["rows"]), "rows")


if __name__ == "__main__":
    main()
