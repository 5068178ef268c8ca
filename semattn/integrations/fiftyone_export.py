"""Maps as a data set of FiftyOne, in its format on disk. FiftyOne is not imported.

The format is `fiftyone.types.FiftyOneDataset`: `data/` with the pictures, `fields/heat_map/` with
the maps, `samples.json` with a document for each picture, and `metadata.json` with the types of the
fields. Documents are in the extended JSON of MongoDB.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..audit.tables import COLUMNS, NONE, explanation_rows
from ..explain import Explanation
from ..spurious import SpuriousCue
from ..utils.atomic_files import atomic_write, write_text
from ..utils.text import to_json_value

VERSION = "1.0.0"  # of FiftyOne; newer releases migrate it when they read it
_FIELDS = "fiftyone.core.fields"
_LABELS = "fiftyone.core.labels"
_KINDS = {
    "id": "ObjectIdField", "text": "StringField", "int": "IntField", "float": "FloatField",
    "time": "DateTimeField", "array": "ArrayField", "list": "ListField",
    "range": "HeatmapRangeField", "vector": "VectorField", "document": "EmbeddedDocumentField",
}  # fmt: skip
# Fields of the documents inside a sample: name to kind.
_LABEL = {"id": "id", "tags": "list"}
_DOCUMENTS = {
    "metadata": ("fiftyone.core.metadata.ImageMetadata", {
        "size_bytes": "int", "mime_type": "text", "width": "int", "height": "int",
        "num_channels": "int",
    }),
    "heat_map": (f"{_LABELS}.Heatmap", _LABEL | {
        "map": "array", "map_path": "text", "range": "range", "maximum": "float",
    }),
    "prediction": (f"{_LABELS}.Classification", _LABEL | {
        "label": "text", "confidence": "float", "logits": "vector",
    }),
}  # fmt: skip
_DOCUMENTS["ground_truth"] = _DOCUMENTS["prediction"]
_MEASURES = [
    name for name in COLUMNS if name not in ("number", "label", "predicted", "probability")
]
_PLAIN = {
    "last_modified_at": "time", "_media_type": "text", "id": "id", "filepath": "text",
    "_dataset_id": "id", "tags": "list", "created_at": "time", "_rand": "float", "source": "text",
    "explained": "text", **{name: "int" if name == "keypoints" else "float" for name in _MEASURES},
}  # fmt: skip
_ITEMS = {"list": "StringField", "range": "FloatField"}  # kind to the kind of its items


def write_fiftyone(
    explanations: Explanation | Iterable[Explanation],
    out_dir: str | os.PathLike[str],
    *,
    labels: Sequence[int | None] | None = None,
    cues: Sequence[SpuriousCue] = (),
    name: str = "semattn",
) -> Path:
    """Write explanations as a data set that FiftyOne imports.

    Load it by ``fiftyone.Dataset.from_dir(out_dir, dataset_type=fiftyone.types.FiftyOneDataset)``.

    Parameters
    ----------
    explanations : an explanation, or several, as from `explain_batches`
    out_dir : new or empty folder
    labels : class of each image, in the order of the explanations; None if unknown
    cues : cues of a search, such as `Discovery.confirmed`; an image that shows one has the tag
        "cue NUMBER: CLASS". Each needs its model
    name : name of the data set

    Returns
    -------
    The folder. Each sample has the picture as the model sees it; `source`, the name of its file;
    `heat_map`, whose values are those of the picture times `maximum` / 255; `prediction`,
    `ground_truth` and `explained`, the explained class; the columns `keypoints`, `spread`, `x`, `y`
    and `on_empty` of an audit; and tags.

    Raises
    ------
    ValueError
        If the folder is not empty, or the labels are not as many as the images.

    Notes
    -----
    Of a signed map, the positive part is written. `metadata.json` is written last: FiftyOne does
    not read a folder without it.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"out_dir: expected a new or empty folder, got {out_dir}")
    batches = [explanations] if isinstance(explanations, Explanation) else explanations
    try:
        _write(batches, out_dir, labels, cues, name)
    except BaseException:
        for folder in ("data", "fields"):
            shutil.rmtree(out_dir / folder, ignore_errors=True)
        raise
    return out_dir


