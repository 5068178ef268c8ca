"""Rows and Parquet tables of an audit: one per explained image, one per skipped image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..density import Scene, count as keypoint_count
from ..errors import SemattnError
from ..explain import Explanation
from ..utils.atomic_files import atomic_write
from ..utils.validation import check_labels

TABLE, SKIPPED = "explain.parquet", "skipped.parquet"
GROUP = 65536  # rows per write
NONE = -1  # class number of an unknown class

Part = dict[str, np.ndarray]

# Columns and their types. The map of a row is in `maps` of the file of its unit.
COLUMNS = {
    "number": np.int64, "label": np.int32, "predicted": np.int32, "probability": np.float32,
    "keypoints": np.int32, "spread": np.float32, "x": np.float32, "y": np.float32,
    "on_empty": np.float32,
}  # fmt: skip


def explanation_rows(
    explanation: Explanation, numbers: Sequence[int], labels: Sequence[int | None]
) -> dict[str, np.ndarray]:
    """Return the columns of `COLUMNS`, each (B,), and `maps` (B, h, w) float16, each of sum 1.

    `spread` is exp(entropy) / P, the fraction of the patches that the map covers. `x` and `y` are
    its centre, from 0 (left, top) to 1. `on_empty` is its share on patches without a keypoint. All
    of them are NaN for a map of zeros.

    Raises
    ------
    LabelError
        For a label that is not a class of the model.
    """
    if explanation.output.has_answers:
        known_labels = [label for label in labels if label is not None]
        check_labels(
            known_labels, len(known_labels), explanation.output.answers(explanation.outputs)
        )
    maps = explanation.patch_map.cpu().double()
    flat = maps.flatten(1)
    parts = flat / flat.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(parts).sum(dim=1)
    centers = explanation.grid.centers()
    height, width = explanation.grid.image_size
    x, y = (
        parts @ ((centers + 0.5) / torch.tensor([width, height], dtype=torch.float64, device="cpu"))
    ).T
    keypoints = keypoint_count(
        Scene(explanation.images.pixels, explanation.keypoints, explanation.grid)
    )
    predicted, probability = _predicted(explanation)
    columns: dict[str, Any] = {
        "number": numbers,
        "label": [NONE if label is None else label for label in labels],
        "predicted": predicted, "probability": probability,
        "keypoints": [len(keypoints_of_image) for keypoints_of_image in explanation.keypoints],
        "spread": entropy.exp() / flat.shape[1], "x": x, "y": y,
        "on_empty": (parts * (keypoints == 0)).sum(dim=1),
    }  # fmt: skip
    rows = {name: np.asarray(columns[name], kind) for name, kind in COLUMNS.items()}
    return rows | {"maps": parts.nan_to_num(0.0).reshape(maps.shape).numpy().astype(np.float16)}


def _predicted(explanation: Explanation) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted answer of each image and its probability.

    The answer is `NONE` for a model without classes; the probability is NaN for an output that is
    not a percentage.
    """
    predicted = explanation.predicted()
    unknown = np.full(len(explanation), np.nan)
    if predicted is None:
        return np.full(len(explanation), NONE), unknown
    answers = predicted.cpu()
    probabilities = (
        explanation.output.probabilities(explanation.logits.cpu())
        if explanation.output.in_percent
        else None
    )
    if probabilities is None:
        return answers.numpy(), unknown
    return answers.numpy(), probabilities.gather(1, answers[:, None])[:, 0].numpy()


