"""Files and runs in every form: ``python -m tests.fuzz.reliability_files [--area NAME]``.

Each case has an expected value. For a file, it is the content that was written (a mask, pixels,
weights, a list of paths and labels), independent of encoding, wrapping and form. For a run, it is
the result of a run from scratch in a new folder, independent of earlier interruptions, edits, moves
and repetitions. The outcome of a case is equal, refused (in one line) or different. The result is
written to benchmarks/results/reliability_files.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch

from benchmarks import RESULTS_DIR
from semattn.data import open_source
from semattn.errors import SemattnError
from semattn.images import read, read_mask
from semattn.interrelation import analysis_runner as study
from semattn.utils.atomic_files import write_text
from semattn.zoo import load
from tests import (
    archive_forms,
    checkpoint_wrappings,
    edited_data,
    edited_trees,
    list_forms,
    mask_encodings,
    picture_encodings,
)

RESULTS = RESULTS_DIR / "reliability_files.json"
EQUAL, REFUSED, DIFFERENT = "equal", "refused", "different"
EDGES = ("JPEG",)  # encodings that change the pixels on the edge of a mask
LEVEL = 1  # of 255: largest difference between the pixels of two depths
CLASSES = 5

Case = Callable[[int, Path], "tuple[str, str]"]


def _masks(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of a mask in an encoding, and the name of the encoding."""
    rng, inside = np.random.default_rng(seed), mask_encodings.shape(seed)
    encodings = mask_encodings.encodings | mask_encodings.ambiguous
    name = list(encodings)[seed % len(encodings)]
    path = encodings[name](inside, rng, folder)
    try:
        mask = read_mask(path, (inside.shape[1], inside.shape[0])).inside
    except SemattnError:
        return REFUSED if name in mask_encodings.ambiguous else DIFFERENT, name
    if name in mask_encodings.ambiguous:
        return DIFFERENT, name
    if any(edge in name for edge in EDGES):
        off_rim = ~(mask_encodings.rim(inside) | mask_encodings.rim(~inside))
        return _outcome(np.array_equal(mask[off_rim], inside[off_rim])), name
    return _outcome(np.array_equal(mask, inside)), name


