"""Many methods on many images: image by image, kept on the disk as they are done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..attention.model_inputs import move_to_model
from ..attention.output_meaning import predict
from ..attention.target import answer_target
from ..errors import SemattnError, UnsupportedModelError
from ..images import Images, Preprocessing, prepare
from ..targets import OutputMeaning
from ..utils.profiling import measured
from ..utils.provenance import about_model, versions
from ..utils.registry import choices
from ..utils.result_folder import ResultFolder
from ..utils.run_store import Shelf
from .measures import Case, Setting, measures
from .methods import Method, method
from .row_store import KeptRows, around, sources_of

OTHERS = 32  # masks of other images, for the shuffled AUROC
SHUFFLED = "shuffled-auroc"
# Entries of `about` that may change: each row has the identity of its own inputs.
COUNTED = ("root", "of", "images", "notes", "mask_reading")


@dataclass(frozen=True)
class Results:
    """What came out: `values` (images, methods, metrics), NaN where a metric says nothing.

    `seconds` and `peak_mib` (images, methods) are of one map each; `refused` says why a method has
    none; `right` says of each image whether the model's prediction was its label, where known.
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
    """The metrics that stand in a table unless others are asked for."""
    return [name for name, one in measures.items() if one.core]


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
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Explain every image of `data` by every method, and measure each map.

    Parameters
    ----------
    model : in evaluation mode, with classes
    data : a sequence of items with `name`, `image` (PIL), `mask` (H, W) or None, `label` or None,
        and `classes`; what cannot be read is skipped, and listed. With a method `sources`, as
        `semattn.evaluation.masked.Folder` has it, kept rows are confirmed without reading items
    methods, metrics : names (`methods.method`, `measures`); metrics None is the core
    setting : of the perturbation metrics
    refine : how patches become pixels, for every row alike
    preprocessing : None is the model's own
    classes : the model's class names; where the data has the same names, the label is explained,
        else the class that the model predicts
    folder : where each image's numbers are kept as it is done, and read again where its image, its
        mask and its class are the same; None keeps nothing
    progress : called with the number of images done, and of all

    Raises
    ------
    SemattnError, ValueError
        For unknown names, for metrics that need masks where there are none, for a folder of
        another run or that another process runs in, and where no image is left.

    Warns
    -----
    UserWarning
        Where images of an earlier run in the folder changed, and are measured again, or are gone.
    """
    setting = setting or Setting()
    wanted = list(metrics or core())
    for name in wanted:
        if name not in measures:
            raise ValueError(choices("metric", name, measures))
    for name in methods:
        method(name, refine, setting.seed)
    if not methods or len(set(methods)) < len(methods) or len(set(wanted)) < len(wanted):
        raise ValueError("methods, metrics: expected each once, and one at least")
    own = preprocessing or Preprocessing.of(model)
    manifest = about_model(model) | {
        "data": data.about, "methods": list(methods), "metrics": wanted,
        "setting": vars(setting), "refine": refine, "preprocessing": str(own),
        "versions": versions(),
    }  # fmt: skip
    wants = _wanted_classes(data, classes)
    study = _Study(model, data, list(methods), wanted, setting, refine, own, wants)
    with nullcontext() if folder is None else ResultFolder(folder, "evaluate").running(()):
        kept = None if folder is None else _kept_rows(folder, manifest, study)
        rows = []
        for index in range(len(data)):
            rows.append(study.measure(index) if kept is None else _row(kept, study, index))
            if progress:
                progress(index + 1, len(data))
        if kept is not None:
            inputs, note = kept.finish()
            manifest["data"] = {**data.about, "inputs_sha256": inputs}
            if note:
                warnings.warn(note, stacklevel=2)
    return _results(rows, list(methods), wanted, manifest)


def _row(kept: KeptRows, study: _Study, index: int) -> dict[str, Any]:
    """Return the row of an image that is kept, or measure it and keep it."""
    row = kept.find(index)
    return kept.keep(index, study.measure(index)) if row is None else row


def _kept_rows(folder: Path, manifest: dict[str, Any], study: _Study) -> KeptRows:
    """Return the rows in a folder, once it is known to be of the same model and options."""
    about = {name: value for name, value in study.data.about.items() if name not in COUNTED}
    shelf = Shelf(folder, {**manifest, "data": about}, "run")
    others = OTHERS if SHUFFLED in study.wanted else 0
    return KeptRows(shelf, study.data, study.classes, others)


class _Study:
    """What all images share."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        names: list[str],
        wanted: list[str],
        setting: Setting,
        refine: str,
        preprocessing: Preprocessing,
        classes: list[int] | None,
    ) -> None:
        self.model, self.data, self.names, self.wanted = model, data, names, wanted
        self.setting, self.preprocessing, self.classes = setting, preprocessing, classes
        self.methods: dict[str, Method] = {one: method(one, refine, setting.seed) for one in names}
        self._kept: dict[int, Tensor | None] = {}

    def measure(self, index: int) -> dict[str, Any]:
        """All numbers of one image, ready for JSON."""
        try:
            item = self.data[index]
            images, mask = self._prepared(item)
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
            row["methods"][name] = self._one(run, images, about, target, second, mask, index)
        return row

    def _name_of(self, index: int) -> str:
        """Return the name of an item that cannot be read."""
        with suppress(SemattnError, OSError, ValueError):
            if hasattr(self.data, "sources"):
                return sources_of(self.data, index)[0][0]
        return f"image {index}"

    def _one(
        self, run: Method, images: Images, about: tuple[OutputMeaning, int], target: int,
        second: int, mask: Any, index: int,
    ) -> dict[str, Any]:  # fmt: skip
        device, (meaning, outputs) = images.inputs.device, about
        try:
            explained = answer_target(target, meaning, outputs)
            made, cost = measured(lambda: run(self.model, images, explained), device)
        except UnsupportedModelError as error:
            return {"refused": " ".join(str(error).split())}
        needs = SHUFFLED in self.wanted and mask is not None
        case = Case(
            self.model, images, target, second, run, made, mask,
            self._masks(index) if needs else None, self.setting, meaning, outputs,
        )  # fmt: skip
        found: dict[str, float | None] = {}
        for name in self.wanted:
            if measures[name].mask and mask is None:
                found[name] = None
                continue
            value = float(measures[name].of(case))
            found[name] = value if np.isfinite(value) else None
        return {"values": found, "seconds": cost.seconds, "peak_mib": cost.peak_mib}

    def _prepared(self, item: Any) -> tuple[Images, Tensor | None]:
        images = prepare(item.image, self.preprocessing)
        inputs = move_to_model(self.model, images.inputs, prepared=images.prepared)
        moved = replace(images, inputs=inputs)
        return moved, None if item.mask is None else self._fitted(item.mask)[None]

    def _fitted(self, mask: np.ndarray) -> Tensor:
        """A mask (H, W) as the model sees it."""
        page = Image.fromarray(255 * mask.astype(np.uint8)).convert("RGB")
        seen = np.asarray(self.preprocessing.fit(page).convert("L"))
        return torch.from_numpy(seen > 127)

    def _masks(self, index: int) -> Tensor:
        """Masks (M, H, W) of images that lie around one in the data, itself left out."""
        found = [self._mask_of(one) for one in around(index, len(self.data), OTHERS)]
        return torch.stack([one for one in found if one is not None])

    def _mask_of(self, index: int) -> Tensor | None:
        if index not in self._kept:
            try:
                mask = self.data[index].mask
                self._kept[index] = None if mask is None else self._fitted(mask)
            except (SemattnError, OSError, ValueError):
                self._kept[index] = None
        found = self._kept[index]
        if len(self._kept) > 2 * OTHERS:
            self._kept.pop(next(iter(self._kept)))
        return found