def concatenate_rows(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the concatenated columns of several batches; empty columns without batches."""
    if parts:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}


def check_parquet() -> None:
    """Raise SemattnError unless pyarrow is installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise SemattnError(
            "audit: expected pyarrow, which writes the tables, got none — "
            "pip install 'semattn[audit]'"
        ) from error


def write_tables(
    folder: Path, parts: Iterator[tuple[int, Part]], names: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """Write both tables, unit by unit, and return their summary.

    Parameters
    ----------
    folder : output folder
    parts : number and stored arrays of each unit
    names : image names, by number
    classes : class names of the model, () if it has none
    """
    import pyarrow as pa

    summary = _Summary()
    explain = pa.schema(
        [
            ("name", pa.string()), ("label", pa.int32()), ("predicted", pa.int32()),
            ("class", pa.string()), ("probability", pa.float32()), ("correct", pa.bool_()),
            *((name, pa.from_numpy_dtype(COLUMNS[name]))
              for name in ("keypoints", "spread", "x", "y", "on_empty")),
            ("unit", pa.int32()), ("row", pa.int32()),
        ]
    )  # fmt: skip
    skipped = pa.schema([("name", pa.string()), ("job", pa.string()), ("reason", pa.string())])
    with (
        _Writer(folder / TABLE, explain) as rows,
        _Writer(folder / SKIPPED, skipped) as skipped_rows,
    ):
        for unit, part in parts:
            summary.add(part)
            skipped_rows.add({name: part[f"skipped_{name}"].tolist() for name in skipped.names})
            rows.add(_rows(unit, part, names, classes))
    return summary.all()


def _rows(unit: int, part: Part, names: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    label, predicted = _none_if_unknown(part["label"]), _none_if_unknown(part["predicted"])
    floats = ("probability", "spread", "x", "y", "on_empty")
    return {
        "name": [names[number] for number in part["number"]],
        "label": label,
        "predicted": predicted,
        "class": [classes[value] if value is not None and value < len(classes) else None
                  for value in predicted],
        "correct": [None if None in (actual, expected) else actual == expected
                    for actual, expected in zip(label, predicted, strict=True)],
        "keypoints": part["keypoints"],
        **{name: [None if np.isnan(value) else value for value in part[name]] for name in floats},
        "unit": [unit] * len(label), "row": list(range(len(label))),
    }  # fmt: skip


def _none_if_unknown(values: np.ndarray) -> list[int | None]:
    return [None if value == NONE else value for value in values.tolist()]


class _Writer:
    """Parquet file that is written in groups of rows and appears when it is complete."""

    def __init__(self, file: Path, schema: Any) -> None:
        self.file, self.schema = file, schema
        self.waiting: list[Any] = []
        self.count = 0

    def __enter__(self) -> _Writer:
        from pyarrow import parquet

        self.atomic_stream = atomic_write(self.file)
        self.writer = parquet.ParquetWriter(self.atomic_stream.__enter__(), self.schema)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._flush()
            self.writer.close()
        finally:
            self.atomic_stream.__exit__(*error)

    def add(self, columns: dict[str, Any]) -> None:
        """Add rows: one column for each name of the schema."""
        import pyarrow as pa

        table = pa.table({name: columns[name] for name in self.schema.names}, schema=self.schema)
        self.waiting.append(table)
        self.count += len(table)
        if self.count >= GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.count:
            self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks())
        self.waiting, self.count = [], 0


class _Summary:
    """Counts and means over the units."""

    def __init__(self) -> None:
        self.counts = {"explained": 0, "labelled": 0, "correct": 0, "skipped": 0}
        self.sums: dict[str, list[float]] = {}

    def add(self, part: Part) -> None:
        """Add a unit."""
        has_both = (part["label"] != NONE) & (part["predicted"] != NONE)
        for name, count in (
            ("explained", len(part["number"])), ("labelled", has_both.sum()),
            ("correct", (has_both & (part["label"] == part["predicted"])).sum()),
            ("skipped", len(part["skipped_name"])),
        ):  # fmt: skip
            self.counts[name] += int(count)
        for name in ("probability", "keypoints", "spread", "on_empty"):
            values = part[name].astype(np.float64)
            total_and_count = self.sums.setdefault(name, [0.0, 0.0])
            total_and_count[0] += float(np.nansum(values))
            total_and_count[1] += float(np.isfinite(values).sum())

    def all(self) -> dict[str, Any]:
        """Return the counts and means, ready for JSON."""
        labelled = self.counts["labelled"]
        return {
            **self.counts,
            "accuracy": self.counts["correct"] / labelled if labelled else None,
            "means": {name: total / count if count else None
                      for name, (total, count) in self.sums.items()},
        }  # fmt: skip
