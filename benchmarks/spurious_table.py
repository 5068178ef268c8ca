"""The tables of planted cues from what `bench_spurious` and its companions have done.

    python -m benchmarks.spurious_table [--work …]

Means over the seeds that are done; how many those are stands in every row. Intervals are bootstraps
over the fresh images of all seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from semattn.utils.atomic_files import write_text

from .bench_spurious import (
    KINDS,
    OVERLAP,
    RATES,
    RESULTS,
    SEARCH,
    SEEDS,
    TRAIN,
    Case,
    arguments,
    cases,
    fresh_planted,
    scores_file,
)
from .bench_spurious_loop import GROUPS
from .spurious_rivals import METHODS

DRAWS = 200
LOOP_DRAWS = 5000


def done(folder: Path, start: str = "") -> Iterator[tuple[Case, dict[str, Any]]]:
    """The cases that have a result."""
    for case in cases():
        file = folder / f"{start}{case.file}"
        if file.exists():
            yield case, json.loads(file.read_text(encoding="utf-8"))


def planted(every: list[tuple[Case, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A row a kind and rate: found or not, and how well."""
    for rate in RATES:
        for kind in KINDS:
            found = [one for case, one in every
                     if (case.kind, case.rate) == (kind, rate)
                     and not case.twin + case.trained]  # fmt: skip
            if found:
                yield {"kind": kind, "rate": rate, "seeds": len(found), **_means(found)}


def _means(found: list[dict[str, Any]]) -> dict[str, Any]:
    def hit(one: dict[str, Any], first: int) -> bool:
        return any(top["class_right"] and top["iou"] >= OVERLAP for top in one["top"][:first])

    def rank(one: dict[str, Any]) -> float:
        order = [target for target, _ in one["classes"]]
        return 1 + order.index(one["case"]["on"])

    tops = [one["top"][0] if one["top"] else None for one in found]
    right = [bool(one["cues"] and one["cues"][0]["confirmed"] and top and top["class_right"])
             for one, top in zip(found, tops, strict=True)]  # fmt: skip
    other = [sum(cue["confirmed"] and cue["target"] != one["case"]["on"] for cue in one["cues"])
             for one in found]  # fmt: skip

    def mean(name: str) -> float:
        return float(np.mean([top[name] if top else 0.0 for top in tops]))

    return {
        "recall1": float(np.mean([hit(one, 1) for one in found])),
        "recall5": float(np.mean([hit(one, 5) for one in found])),
        "confirmed": float(np.mean(right)), "rank": float(np.mean([rank(one) for one in found])),
        "ap": mean("ap"), "ap_class": mean("ap_class"), "iou": mean("iou"),
        "precision10": mean("precision10"), "false": float(np.mean(other)),
    }  # fmt: skip


