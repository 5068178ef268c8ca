"""Which recurring marks are taken for the object: ``python -m …spurious.mark_objects``.

Development data: compositions whose objects repeat, with a tag or a watermark on most images of a
class, and photographs of CIFAR-10 with a moving mark. A significant mark is the planted one if it
covers the planted pixels, else it repeats an object. The table shows how many of each a rule drops:
by the rank of its place (`salience`), also by its part of the salient region, and by whether the
model recognises the class without it (`recognised_without`), as in `is_object`.

Every case has a file in ``--results``, so that an interrupted run resumes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from benchmarks import RESULTS_DIR
from semattn.spurious.marks.candidates import (
    MAX_RANK_AROUND,
    MAX_SALIENT,
    MIN_RECOGNISED,
    MIN_SALIENT,
    recognised_without,
    salience,
    significant_marks,
)
from semattn.spurious.search import Search
from semattn.utils.atomic_files import write_text

from ...datasets.marked_sets import load_clean
from . import marked_models, search
from .spurious_table import make_table
from .stored_cases import arguments, pending

RESULTS = RESULTS_DIR / "mark_objects"
ALPHA = 0.05
SEEDS = (0, 1)  # development seeds, of compositions
FIXED_KINDS = ("corner tag", "watermark")
RATE = 0.8
PHOTOGRAPHS = (("logo", 0.5), ("logo", 0.8), ("tag", 0.5), ("tag", 0.8))  # seed 0
MIN_PLANTED = 0.3  # part of the patches of a mark that show the planted one

Case = search.Case | marked_models.Case
Row = dict[str, Any]


def cases() -> Iterator[Case]:
    """Yield the cases."""
    yield from (search.Case(kind, seed, RATE) for seed in SEEDS for kind in FIXED_KINDS)
    yield from (marked_models.Case("CIFAR-10", kind, rate, 0) for kind, rate in PHOTOGRAPHS)


def load(case: Case, work: Path) -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """Return the model of a case, and images (n, H, W, 3), labels, and the planted pixels."""
    if isinstance(case, search.Case):
        items = list(search.items_of(case.data(search.SEARCH)))
        return (
            search.load_model(case, work), np.stack([item.image for item in items]),
            np.array([item.label for item in items]), np.stack([item.cue for item in items]),
        )  # fmt: skip
    images = marked_models.marked_at_rate(load_clean(case.dataset, case.seed), case, case.seed)
    return marked_models.train(case, work), images.images, images.labels, images.masks


def run(case: Case, work: Path) -> list[Row]:
    """Return what the rules look at, for each significant mark of a case."""
    model, images, labels, cue = load(case, work)
    planted = search.patches_of(cue) > search.MIN_COVERAGE
    pairs = list(zip(images, labels.tolist(), strict=True))
    rows = []
    with TemporaryDirectory(dir=work) as folder, Search(
        model, pairs, preprocessing=search.PREPROCESSING, batch_size=search.BATCH, seed=case.seed,
        cache_dir=folder,
    ) as searching:  # fmt: skip
        searching.extract()
        store = searching.store
        for mark in significant_marks(store, ALPHA)[0]:
            patches = mark.patches(store, mark.cue_rows)
            rank, part = salience(store, mark)
            rows.append({
                "target": mark.target, "images": len(mark.cue_rows), "rank": rank, "part": part,
                "planted": float((planted[mark.cue_rows] & patches).sum() / patches.sum()),
                "recognised": recognised_without(store, mark),
            })  # fmt: skip
    return rows


def is_dropped(row: Row, limit: float | None) -> bool:
    """Return whether a rule drops a mark.

    Parameters
    ----------
    row : of `run`
    limit : least relative probability of the class without the mark; 0 if the part of the salient
        region alone decides; None if the rank of the place alone does
    """
    if row["rank"] > MAX_RANK_AROUND or limit is None:
        return bool(row["rank"] > MAX_RANK_AROUND)
    if not limit or row["recognised"] is None:
        return bool(row["part"] > MAX_SALIENT)
    return bool(row["part"] > MIN_SALIENT and row["recognised"] < limit)


def summary(results: list[dict[str, Any]]) -> Iterator[Row]:
    """Yield the rows of the table: for each set, the marks that repeat objects and the planted."""
    for dataset in ("compositions", "CIFAR-10"):
        rows = [row for result in results if result["dataset"] == dataset for row in result["rows"]]
        for name, group in (
            ("repeated object", [row for row in rows if row["planted"] <= MIN_PLANTED]),
            ("planted", [row for row in rows if row["planted"] > MIN_PLANTED]),
        ):
            if group:
                limits = {"rank": None, "part": 0.0, "half": 0.5, "present": MIN_RECOGNISED}
                yield {
                    "images": dataset, "mark": name, "marks": len(group),
                    **{rule: sum(is_dropped(row, limit) for row in group)
                       for rule, limit in limits.items()},
                }  # fmt: skip


def write_table() -> None:
    """Write the table of the finished cases."""
    results = [json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json")]
    table = make_table(
        "Significant marks of development images, and how many of them each rule takes for the "
        f"object: the rank of its place by salience is above {MAX_RANK_AROUND:g}; or it is more "
        f"than {MAX_SALIENT:g} of the salient region; or, instead of this, it is more than "
        f"{MIN_SALIENT:g} and the class, without the mark, has less than .5 or {MIN_RECOGNISED:g} "
        "of the probability that it has in other images. Compositions (seeds 0 and 1): a tag or a "
        f"watermark on {RATE:g} of one class; CIFAR-10 (seed 0): moving logos and tags on .5 and "
        ".8. Planted: more than .3 of the patches of the mark show the planted one. Made by "
        "`python -m benchmarks.studies.spurious.mark_objects`.",
        f"""
        images | images
        mark | mark
        marks | marks | d
        rank | dropped by place | d
        part | or part > {MAX_SALIENT:g} | d
        half | or recognised < .5 | d
        present | or recognised < {MIN_RECOGNISED:g} | d
        """,
        list(summary(results)),
    )
    write_text(RESULTS_DIR / "mark_objects.json", json.dumps(table, indent=1) + "\n")


def main() -> None:
    """Run the cases that have no result yet, and write the table."""
    options = arguments(__doc__, RESULTS, "bench-mark-objects").parse_args()
    for case, path in pending(cases(), options):
        dataset = getattr(case, "dataset", "compositions")
        rows = run(case, options.work)
        search.keep(path, {"case": asdict(case), "dataset": dataset, "rows": rows})
        print(case.file, len(rows), "marks", flush=True)
    if options.results == RESULTS:
        write_table()


if __name__ == "__main__":
    main()
