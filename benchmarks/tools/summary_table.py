"""Main results of the repository, for README.md: each row is read from the result that it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks import RESULTS_DIR

Rows = list[dict[str, Any]]
HILRP = "AttnLRP, hilrp's"  # row of the table of maps


def _rows(name: str) -> Rows:
    """Return the rows of a result; empty if it does not exist."""
    path = RESULTS_DIR / f"{name}.json"
    if not path.exists():
        return []
    rows: Rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def _row(rows: Rows, **values: Any) -> dict[str, Any]:
    """Return the row with these values.

    Examples
    --------
    >>> _row([{"arm": "a", "x": 1}, {"arm": "b", "x": 2}], arm="b")["x"]
    2
    """
    return next(row for row in rows if values.items() <= row.items())


def _maps(explained: Rows) -> tuple[str, str]:
    """Return the comparison with other maps, and with relevance propagation."""

    def ahead(name: str, metric: str) -> str:
        return str(_row(explained, name=name)[f"explain_test ours {metric}"])

    ours = _row(explained, name="**SIFTPatchInterrelation**")["explain_test ap"]
    refined = ahead("generic relevance with affinity refinement", "ap")
    object_text = (
        f"Average precision (AP) of the object's pixels: {ours}. Compared with rollout: "
        f"{ahead('rollout', 'ap')}; with Grad-CAM: {ahead('Grad-CAM', 'ap')}; with generic "
        f"relevance and the same affinity refinement: {refined}, **against us**"
    )
    deletion_text = (
        "Those that relevance propagation names: `attn-lrp`. Insertion − deletion of our default "
        f"map, compared with hilrp's AttnLRP: {ahead(HILRP, 'insertion-deletion')}, **against us**"
    )
    return object_text, deletion_text


def _marks() -> str:
    """Return the comparison of matching with geometry and without, with ORB, and with keys."""
    controls = _rows("marks_controls")

    def difference(images: str, method: str, rate: float = 0.2) -> str:
        row = _row(controls, set=images, rate=rate, method=method)
        return str(row["difference recall1"])

    return (
        "With a mark on 20 % of a class of composed pictures, SIFT with a check of the geometry "
        f"finds more of the marks. Recall, compared with ORB: "
        f"{difference('compositions', 'ORB')}; with SIFT without the check: "
        f"{difference('compositions', 'no geometry')}; with grey patches at its keypoints: "
        f"{difference('compositions', 'pixel patches')}; with the keys of the model's patches, on "
        f"50 %: {difference('compositions', 'keys, 224 px', 0.5)}. On photographs of CIFAR-10: "
        f"{difference('CIFAR-10', 'ORB')} and "
        f"{difference('CIFAR-10', 'no geometry')}, **no difference**"
    )


def _pretraining() -> str:
    """Return the comparison of SIFT as a target with pixels and HOG."""
    targets = _rows("pretraining_targets")
    if not targets:
        return "Not measured yet"
    sift = _row(targets, arm="SIFT")
    hog = _row(_rows("pretraining_targets_controls"), arm="HOG")
    return (
        "As the target of a masked autoencoder, compared with pixels: "
        f"{_interval(sift['knn_difference'])} points of k-NN and "
        f"{_interval(sift['linear_difference'])} of linear probe; compared with HOG: "
        f"{_interval(hog['knn'])} and {_interval(hog['linear'])}. As a place for masks: "
        "**nothing measurable**"
    )


def _interval(text: str) -> str:
    """Return a difference with its interval, without the number of seeds.

    Examples
    --------
    >>> _interval("+1.0 [+0.5, +1.5], 5 of 5")
    '+1.0 [+0.5, +1.5]'
    """
    return text.split("]", maxsplit=1)[0] + "]"


def _cost() -> str:
    """Return the time and the memory of a map, relative to forward and backward."""
    attribution = _rows("attribution")
    parts = []
    for tokens in (197, 1370):
        row = _row(attribution, tokens=tokens, way="SIFTPatchInterrelation, row form")
        parts.append(
            f"{row['time_ratio']:.2f} × the time and {row['memory_ratio']:.2f} × the memory of "
            f"forward + backward at {tokens:,} tokens"
        )
    return "; ".join(parts)


def summary(explained: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the table of the main results.

    Parameters
    ----------
    explained : builder of the table of maps on both test sets
    """
    maps = explained()["rows"]
    without = "the same without SIFT (model-only)"
    better, deleted = _maps(maps)
    sift = _row(maps, name=without)["explain_test ours ap"]
    rows = [
        ("Which map shows the object best?", better, "results.md"),
        ("Which patches change the score most?", deleted, "results.md"),
        ("What does SIFT add to the map?",
         f"AP with SIFT, compared with none: {sift}, **nothing measurable**", "results.md"),
        ("What does SIFT add to the search for marks?", _marks(),
         "spurious-studies.md"),
        ("What does SIFT add to pre-training?", _pretraining(), "pretraining-studies.md"),
        ("What does a map cost?", _cost(), "explainers.md#time-and-memory"),
    ]  # fmt: skip
    return {
        "columns": [
            {"key": "question", "title": "question"},
            {"key": "answer", "title": "result, with 95 % intervals"},
            {"key": "page", "title": "read on"},
        ],
        "rows": [
            {"question": question, "answer": answer,
             "page": f"[{page.split('.')[0]}](docs/{page})"}
            for question, answer, page in rows
        ],
        "caption": "Test sets were opened once. Rendered from `benchmarks/results`.",
    }  # fmt: skip
