"""Columns with explanations for `datasets.Dataset.map`. The library datasets is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..attention.target import TargetLike
from ..audit.tables import COLUMNS, NONE, explanation_rows
from ..explain import Explainer

# A row of an audit without its number and label, and the map.
_ADDED = (*(name for name in COLUMNS if name not in ("number", "label")), "class", "patch_map")


def explain_columns(
    batch: Mapping[str, Any],
    explainer: Explainer,
    *,
    image_column: str = "image",
    label_column: str | None = None,
    target: TargetLike = None,
    prefix: str = "map_",
) -> dict[str, Any]:
    """Return the columns that explain the images of a batch, for `datasets.Dataset.map`.

    Call it as ``dataset.map(explain_columns, batched=True, batch_size=16,
    fn_kwargs={"explainer": explainer})``.

    Parameters
    ----------
    batch : columns of a batch of the data set
    explainer : an explainer that was created with a model
    image_column : column of the images: pictures, or the inputs of the model
    label_column : column of class numbers of the model, which are then explained; None explains
        `target`
    target : as for `Explainer.attribute`; None explains the predicted classes
    prefix : start of the names of the new columns

    Returns
    -------
    dict
        The columns of an audit: `predicted` (int32; -1 for an output without classes), `class` (its
        name, or ""), `probability` (float32; NaN for an output that is not a percentage),
        `keypoints` (int32), `spread`, `x`, `y` and `on_empty` (float32; 1 − `on_empty` is the
        fraction of the map on patches with keypoints); and `patch_map`, (h, w) float32 of sum 1.

    Raises
    ------
    ValueError
        If the data set lacks a column, or has one of the new columns.

    Examples
    --------
    >>> import timm, torch
    >>> from semattn import SIFTPatchInterrelation
    >>> explainer = SIFTPatchInterrelation(timm.create_model("test_vit", img_size=64))
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> columns = explain_columns({"image": x}, explainer)
    >>> sorted(columns)[:4], len(columns["map_patch_map"])
    (['map_class', 'map_keypoints', 'map_on_empty', 'map_patch_map'], 2)
    """
    for column in filter(None, (image_column, label_column)):
        if column not in batch:
            raise ValueError(f"batch: expected the column {column!r}, got {', '.join(batch)}")
    if existing := [f"{prefix}{name}" for name in _ADDED if f"{prefix}{name}" in batch]:
        raise ValueError(
            f"prefix: expected new columns, got {', '.join(existing)} of the data set — "
            "choose another prefix"
        )
    images = batch[image_column]
    labels = None if label_column is None else [int(label) for label in batch[label_column]]
    # A manifest is given, because the weights would be hashed for every batch.
    explanation = explainer.explain(
        images, target=target if labels is None else labels, manifest={"method": explainer.name}
    )
    numbers = range(len(explanation))
    rows = explanation_rows(explanation, numbers, labels or [None] * len(explanation))
    names = [
        "" if answer == NONE else explanation.answer_label(answer)
        for answer in rows["predicted"].tolist()
    ]
    columns = rows | {"class": names, "patch_map": rows["maps"].astype(np.float32)}
    return {f"{prefix}{name}": columns[name] for name in _ADDED}