def _write(
    batches: Iterable[Explanation],
    out_dir: Path,
    labels: Sequence[int | None] | None,
    cues: Sequence[SpuriousCue],
    name: str,
) -> None:
    for folder in ("data", "fields/heat_map"):
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    count = 0
    manifest: dict[str, Any] = {}
    now = {"$date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
    with atomic_write(out_dir / "samples.json") as stream:
        stream.write(b'{"samples": [')
        for explanation in batches:
            batch_labels = None if labels is None else labels[count : count + len(explanation)]
            if batch_labels is not None and len(batch_labels) < len(explanation):
                raise ValueError(
                    f"labels: expected one for each image, got {len(labels or ())} — "
                    "give None for an unknown class"
                )
            manifest = manifest or explanation.manifest
            for sample in _samples(explanation, batch_labels, cues, out_dir, count):
                sample |= {"_id": _new_id(), "created_at": now, "last_modified_at": now}
                text = json.dumps(sample, ensure_ascii=False, allow_nan=False)
                stream.write(f"{',' if count else ''}\n{text}".encode())
                count += 1
        if labels is not None and len(labels) != count:
            raise ValueError(f"labels: expected {count}, one for each image, got {len(labels)}")
        stream.write(b"\n]}\n")
    document = _dataset_document(name, to_json_value(manifest), now)
    write_text(out_dir / "metadata.json", json.dumps(document, ensure_ascii=False))


def _samples(
    explanation: Explanation,
    labels: Sequence[int | None] | None,
    cues: Sequence[SpuriousCue],
    out_dir: Path,
    start: int,
) -> Iterable[dict[str, Any]]:
    """Write the pictures of a batch, and yield its documents."""
    rows = explanation_rows(
        explanation, range(len(explanation)), labels or [None] * len(explanation)
    )
    shown = [
        (f"cue {number}: {cue.name}", (cue.matches(explanation.images.inputs) > 0.5).any(dim=1))
        for number, cue in enumerate(cues, 1)
    ]
    heat_maps = explanation.heat_map.detach().cpu().double().clamp(min=0)
    for index, source in enumerate(explanation.images.names):
        file = f"{start + index:06d}.png"
        pixels, heat_map = explanation.images.pixels[index], heat_maps[index]
        maximum = float(heat_map.max())
        levels = (255 * heat_map / (maximum or 1.0)).round().numpy().astype(np.uint8)
        Image.fromarray(pixels).save(out_dir / "data" / file)
        Image.fromarray(levels).save(out_dir / "fields" / "heat_map" / file)
        sample: dict[str, Any] = {
            "filepath": f"data/{file}",
            "tags": [tag for tag, matches in shown if bool(matches[index])],
            "metadata": {
                "_cls": "ImageMetadata",
                "size_bytes": (out_dir / "data" / file).stat().st_size,
                "mime_type": "image/png",
                "width": pixels.shape[1], "height": pixels.shape[0], "num_channels": 3,
            },
            "_media_type": "image",
            "_rand": secrets.randbelow(2**53) / 2**53,
            "source": source,
            "explained": _explained(explanation, index),
            "heat_map": _label("Heatmap") | {
                "map_path": f"fields/heat_map/{file}", "range": [0.0, 255.0], "maximum": maximum,
            },
            **{column: to_json_value(rows[column][index]) for column in _MEASURES},
        }  # fmt: skip
        for field, column in (("prediction", "predicted"), ("ground_truth", "label")):
            if (answer := int(rows[column][index])) != NONE:
                label = {"label": explanation.answer_label(answer)}
                if field == "prediction":
                    label["confidence"] = to_json_value(rows["probability"][index])
                sample[field] = _label("Classification") | label
        yield sample


def _explained(explanation: Explanation, index: int) -> str:
    """Return the explained class, or what is explained in place of a class."""
    answer = explanation.target_answer(index)
    return explanation.target_description if answer is None else explanation.answer_label(answer)


def _label(kind: str) -> dict[str, Any]:
    return {"_id": _new_id(), "_cls": kind, "tags": []}


def _new_id() -> dict[str, str]:
    return {"$oid": secrets.token_hex(12)}


def _dataset_document(name: str, info: Any, now: dict[str, str]) -> dict[str, Any]:
    """Return the document of the data set: names and types of its fields."""
    fields = [_field(field, kind, now) for field, kind in _PLAIN.items()]
    for field, (document, inner) in _DOCUMENTS.items():
        fields.append(_field(field, "document", now) | {
            "embedded_doc_type": document,
            "fields": [_field(key, kind, now) for key, kind in inner.items()],
        })  # fmt: skip
    empty: dict[str, Any] = {
        key: {} for key in (
            "group_media_types", "classes", "mask_targets", "skeletons", "annotation_runs",
            "brain_methods", "evaluations", "runs",
        )
    } | {
        key: [] for key in (
            "tags", "default_classes", "frame_fields", "saved_views", "workspaces",
        )
    }  # fmt: skip
    return {
        "_id": _new_id(), "name": name, "slug": name, "version": VERSION, "created_at": now,
        "last_modified_at": now, "last_loaded_at": now, "persistent": False,
        "media_type": "image", "info": {"semattn": info}, "default_mask_targets": {},
        "app_config": {
            "grid_media_field": "filepath", "media_fallback": False,
            "media_fields": ["filepath"], "modal_media_field": "filepath", "plugins": {},
        },
        "sample_fields": fields, **empty,
    }  # fmt: skip


def _field(name: str, kind: str, now: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name, "ftype": f"{_FIELDS}.{_KINDS[kind]}", "embedded_doc_type": None,
        "subfield": f"{_FIELDS}.{_ITEMS[kind]}" if kind in _ITEMS else None, "fields": [],
        "db_field": "_id" if name == "id" else name, "description": None, "info": None,
        "read_only": name in ("created_at", "last_modified_at"), "created_at": now,
    }  # fmt: skip
