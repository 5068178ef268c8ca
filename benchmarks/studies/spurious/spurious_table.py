"""Tables of planted cues, from the results of `bench_spurious` and its companions.

    python -m benchmarks.studies.spurious.spurious_table [--work …]

Means over the finished seeds, whose number is given in every row. Intervals are from a bootstrap
over the fresh images of all seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from .loop import GROUPS
from .other_methods import METHODS
from .search import (
    KINDS,
    OVERLAP,
    RATES,
    SEARCH,
    SEARCHES,
    SEEDS,
    TRAIN,
    VERSION,
    WORK,
    Case,
    cases,
    fresh_planted,
    scores_file,
    twin_cases,
)
from .stored_cases import folders

DRAWS = 200
VERSIONS = ("earlier", "specificity", VERSION)  # of the search
LOOP_DRAWS = 5000


def finished(folder: Path, prefix: str = "") -> Iterator[tuple[Case, dict[str, Any]]]:
    """Yield the cases that have a result; those of the earlier search are in ``earlier/``."""
    for case in (*cases(), *twin_cases()):
        for parent in (folder / "earlier", folder):
            file = parent / f"{prefix}{case.file}"
            if file.exists():
                yield case, json.loads(file.read_text(encoding="utf-8"))


def planted_rows(results: list[tuple[Case, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield one row per cue, rate and version of the search: recall and quality of the top cues."""
    for rate, kind, version in product(RATES, KINDS, VERSIONS):
        group = [result for case, result in results
                 if (case.kind, case.rate, case.twin, case.trained) == (kind, rate, "", "")
                 and _version(result) == version]  # fmt: skip
        if group:
            yield {"kind": kind, "rate": rate, "version": version, "seeds": len(group),
                   **_mean_metrics(group)}  # fmt: skip


def _mean_metrics(group: list[dict[str, Any]]) -> dict[str, Any]:
    def is_recalled(result: dict[str, Any], num_first: int) -> bool:
        return any(
            top["class_right"] and top["iou"] >= OVERLAP for top in result["top"][:num_first]
        )

    def class_rank(result: dict[str, Any]) -> float:
        order = [target for target, _ in result["classes"]]
        return 1 + order.index(result["case"]["on"])

    top_cues = [result["top"][0] if result["top"] else None for result in group]
    is_confirmed = [bool(result["cues"] and result["cues"][0]["confirmed"]
                         and top and top["class_right"])
             for result, top in zip(group, top_cues, strict=True)]  # fmt: skip
    num_false = [sum(cue["confirmed"] and cue["target"] != result["case"]["on"]
                     for cue in result["cues"])
             for result in group]  # fmt: skip

    def mean(name: str) -> float:
        return float(np.mean([top[name] if top else 0.0 for top in top_cues]))

    return {
        "recall1": float(np.mean([is_recalled(result, 1) for result in group])),
        "recall5": float(np.mean([is_recalled(result, 5) for result in group])),
        "confirmed": float(np.mean(is_confirmed)),
        "rank": float(np.mean([class_rank(result) for result in group])),
        "ap": mean("ap"), "ap_class": mean("ap_class"), "iou": mean("iou"),
        "precision10": mean("precision10"), "false": float(np.mean(num_false)),
    }  # fmt: skip