def _pictures(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of a picture in an encoding, and the name of the encoding."""
    encodings = picture_encodings.encodings | picture_encodings.colour_encodings
    name = list(encodings)[seed % len(encodings)]
    levels = picture_encodings.picture(seed, colour=name in picture_encodings.colour_encodings)
    pixels = np.asarray(read(encodings[name](levels, folder))).astype(int)
    expected = levels if levels.ndim == 3 else levels[..., None]
    return _outcome(np.abs(pixels - expected).max() <= LEVEL), name


@cache
def _weights() -> tuple[tuple[dict[str, torch.Tensor], ...], tuple[torch.Tensor, ...]]:
    """Return two states of a small model, and the logits of each for an image."""
    states, logits = [], []
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    for seed in range(2):
        torch.manual_seed(seed)
        model = timm.create_model("test_vit", num_classes=CLASSES).eval()
        states.append(model.state_dict())
        logits.append(model(image).detach())
    return tuple(states), (image, *logits)


def _checkpoints(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of weights in a wrapping; of several sets, also of the refusal."""
    (first, second), (image, expected, _) = _weights()
    wrapping = checkpoint_wrappings.random_wrapping(seed, folder, first, second)
    if wrapping.choices:
        try:
            load("test_vit", checkpoint=wrapping.file)
        except SemattnError as error:
            if not all(label in str(error) for label in wrapping.choices):
                return DIFFERENT, str(wrapping)
        else:
            return DIFFERENT, str(wrapping)
    logits = load("test_vit", checkpoint=wrapping.given)(image)
    if not torch.equal(logits, expected):
        return DIFFERENT, str(wrapping)
    return REFUSED if wrapping.choices else EQUAL, str(wrapping)


def _lists(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of a list in a form, and the name of the form."""
    form, file, paths, labels = list_forms.random_list(seed, folder)
    source = open_source(file, list_forms.NAMES, CLASSES)
    return _outcome((source.names, source.data.labels) == (paths, labels)), str(form)


def _archives(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of an archive in a form, and the name of the form."""
    case = archive_forms.random_archive(seed, folder)
    source = open_source(case.file, archive_forms.NAMES, len(archive_forms.NAMES))
    same = (source.names, source.data.labels) == (case.names, case.labels)
    return _outcome(same), str(case.form)


def _audits(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of an audit after a random history of stops and edits."""
    differences = edited_trees.audit_case(folder, seed)
    return _outcome(not differences), "; ".join(differences)


def _searches(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of a search for cues after a random history of stops and edits."""
    differences = edited_trees.search_case(folder, seed)
    return _outcome(not differences), "; ".join(differences)


def _benchmarks(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of a benchmark that resumes after an edit."""
    kind = edited_data.EDITS[seed % len(edited_data.EDITS)]
    stop = (None, 1, 2, 3)[seed % 4]
    again, scratch, _ = edited_data.bench_case(folder, kind, seed, stop)
    return _outcome(edited_data.same_bench(again, scratch)), f"{kind}, stopped at {stop}"


def _analyses(seed: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of an analysis that resumes after an edit."""
    kind = edited_data.EDITS[seed % len(edited_data.EDITS)]
    stop = 1 + seed % 4
    with mock.patch.object(study, "BATCHES_BETWEEN_SAVES", 1):
        again, scratch, _ = edited_data.analysis_case(folder, kind, seed, stop)
    return _outcome(edited_data.same_analysis(again, scratch)), f"{kind}, stopped at {stop}"


AREAS: dict[str, tuple[Case, int]] = {
    "masks in all encodings": (_masks, 600),
    "pictures of all depths": (_pictures, 400),
    "checkpoints in all wrappings": (_checkpoints, 300),
    "lists in all forms": (_lists, 400),
    "archives in all forms": (_archives, 300),
    "audits, stopped and edited": (_audits, 150),
    "searches, stopped and edited": (_searches, 20),
    "benchmarks, stopped and edited": (_benchmarks, 120),
    "analyses, stopped and edited": (_analyses, 120),
}  # fmt: skip


def _outcome(is_equal: Any) -> str:
    return EQUAL if is_equal else DIFFERENT


def measured(area: str, cases: int, first: int = 0) -> dict[str, Any]:
    """Run the cases of one area.

    Parameters
    ----------
    area : a name in `AREAS`
    cases : number of cases
    first : seed of the first case

    Returns
    -------
    Counts of the outcomes, and descriptions of the cases with outcome "different".
    """
    run, _ = AREAS[area]
    counts: Counter[str] = Counter()
    different = []
    start = time.monotonic()
    for seed in range(first, first + cases):
        folder = Path(tempfile.mkdtemp(prefix="semattn-files-"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome, description = run(seed, folder)
        except Exception as error:  # noqa: BLE001 — an error where a value was expected
            outcome, description = DIFFERENT, f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        counts[outcome] += 1
        if outcome == DIFFERENT:
            different.append(f"seed {seed}: {description}"[:300])
    seconds = round(time.monotonic() - start)
    numbers = {name: counts[name] for name in (EQUAL, REFUSED, DIFFERENT)}
    return {"area": area, "cases": cases, **numbers, "seconds": seconds, "which": different}


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of the areas, with a row of totals."""
    numbers = ("cases", EQUAL, REFUSED, DIFFERENT)
    total = {"area": "all"} | {name: sum(row[name] for row in rows) for name in numbers}
    return {
        "columns": [
            {"key": "area", "title": "cases of"},
            *({"key": name, "title": name, "format": ","} for name in numbers),
        ],
        "rows": [*rows, total],
        "caption": (
            "Equal: the value that was written, or the result of a run from scratch in a fresh "
            "folder; refused: by one line, where a file has two readings or several sets of "
            "weights; different: anything else. Made by `python -m tests.fuzz.reliability_files`."
        ),
    }


def main() -> None:
    """Run all areas, or one; the rows of the others are kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--area", choices=AREAS, help="run only this area")
    parser.add_argument("--cases", type=int, help="number of cases per area")
    options = parser.parse_args()
    torch.set_num_threads(1)
    previous_rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {row["area"]: row for row in previous_rows if row["area"] in AREAS}
    for area, (_, usual) in AREAS.items():
        if options.area in (None, area):
            rows[area] = row = measured(area, options.cases or usual)
            print(row, flush=True)
            ordered = [rows[name] for name in AREAS if name in rows]
            write_text(RESULTS, json.dumps(result(ordered), indent=1) + "\n")
    sys.exit(any(row[DIFFERENT] for row in rows.values()))


if __name__ == "__main__":
    main()