def _class_scores(logits: Tensor, meaning: OutputMeaning) -> Tensor:
    """The score of each class, (B, K); of a binary model those of its two answers."""
    if meaning.refusal:
        raise UnsupportedModelError(meaning.refusal)
    if not meaning.has_answers or logits.ndim > 2:
        raise UnsupportedModelError(
            f"model output: expected scores of classes (B, K), got {tuple(logits.shape)} "
            f"({meaning.kind.value}) — compare methods on a classifier"
        )
    return meaning.scores(logits)


def _wanted_classes(data: Any, classes: Sequence[str] | None) -> list[int] | None:
    """The model's class of each of the data's, where all have the same names."""
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
    rows: list[dict[str, Any]], names: list[str], wanted: list[str], manifest: dict[str, Any]
) -> Results:
    good = [row for row in rows if "skipped" not in row]
    skipped = tuple((row["name"], row["skipped"]) for row in rows if "skipped" in row)
    if not good:
        raise SemattnError(
            f"data: expected one image that can be read, got {len(skipped)} that cannot: "
            f"{'; '.join(f'{name}: {why}' for name, why in skipped[:3])}"
        )
    shape = (len(good), len(names))
    values = np.full((*shape, len(wanted)), np.nan)
    seconds, peak = np.full(shape, np.nan), np.full(shape, np.nan)
    refused = {}
    for i, row in enumerate(good):
        for j, name in enumerate(names):
            one = row["methods"][name]
            if "refused" in one:
                refused[name] = one["refused"]
                continue
            seconds[i, j] = one["seconds"]
            peak[i, j] = np.nan if one["peak_mib"] is None else one["peak_mib"]
            for k, metric in enumerate(wanted):
                value = one["values"][metric]
                values[i, j, k] = np.nan if value is None else value
    return Results(
        tuple(names), tuple(wanted), values, seconds, peak, tuple(row["name"] for row in good),
        tuple(row["right"] for row in good), skipped, refused, manifest,
    )  # fmt: skip