def twin_rows(results: list[tuple[Case, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield one row per control: the number of confirmed cues where there is none to find."""
    titles = {
        ("clean", "clean"): "no cue in training or in the images",
        ("everywhere", "everywhere"): "cue on half of every class",
        ("", "clean"): "cue on one class, model trained without it",
    }
    for pair, title in titles.items():
        for kind, version in product(KINDS, VERSIONS):
            group = [
                result for case, result in results
                if (case.twin, case.trained, case.kind) == (*pair, kind)
                and _version(result) == version
            ]  # fmt: skip
            if group:
                yield {
                    "kind": "–" if pair[0] == "clean" else kind, "what": title,
                    "version": version,
                    "seeds": ", ".join(str(result["case"]["seed"]) for result in group),
                    "searches": len(group),
                    "confirmed": sum(result["confirmed"] for result in group),
                    "tried": float(np.mean([result["tried"] for result in group])),
                }  # fmt: skip


def _version(result: dict[str, Any]) -> str:
    """Return the version of a search; older results hold their tests instead, or nothing."""
    return str(result.get("search", "specificity" if "tests" in result else "earlier"))


def method_rows(work: Path, results: list[tuple[Case, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield one row per method: AP of planted patches at rate .95, and the difference from ours."""
    triples = []
    for case, result in results:
        file = work / f"rivals-{case.file}"
        if file.exists() and scores_file(case, work).exists():
            triples.append((case, result, json.loads(file.read_text(encoding="utf-8"))))
    if not triples:
        return
    own_precisions, precisions_of = [], {name: [] for name in METHODS}
    for number, (case, _, rivals) in enumerate(triples):
        truth = fresh_planted(case)
        rng = np.random.default_rng(number)
        resamples = [np.arange(len(truth)), *rng.integers(len(truth), size=(DRAWS, len(truth)))]
        with np.load(scores_file(case, work)) as arrays:
            first_scores = arrays["first"]
        own_precisions.append(_resampled_ap(truth, first_scores, resamples))
        for name in METHODS:
            precisions_of[name].append(
                _resampled_ap(truth, np.array(rivals["methods"][name]["scores"]), resamples)
            )
    own_ap = np.mean(own_precisions, axis=0)
    ranks = [
        1 + [target for target, _ in result["classes"]].index(case.planted_class)
        for case, result, _ in triples
    ]
    yield {"method": "**discover_spurious**", "cases": len(triples), "ap": format_interval(own_ap),
           "difference": "–", "rank": float(np.mean(ranks))}  # fmt: skip
    for name in METHODS:
        method_ap = np.mean(precisions_of[name], axis=0)
        yield {
            "method": name, "cases": len(triples), "ap": format_interval(method_ap),
            "difference": format_interval(own_ap - method_ap, "+.3f"),
            "rank": float(np.mean([rivals["methods"][name]["rank"] for _, _, rivals in triples])),
        }  # fmt: skip


def _resampled_ap(truth: np.ndarray, scores: np.ndarray, resamples: list[np.ndarray]) -> np.ndarray:
    precisions = [average_precision_score(truth[rows].ravel(), scores[rows].ravel())
            if truth[rows].any() else np.nan for rows in resamples]  # fmt: skip
    return np.array(precisions)


def format_interval(values: np.ndarray, form: str = ".3f") -> str:
    """Return the first value, and the 95 % interval of the others, as text."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def loop_rows(work: Path) -> Iterator[dict[str, Any]]:
    """Yield one row per cue, and one of all: effect of suppressing the cue, in points."""
    results = [result for _, result in finished(work, "loop-")]
    for kind in (*KINDS, "all"):
        searches = [result for result in results if kind in (result["case"]["kind"], "all")]
        if not searches:
            continue
        accuracy = np.array([result["arms"]["none"]["groups"] for result in searches])
        worst = accuracy.argmin(axis=1)
        group_index = np.full(len(searches), GROUPS.index("others, cue"))
        yield {
            "kind": kind, "searches": len(searches),
            "clean": 100 * accuracy[:, GROUPS.index("others, no cue")].mean(),
            "others": 100 * accuracy[:, GROUPS.index("others, cue")].mean(),
            "worst": 100 * accuracy.min(axis=1).mean(),
            **{f"{group_name} {arm}": _gain(searches, arm, group)
               for group_name, group in (("others", group_index), ("worst", worst))
               for arm in ("found", "oracle")},
        }  # fmt: skip


def _gain(results: list[dict[str, Any]], arm: str, groups: np.ndarray) -> str:
    """Return the gain in one group per search, in points, with a bootstrap over images."""
    rng = np.random.default_rng(0)
    means = []
    for result, group_index in zip(results, groups, strict=True):
        in_group = np.array(result["group"]) == group_index
        is_right = [np.array(result["arms"][name]["right"])[in_group].astype(float)
                 for name in (arm, "none")]  # fmt: skip
        pairs = 100 * (is_right[0] - is_right[1])
        indices = rng.integers(len(pairs), size=(LOOP_DRAWS, len(pairs)))
        means.append(np.r_[pairs.mean(), pairs[indices].mean(axis=1)])
    return format_interval(np.mean(means, axis=0), "+.1f")


def make_table(caption: str, columns: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a table; `columns` has lines "key | title | format"."""
    column_list = []
    for line in columns.strip().splitlines():
        key, title, *form = [part.strip() for part in line.split("|")]
        column_list.append({"key": key, "title": title} | ({"format": form[0]} if form else {}))
    return {"caption": caption, "columns": column_list, "rows": rows}


def main() -> None:
    """Write the tables of the finished cases."""
    options = folders(__doc__, SEARCHES, WORK).parse_args()
    results = list(finished(options.results))
    head = f"Frozen embedded backbone with a linear head on {TRAIN} compositions of 13 classes, "
    head += f"{SEARCH} of them searched; class and images by seed"
    setting = f"{head} ({', '.join(map(str, SEEDS))}). "
    tables = {
        "spurious": make_table(
            setting
            + "The earlier search had no recurring marks, no test of specificity, and used images "
            f"whose object is hidden or not compact; {VERSION}: the present search. Recall: the "
            f"planted cue is among the first ones ranked (its class, and {OVERLAP:g} of "
            "intersection over union on fresh images with the cue); confirmed: the top-ranked cue "
            "is, and is of that class; false: confirmed cues of other classes. AP over all patches "
            "of 130 fresh images, and of the class's alone. Made by "
            "`python -m benchmarks.studies.spurious.search`.",
            """
            kind | cue
            rate | rate | .2f
            version | search
            seeds | seeds | d
            recall1 | recall@1 | .2f
            recall5 | recall@5 | .2f
            confirmed | confirmed | .2f
            rank | rank of the class | .1f
            ap | AP | .3f
            ap_class | AP, class | .3f
            iou | IoU | .2f
            precision10 | precision@10 | .2f
            false | false | .2f
            """,
            list(planted_rows(results)),
        ),
        "spurious_twins": make_table(
            f"{head}. Confirmed cues where there is none to find, at significance level .05 per "
            "search. The earlier search had no test of specificity and used images whose object is "
            f"hidden by a mark; specificity: before recurring marks were drawn; {VERSION}: the "
            "present search. Tried: candidates of a search that were more frequent in a class. "
            "Made by `python -m benchmarks.studies.spurious.search`.",
            """
            what | twin
            kind | cue
            version | search
            seeds | seeds
            searches | searches | d
            confirmed | confirmed, total | d
            tried | tried per search | .1f
            """,
            list(twin_rows(results)),
        ),
        "spurious_methods": make_table(
            setting
            + "Rate .95. AP of planted patches over all patches of the fresh images, mean over "
            "the finished cases, with 95 % bootstrap intervals over images; rank of the biased "
            "class among 13. Made by `python -m benchmarks.studies.spurious.other_methods`.",
            """
            method | method
            cases | cases | d
            ap | AP
            difference | ours − it
            rank | rank of the class | .1f
            """,
            list(method_rows(options.work, results)),
        ),
        "spurious_loop": make_table(
            setting
            + "Rate .95; attention is suppressed (strength 1, last half of the layers) at the "
            "first cue, or at its true patches (oracle), on 600 images of the test split "
            f"in four groups ({', '.join(GROUPS)}); the worst group is the one without prompt. "
            "Per cent "
            "right, and points gained with 95 % bootstrap intervals over images. Made by "
            "`python -m benchmarks.studies.spurious.loop`.",
            """
            kind | cue
            searches | searches | d
            clean | others, no cue | .1f
            others | others with the cue | .1f
            others found | cue suppressed
            others oracle | oracle
            worst | worst group | .1f
            worst found | cue suppressed
            worst oracle | oracle
            """,
            list(loop_rows(options.work)),
        ),
    }
    for name, table in tables.items():
        if table["rows"]:
            write_text(RESULTS_DIR / f"{name}.json", json.dumps(table, indent=1) + "\n")
            print(name, len(table["rows"]), "rows")


if __name__ == "__main__":
    main()
