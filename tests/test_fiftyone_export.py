"""Data sets of FiftyOne, read as its importer reads them: documents, then the files they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semattn import Explanation, SIFTPatchInterrelation
from semattn.audit.tables import explanation_rows
from semattn.integrations import write_fiftyone
from tests.models import build, images

NAMES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def explanations() -> list[Explanation]:
    model = build("class-token")
    model.classes = NAMES
    explainer = SIFTPatchInterrelation(model)
    return [explainer.explain(images(2, seed=1)), explainer.explain(images(1, seed=2), target=4)]


class Cue(SimpleNamespace):
    """Cue that is in images whose mean is above a threshold."""

    def matches(self, inputs: torch.Tensor) -> torch.Tensor:
        shown = inputs.flatten(1).mean(dim=1) > self.threshold
        return shown[:, None].float() * torch.tensor([[0.2, 0.9]])


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the samples, and the fields that the data set declares by their name in samples."""
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    fields = json.loads((folder / "metadata.json").read_text())["sample_fields"]
    return samples, {field["db_field"]: field for field in fields}


def kind_of(value: Any) -> str:
    if isinstance(value, dict):
        kinds = {"$oid": "ObjectIdField", "$date": "DateTimeField"}
        return next((kinds[key] for key in value if key in kinds), "EmbeddedDocumentField")
    names = {bool: "BooleanField", int: "IntField", float: "FloatField", str: "StringField"}
    return names.get(type(value), "ListField")


def check_declared(document: dict[str, Any], fields: dict[str, dict[str, Any]]) -> None:
    """Fail for a value that has no field, or one of another type."""
    for key, value in document.items():
        if key == "_cls" or value is None:
            continue
        field, kind = fields[key], kind_of(value)
        declared = field["ftype"].rpartition(".")[2]
        assert declared == kind or (declared, kind) == ("HeatmapRangeField", "ListField"), key
        if kind == "EmbeddedDocumentField":
            assert field["embedded_doc_type"].endswith(f".{value['_cls']}")
            check_declared(value, {inner["db_field"]: inner for inner in field["fields"]})


def test_an_export_has_maps_columns_and_cues(
    explanations: list[Explanation], tmp_path: Path
) -> None:
    means = torch.cat([images(2, seed=1), images(1, seed=2)]).flatten(1).mean(dim=1)
    cues = [Cue(name="bee", threshold=means.median()), Cue(name="dog", threshold=-1)]
    folder = write_fiftyone(
        iter(explanations), tmp_path / "new" / "set", labels=[0, None, 3], cues=cues
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "data", "fields", "metadata.json", "samples.json"
    ]  # fmt: skip
    samples, fields = read(folder)
    assert len(samples) == 3 and len({str(sample["_id"]) for sample in samples}) == 3
    flat = [(one, index) for one in explanations for index in range(len(one))]
    for number, (sample, (explanation, index)) in enumerate(zip(samples, flat, strict=True)):
        check_declared(sample, fields)
        pixels = np.asarray(Image.open(folder / sample["filepath"]))
        assert np.array_equal(pixels, explanation.images.pixels[index])
        assert (sample["metadata"]["width"], sample["metadata"]["height"]) == (64, 48)
        assert sample["metadata"]["size_bytes"] == (folder / sample["filepath"]).stat().st_size
        stored = sample["heat_map"]
        levels = np.asarray(Image.open(folder / stored["map_path"]))
        assert levels.dtype == np.uint8 and levels.max() == 255 and stored["range"] == [0, 255]
        np.testing.assert_allclose(
            levels * stored["maximum"] / 255, explanation.heat_map[index],
            atol=stored["maximum"] / 500,
        )  # fmt: skip
        rows = explanation_rows(explanation, range(len(explanation)), [None] * len(explanation))
        for column in ("keypoints", "spread", "x", "y", "on_empty"):
            assert sample[column] == pytest.approx(rows[column][index])
        assert sample["prediction"]["label"] == NAMES[rows["predicted"][index]]
        assert sample["prediction"]["confidence"] == pytest.approx(rows["probability"][index])
        assert sample["source"] == f"image {index}"
        expected = ["cue 1: bee"] if means[number] > means.median() else []
        assert sample["tags"] == [*expected, "cue 2: dog"]
    truths = [sample.get("ground_truth", {}).get("label") for sample in samples]
    assert truths == ["ant", None, "dog"] and samples[2]["explained"] == "eel"
    info = json.loads((folder / "metadata.json").read_text())["info"]["semattn"]
    assert info["weights_sha256"] == explanations[0].manifest["weights_sha256"]


def test_a_map_of_no_class_and_a_map_of_zeros(tmp_path: Path) -> None:
    model = build("class-token")
    with torch.no_grad():
        model.head.weight[1] = 0
    explanation = SIFTPatchInterrelation(model).explain(images(), target=lambda out: out[:, 1] * 2)
    assert not explanation.heat_map.any()
    samples, fields = read(write_fiftyone(explanation, tmp_path, name="zeros"))
    for sample in samples:
        check_declared(sample, fields)
        assert "<lambda>" in sample["explained"] and sample["heat_map"]["maximum"] == 0
        assert sample["spread"] is None and "ground_truth" not in sample
        assert not np.asarray(Image.open(tmp_path / sample["heat_map"]["map_path"])).any()


def test_a_failed_export_leaves_nothing(explanations: list[Explanation], tmp_path: Path) -> None:
    def failing() -> Iterator[Explanation]:
        yield explanations[0]
        raise OSError("the archive ends here")

    with pytest.raises(OSError, match="the archive ends here"):
        write_fiftyone(failing(), tmp_path)
    for labels in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match=r"labels: expected .* got [24]"):
            write_fiftyone(explanations, tmp_path, labels=labels)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").touch()
    with pytest.raises(ValueError, match="out_dir: expected a new or empty folder, got "):
        write_fiftyone(explanations, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
