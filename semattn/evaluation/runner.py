"""Evaluation of methods on images: image by image, with resumable storage of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..attention.model_call import move_to_model
from ..attention.output_meaning import predict
from ..attention.target import answer_target
from ..errors import SemattnError, UnsupportedModelError
from ..images import Images, Preprocessing, prepare
from ..targets import OutputMeaning
from ..utils.processes import Progress
from ..utils.profiling import profile
from ..utils.provenance import about_model, versions
from ..utils.registry import unknown_name_message
from ..utils.result_folder import ResultFolder
from ..utils.run_store import RunStore
from ..utils.text import to_json_number
from .measures import Case, Setting, measures
from .methods import Method, method
from .row_store import RowStore, around, sources_of

OTHERS = 32  # masks of other images, for the shuffled AUROC
SHUFFLED = "shuffled-auroc"
# Entries of `about` that may change, because each row has the identity of its own inputs.
COUNTED = ("root", "of", "images", "notes", "mask_reading")


@dataclass(frozen=True)
class Results:
    """Results of `evaluate`.

    `values` (images, methods, metrics) are the metrics, NaN where a metric is not defined.

    `seconds` and `peak_mib` (images, methods) are the cost of one map each; `refused` has the
    reason why a method has no map; `right` tells for each image whether the prediction equals the
    label, None without a label.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    values: np.ndarray
    seconds: np.ndarray
    peak_mib: np.ndarray
    names: tuple[str, ...]
    right: tuple[bool | None, ...]
    skipped: tuple[tuple[str, str], ...]
    refused: dict[str, str]
    manifest: dict[str, Any]


def core() -> list[str]:
    """Return the names of the default metrics."""
    return [name for name, measure in measures.items() if measure.core]


