"""Columns of explanations by datasets' own `Dataset.map`."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from PIL import Image

from semattn import Preprocessing, SIFTPatchInterrelation
from semattn.audit.tables import explanation_rows
from semattn.integrations import explain_columns
from tests.models import SIZE, build, images

PLAIN = Preprocessing(SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def explainer_of(model: torch.nn.Module, **options: object) -> SIFTPatchInterrelation:
    return SIFTPatchInterrelation(model, preprocessing=PLAIN, **options)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> datasets.Dataset:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    datasets.disable_progress_bars()
    pixels = (images(5) * 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    rows = {"image": [Image.fromarray(picture) for picture in pixels], "label": [4, 3, 2, 1, 0]}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def explained(data: datasets.Dataset, explainer: object, **options: object) -> datasets.Dataset:
    arguments = {"explainer": explainer} | options
    return data.map(explain_columns, batched=True, batch_size=2, fn_kwargs=arguments)


def test_a_data_set_has_the_columns_of_an_audit(pictures: datasets.Dataset) -> None:
    model = build("class-token")
    model.classes = ("a", "b", "c", "d", "e")
    explainer = explainer_of(model)
    mapped = explained(pictures, explainer, label_column="label", prefix="")
    explanation = explainer.explain(pictures["image"][:], target=pictures["label"][:])
    rows = explanation_rows(explanation, range(5), pictures["label"][:])
    for name in ("predicted", "probability", "keypoints", "spread", "x", "y", "on_empty"):
        np.testing.assert_allclose(mapped[name][:], rows[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(np.array(mapped["patch_map"][:]), rows["maps"], atol=1e-3)
    assert mapped["class"][:] == ["abcde"[answer] for answer in mapped["predicted"]]
    types = {name: getattr(kind, "dtype", None) for name, kind in mapped.features.items()}
    assert (types["predicted"], types["keypoints"], types["class"]) == ("int32", "int32", "string")
    assert {types[name] for name in ("probability", "spread", "x", "y", "on_empty")} == {"float32"}
    assert mapped.features["patch_map"].feature.feature.dtype == "float32"
    assert mapped["label"][:] == [4, 3, 2, 1, 0]


def test_the_fingerprint_follows_the_weights_and_the_settings(pictures: datasets.Dataset) -> None:
    explainer = explainer_of(build("class-token"))
    before = Hasher.hash(explainer)
    mapped = explained(pictures.select(range(2)), explainer)
    assert Hasher.hash(explainer) == before  # the call leaves nothing on the model
    equal = explained(pictures.select(range(2)), explainer_of(build("class-token")))
    assert equal._fingerprint == mapped._fingerprint
    assert Hasher.hash(explainer_of(build("class-token", seed=1))) != before
    assert Hasher.hash(explainer_of(build("class-token"), density="size")) != before


def test_a_model_without_classes_has_columns_of_the_same_types(pictures: datasets.Dataset) -> None:
    model = build("class-token")
    model.head = torch.nn.Identity()
    mapped = explained(pictures, explainer_of(model))
    assert mapped["map_predicted"][:] == [-1] * 5 and mapped["map_class"][:] == [""] * 5
    assert np.isnan(mapped["map_probability"][:]).all()
    assert mapped.features["map_class"].dtype == "string"


def test_columns_are_neither_missing_nor_overwritten(pictures: datasets.Dataset) -> None:
    explainer = explainer_of(build("class-token"))
    with pytest.raises(ValueError, match="batch: expected the column 'photo', got image, label"):
        explain_columns(pictures[:2], explainer, image_column="photo")
    mapped = explained(pictures, explainer)
    with pytest.raises(ValueError, match="expected new columns, got map_predicted, .* of the data"):
        explain_columns(mapped[:2], explainer)