def twins(every: list[tuple[Case, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A row a twin: how many cues were confirmed where none is to be found."""
    said = {
        ("clean", "clean"): "no cue in training, none in the images",
        ("everywhere", "everywhere"): "on half of every class",
        ("", "clean"): "on one class, model trained without",
    }
    for pair, what in said.items():
        for kind in KINDS:
            found = [one for case, one in every if (case.twin, case.trained, case.kind) ==
                     (*pair, kind)]  # fmt: skip
            if found:
                yield {
                    "kind": "–" if pair[0] == "clean" else kind, "what": what,
                    "searches": len(found), "confirmed": sum(one["confirmed"] for one in found),
                    "tried": float(np.mean([one["tried"] for one in found])),
                }  # fmt: skip


def methods(work: Path, every: list[tuple[Case, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A row a method: AP of planted patches over fresh images at rate .95, ours less it."""
    both = []
    for case, one in every:
        file = work / f"rivals-{case.file}"
        if file.exists() and scores_file(case, work).exists():
            both.append((case, one, json.loads(file.read_text(encoding="utf-8"))))
    if not both:
        return
    ours, others = [], {name: [] for name in METHODS}
    for number, (case, _, rivals) in enumerate(both):
        truth = fresh_planted(case)
        rng = np.random.default_rng(number)
        drawn = [np.arange(len(truth)), *rng.integers(len(truth), size=(DRAWS, len(truth)))]
        with np.load(scores_file(case, work)) as kept:
            top = kept["first"]
        ours.append(_draws(truth, top, drawn))
        for name in METHODS:
            others[name].append(_draws(truth, np.array(rivals["methods"][name]["scores"]), drawn))
    mine = np.mean(ours, axis=0)
    ranks = [1 + [t for t, _ in one["classes"]].index(case.on) for case, one, _ in both]
    yield {"method": "**discover_spurious**", "cases": len(both), "ap": _said(mine),
           "difference": "–", "rank": float(np.mean(ranks))}  # fmt: skip
    for name in METHODS:
        theirs = np.mean(others[name], axis=0)
        yield {
            "method": name, "cases": len(both), "ap": _said(theirs),
            "difference": _said(mine - theirs, "+.3f"),
            "rank": float(np.mean([one["methods"][name]["rank"] for _, _, one in both])),
        }  # fmt: skip


def _draws(truth: np.ndarray, scores: np.ndarray, drawn: list[np.ndarray]) -> np.ndarray:
    made = [average_precision_score(truth[rows].ravel(), scores[rows].ravel())
            if truth[rows].any() else np.nan for rows in drawn]  # fmt: skip
    return np.array(made)


def _said(values: np.ndarray, form: str = ".3f") -> str:
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def loop(work: Path) -> Iterator[dict[str, Any]]:
    """A row a kind, and one of all: what a prompt changes, in points, against none."""
    every = [one for _, one in done(work, "loop-")]
    for kind in (*KINDS, "all"):
        found = [one for one in every if kind in (one["case"]["kind"], "all")]
        if not found:
            continue
        plain = np.array([one["arms"]["none"]["groups"] for one in found])
        worst = plain.argmin(axis=1)
        others = np.full(len(found), GROUPS.index("others, cue"))
        yield {
            "kind": kind, "searches": len(found),
            "clean": 100 * plain[:, GROUPS.index("others, no cue")].mean(),
            "others": 100 * plain[:, GROUPS.index("others, cue")].mean(),
            "worst": 100 * plain.min(axis=1).mean(),
            **{f"{where} {arm}": _gain(found, arm, group)
               for where, group in (("others", others), ("worst", worst))
               for arm in ("found", "oracle")},
        }  # fmt: skip


def _gain(found: list[dict[str, Any]], arm: str, groups: np.ndarray) -> str:
    """Points that a prompt adds in one group a search, images drawn anew within each."""
    rng = np.random.default_rng(0)
    means = []
    for one, number in zip(found, groups, strict=True):
        chosen = np.array(one["group"]) == number
        right = [np.array(one["arms"][name]["right"])[chosen].astype(float)
                 for name in (arm, "none")]  # fmt: skip
        pairs = 100 * (right[0] - right[1])
        drawn = rng.integers(len(pairs), size=(LOOP_DRAWS, len(pairs)))
        means.append(np.r_[pairs.mean(), pairs[drawn].mean(axis=1)])
    return _said(np.mean(means, axis=0), "+.1f")


def _table(caption: str, columns: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`columns` are lines "key | title | format"."""
    made = []
    for line in columns.strip().splitlines():
        key, title, *form = [part.strip() for part in line.split("|")]
        made.append({"key": key, "title": title} | ({"format": form[0]} if form else {}))
    return {"caption": caption, "columns": made, "rows": rows}


def main() -> None:
    """Write what there is to write."""
    options = arguments(__doc__).parse_args()
    every = list(done(options.results))
    setting = (
        f"Frozen embedded backbone with a linear head on {TRAIN} compositions of 13 classes, "
        f"{SEARCH} of them searched; class and images by seed ({', '.join(map(str, SEEDS))}). "
    )
    tables = {
        "spurious": _table(
            setting + "Recall: the planted cue is among the first ones ranked (its class, and "
            f"{OVERLAP:g} of intersection over union on fresh images that bear it); confirmed: the "
            "first one is, and is of that class; false: confirmed cues of other classes. AP over "
            "all patches of 130 fresh images, and of the class's alone. Made by "
            "`python -m benchmarks.bench_spurious`.",
            """
            kind | cue
            rate | rate | .2f
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
            list(planted(every)),
        ),
        "spurious_twins": _table(
            setting + "Cues that were confirmed where there is none to find, at level .05 of a "
            "search; tried: candidates of a search that were more frequent in a class. Made by "
            "`python -m benchmarks.bench_spurious`.",
            """
            what | twin
            kind | cue
            searches | searches | d
            confirmed | confirmed in all | d
            tried | tried in one | .1f
            """,
            list(twins(every)),
        ),
        "spurious_methods": _table(
            setting + "Rate .95. AP of planted patches over all patches of the fresh images, mean "
            "over the cases done, with 95 % bootstrap intervals over images; rank of the biased "
            "class among 13. Made by `python -m benchmarks.spurious_rivals`.",
            """
            method | method
            cases | cases | d
            ap | AP
            difference | ours less it
            rank | rank of the class | .1f
            """,
            list(methods(options.work, every)),
        ),
        "spurious_loop": _table(
            setting
            + "Rate .95; attention is led away (strength 1, last half of the layers) from the "
            "first cue found, or from the true patches (oracle), on 600 images of the test split "
            f"in four groups ({', '.join(GROUPS)}); the worst group is that of no prompt. Per cent "
            "right, and points gained with 95 % bootstrap intervals over images. Made by "
            "`python -m benchmarks.bench_spurious_loop`.",
            """
            kind | cue
            searches | searches | d
            clean | others, no cue | .1f
            others | others with the cue | .1f
            others found | cue found overlooked
            others oracle | oracle
            worst | worst group | .1f
            worst found | cue found overlooked
            worst oracle | oracle
            """,
            list(loop(options.work)),
        ),
    }
    for name, made in tables.items():
        if made["rows"]:
            write_text(RESULTS / f"{name}.json", json.dumps(made, indent=1) + "\n")
            print(name, len(made["rows"]), "rows")


if __name__ == "__main__":
    main()