def evaluate(
    model: nn.Module,
    data: Any,
    methods: Sequence[str],
    metrics: Sequence[str] | None = None,
    *,
    setting: Setting | None = None,
    refine: str = "none",
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Results:
    """Explain every image of `data` with every method, and measure each map.

    Parameters
    ----------
    model : in evaluation mode, with classes
    data : a sequence of items with `name`, `image` (PIL), `mask` (H, W) or None, `label` or None,
        and `classes`; unreadable items are skipped and listed. With a method `sources`, as in
        `semattn.data.masked.MaskedFolder`, stored rows are confirmed without reading items
    methods, metrics : names (`methods.method`, `measures`); metrics None for the default ones
    setting : of the perturbation metrics
    refine : refinement of patches to pixels, the same for every row
    preprocessing : None for that of the model
    classes : class names of the model; if the data has the same names, the label is explained,
        otherwise the predicted class
    folder : directory that stores the row of each image, which is read again if image, mask and
        class have not changed; None stores nothing
    progress : called with the stage, the number of finished images and the total

    Raises
    ------
    SemattnError, ValueError
        For unknown names, for metrics that need masks if there are none, for a folder of another
        run or one that another process uses, and if no image is left.

    Warns
    -----
    UserWarning
        If images of an earlier run in the folder changed and are measured again, or were removed.
    """
    setting = setting or Setting()
    metric_names = list(metrics or core())
    for name in metric_names:
        if name not in measures:
            raise ValueError(unknown_name_message("metric", name, measures))
    for name in methods:
        method(name, refine, setting.seed)
    if (
        not methods
        or len(set(methods)) < len(methods)
        or len(set(metric_names)) < len(metric_names)
    ):
        raise ValueError("methods, metrics: expected at least one of each, without repetition")
    used_preprocessing = preprocessing or Preprocessing.of(model)
    manifest = about_model(model) | {
        "data": data.about, "methods": list(methods), "metrics": metric_names,
        "setting": vars(setting), "refine": refine, "preprocessing": str(used_preprocessing),
        "versions": versions(),
    }  # fmt: skip
    class_numbers = _wanted_classes(data, classes)
    study = _Study(
        model, data, list(methods), metric_names, setting, refine, used_preprocessing, class_numbers
    )
    with nullcontext() if folder is None else ResultFolder(folder, "evaluate").running(()):
        stored_rows = None if folder is None else _kept_rows(folder, manifest, study)
        rows = []
        for index in range(len(data)):
            rows.append(
                study.measure(index) if stored_rows is None else _row(stored_rows, study, index)
            )
            if progress:
                progress("evaluating", index + 1, len(data))
        if stored_rows is not None:
            inputs, note = stored_rows.finish()
            manifest["data"] = {**data.about, "inputs_sha256": inputs}
            if note:
                warnings.warn(note, stacklevel=2)
    return _results(rows, list(methods), metric_names, manifest)


def _row(stored_rows: RowStore, study: _Study, index: int) -> dict[str, Any]:
    """Return the stored row of an image, or measure and store it."""
    row = stored_rows.find(index)
    return stored_rows.keep(index, study.measure(index)) if row is None else row


def _kept_rows(folder: Path, manifest: dict[str, Any], study: _Study) -> RowStore:
    """Return the stored rows of a folder after checking that model and options are the same."""
    about = {name: value for name, value in study.data.about.items() if name not in COUNTED}
    store = RunStore(folder, {**manifest, "data": about}, "run")
    others = OTHERS if SHUFFLED in study.wanted else 0
    return RowStore(store, study.data, study.classes, others)


class _Study:
    """Model, data and settings that all images share."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        names: list[str],
        metrics: list[str],
        setting: Setting,
        refine: str,
        preprocessing: Preprocessing,
        classes: list[int] | None,
    ) -> None:
        self.model, self.data, self.names, self.wanted = model, data, names, metrics
        self.setting, self.preprocessing, self.classes = setting, preprocessing, classes
        self.methods: dict[str, Method] = {
            name: method(name, refine, setting.seed) for name in names
        }
        self._kept: dict[int, Tensor | None] = {}

    def measure(self, index: int) -> dict[str, Any]:
        """Return all values of one image, ready for JSON."""
        try:
            item = self.data[index]
            images, mask = self._prepare(item)
        except (SemattnError, OSError, ValueError) as error:
            return {"name": self._name_of(index), "skipped": " ".join(str(error).split())}
        with torch.inference_mode():
            logits, meaning = predict(self.model, images.inputs)
        scores = _class_scores(logits.float(), meaning)[0]
        best = int(scores.argmax())
        label = None if self.classes is None or item.label is None else self.classes[item.label]
        target = best if label is None else label
        if target >= len(scores):
            raise SemattnError(
                f"data: expected classes of the model, 0 to {len(scores) - 1}, got {target} for "
                f"{item.name} — give the model its class names"
            )
        others = scores.clone()
        others[target] = -torch.inf
        second = int(others.argmax())
        about = meaning, 1 if logits.ndim == 1 else logits.shape[1]
        row: dict[str, Any] = {
            "name": item.name, "right": None if label is None else best == label,
            "target": target, "methods": {},
        }  # fmt: skip
        for name, run in self.methods.items():
            row["methods"][name] = self._measure_method(
                run, images, about, target, second, mask, index
            )
        return row

    def _name_of(self, index: int) -> str:
        """Return the name of an item that cannot be read."""
        with suppress(SemattnError, OSError, ValueError):
            if hasattr(self.data, "sources"):
                return sources_of(self.data, index)[0][0]
        return f"image {index}"

    def _measure_method(
        self, run: Method, images: Images, about: tuple[OutputMeaning, int], target: int,
        second: int, mask: Any, index: int,
    ) -> dict[str, Any]:  # fmt: skip
        device, (meaning, outputs) = images.inputs.device, about
        try:
            explained = answer_target(target, meaning, outputs)
            explanation_map, cost = profile(lambda: run(self.model, images, explained), device)
        except UnsupportedModelError as error:
            return {"refused": " ".join(str(error).split())}
        needs = SHUFFLED in self.wanted and mask is not None
        case = Case(
            self.model, images, target, second, run, explanation_map, mask,
            self._masks(index) if needs else None, self.setting, meaning, outputs,
        )  # fmt: skip
        values: dict[str, float | None] = {}
        for name in self.wanted:
            if measures[name].mask and mask is None:
                values[name] = None
                continue
            values[name] = to_json_number(float(measures[name].function(case)))
        return {"values": values, "seconds": cost.seconds, "peak_mib": cost.peak_mib}

    def _prepare(self, item: Any) -> tuple[Images, Tensor | None]:
        images = prepare(item.image, self.preprocessing)
        inputs = move_to_model(self.model, images.inputs, prepared=images.prepared)
        moved = replace(images, inputs=inputs)
        return moved, None if item.mask is None else self._fit_mask(item.mask)[None]

    def _fit_mask(self, mask: np.ndarray) -> Tensor:
        """Return a mask (H, W) after the resizing and cropping of the model's preprocessing."""
        page = Image.fromarray(255 * mask.astype(np.uint8)).convert("RGB")
        resized = np.asarray(self.preprocessing.fit(page).convert("L"))
        return torch.from_numpy(resized > 127)

    def _masks(self, index: int) -> Tensor:
        """Return the masks (M, H, W) of the next images in the data."""
        masks = [self._mask_of(other) for other in around(index, len(self.data), OTHERS)]
        return torch.stack([mask for mask in masks if mask is not None])

    def _mask_of(self, index: int) -> Tensor | None:
        if index not in self._kept:
            try:
                mask = self.data[index].mask
                self._kept[index] = None if mask is None else self._fit_mask(mask)
            except (SemattnError, OSError, ValueError):
                self._kept[index] = None
        mask_of_image = self._kept[index]
        if len(self._kept) > 2 * OTHERS:
            self._kept.pop(next(iter(self._kept)))
        return mask_of_image


def _class_scores(logits: Tensor, meaning: OutputMeaning) -> Tensor:
    """Return the score of each class, (B, K); for a binary model the scores of its two answers."""
    if meaning.refusal:
        raise UnsupportedModelError(meaning.refusal)
    if not meaning.has_answers or logits.ndim > 2:
        raise UnsupportedModelError(
            f"model output: expected scores of classes (B, K), got {tuple(logits.shape)} "
            f"({meaning.kind.value}) — compare methods on a classifier"
        )
    return meaning.scores(logits)


def _wanted_classes(data: Any, classes: Sequence[str] | None) -> list[int] | None:
    """Return the model class of each class of the data, if both have the same names."""
    names = getattr(data, "classes", ())
    if not names or classes is None or not set(names) <= set(classes):
        return None
    for name in names:
        if (count := list(classes).count(name)) > 1:
            raise SemattnError(
                f"classes: expected names that differ, got {name!r} for {count} classes — "
                "rename one of them in the data and in the model"
            )
    return [list(classes).index(name) for name in names]


def _results(
    rows: list[dict[str, Any]], names: list[str], metrics: list[str], manifest: dict[str, Any]
) -> Results:
    measured_rows = [row for row in rows if "skipped" not in row]
    skipped = tuple((row["name"], row["skipped"]) for row in rows if "skipped" in row)
    if not measured_rows:
        raise SemattnError(
            f"data: expected one image that can be read, got {len(skipped)} that cannot: "
            f"{'; '.join(f'{name}: {why}' for name, why in skipped[:3])}"
        )
    shape = (len(measured_rows), len(names))
    values = np.full((*shape, len(metrics)), np.nan)
    seconds, peak = np.full(shape, np.nan), np.full(shape, np.nan)
    refused = {}
    for i, row in enumerate(measured_rows):
        for j, name in enumerate(names):
            result = row["methods"][name]
            if "refused" in result:
                refused[name] = result["refused"]
                continue
            seconds[i, j] = result["seconds"]
            peak[i, j] = np.nan if result["peak_mib"] is None else result["peak_mib"]
            for k, metric in enumerate(metrics):
                value = result["values"][metric]
                values[i, j, k] = np.nan if value is None else value
    return Results(
        tuple(names), tuple(metrics), values, seconds, peak,
        tuple(row["name"] for row in measured_rows),
        tuple(row["right"] for row in measured_rows), skipped, refused, manifest,
    )  # fmt: skip
