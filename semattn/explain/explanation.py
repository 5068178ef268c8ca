"""`Explanation`, the result of an explainer for a batch of images, and its files.

The files have the safetensors format, which cannot contain executable code.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SemattnError
from ..grid import PatchGrid
from ..images import Images
from ..keypoints import Keypoints
from ..targets import OutputMeaning
from ..utils.atomic_files import atomic_path
from ..utils.notebook import NotebookView
from ..utils.provenance import digest

_FORMAT = "semattn maps 1"


@dataclass(frozen=True, repr=False)
class Explanation(NotebookView):
    """Heat maps of a batch of images, with the data that they were computed from.

    `heat_map` (B,H,W) is the map on pixels and `patch_map` (B,h,w) the map on patches, both
    non-negative and unnormalised. `concentration` (B,P) is the keypoint concentration p, float64 on
    the CPU, with rows that sum to 1. `target` (B,) holds the explained classes; it is None if the
    explained output is not a class, and `target_description` then describes it. `notes` are
    sentences that a reader of the map must know. `attribution` (B,C,H,W) is set by methods that
    distinguish channels, and sums to `heat_map`; Captum's methods may return negative values.
    `output` is the meaning of the model's output. `conservation` (B,) is the sum of the relevance
    divided by the score, float64 on the CPU, for methods that distribute the score over the inputs.
    """

    heat_map: Tensor
    patch_map: Tensor
    images: Images
    keypoints: list[Keypoints]
    concentration: Tensor
    grid: PatchGrid
    logits: Tensor
    target: Tensor | None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    attribution: Tensor | None = None
    target_description: str = ""
    output: OutputMeaning = field(default_factory=OutputMeaning)
    conservation: Tensor | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.heat_map)

    @property
    def outputs(self) -> int:
        """The number of outputs per image."""
        return 1 if self.logits.ndim == 1 else self.logits.shape[1]

    def label(self, number: int) -> str:
        """Return the name of output `number`, or the number if the model has no class names.

        The single output of a binary model has the name of its positive answer.
        """
        binary = self.output.is_binary(self.outputs)
        return self.output.label(1 if binary else number, self.classes, self.outputs)

    def answer_label(self, number: int) -> str:
        """Return the name of answer `number`: a class, or the negative or positive answer."""
        return self.output.label(number, self.classes, self.outputs)

    def predicted(self) -> Tensor | None:
        """Return the predicted answer of each image, (B,); None for features and regressions."""
        return self.output.predicted(self.logits.detach())

    def leading(self, index: int, top: int = 5) -> list[int]:
        """Return the `top` answers of image `index` with the highest scores, the first one first.

        For a binary model, return the predicted answer alone; without classes, nothing.
        """
        binary = self.output.is_binary(self.outputs)
        if not self.output.has_answers or (self.target is None and not binary):
            return []
        scores = self.output.scores(self.logits[index : index + 1].detach())[0].cpu()
        answers: list[int] = scores.topk(1 if binary else min(top, len(scores))).indices.tolist()
        return answers

    def probability(self, index: int, answer: int) -> float | None:
        """Return the probability of an answer; None if outputs are not shown as percentages."""
        if not self.output.in_percent:
            return None
        row = self.logits[index].detach().cpu().reshape(1, -1)
        probabilities = self.output.probabilities(row.double())
        return None if probabilities is None else float(probabilities[0, answer])

    def share_text(self, index: int, answer: int) -> str:
        """Return the probability of an answer as text, "93.1 %", or its value if it has none."""
        return self.output.share_text(self.logits[index], answer)

    def target_answer(self, index: int) -> int | None:
        """Return the explained answer of image `index`; None if it is not a class."""
        if self.target is None:
            return None
        return 1 if self.output.is_binary(self.outputs) else int(self.target[index])


class StoreError(SemattnError, OSError):
    """Error for a file that does not contain maps, or that cannot be written."""


@dataclass(frozen=True, eq=False)
class StoredMaps:
    """Saved maps of a batch, on the CPU.

    Parameters
    ----------
    heat_map : (B, H, W), on pixels
    patch_map : (B, h, w), on patches
    concentration : (B, P)
    target : (B,) classes, None if the explained output is not a class
    names : names of the B images
    notes : sentences that a reader of the maps must know
    manifest : manifest of the `Explanation`
    """

    heat_map: Tensor
    patch_map: Tensor
    concentration: Tensor
    target: Tensor | None
    names: tuple[str, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.heat_map)


def save_maps(explanation: Explanation, file: str | os.PathLike[str]) -> Path:
    """Write the maps of an explanation to `file`, atomically.

    Raises
    ------
    StoreError
        If the file cannot be written; an existing file is then unchanged.
    """
    file = Path(file)
    tensors = {
        name: value.detach().cpu().clone().contiguous()
        for name in ("heat_map", "patch_map", "concentration", "target")
        if (value := getattr(explanation, name)) is not None
    }
    entries = {
        "names": explanation.images.names,
        "notes": explanation.notes,
        "manifest": explanation.manifest,
    }
    about = json.dumps(entries, ensure_ascii=False, allow_nan=False)
    metadata = {"format": _FORMAT, "sha256": _digest(tensors, about), "about": about}
    if file.is_dir():
        raise StoreError(f"file: expected a file name, got the folder {file} — name a file in it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"file: expected a file that can be written, got {file} ({reason}) — save it elsewhere"
        ) from error
    return file


def load_maps(file: str | os.PathLike[str]) -> StoredMaps:
    """Read a file of `save_maps`.

    Raises
    ------
    StoreError
        If the file is missing, truncated, modified, or not written by `save_maps`.
    """
    file = Path(file)
    if not file.is_file():
        raise StoreError(f"file: expected maps, got {file}, which is not a file — check the name")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 — no dict
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"file: expected maps, got {file}, which cannot be read ({reason}) — save them again"
        ) from error
    if metadata.get("format") != _FORMAT:
        raise StoreError(
            f"file: expected '{_FORMAT}', got {file} of {metadata.get('format')!r} — "
            "give a file written by save_maps"
        )
    if metadata.get("sha256") != _digest(tensors, metadata.get("about", "")):
        raise StoreError(
            f"file: expected the saved maps, got {file} with modified content — save them again"
        )
    try:
        return _stored(tensors, json.loads(metadata["about"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"file: expected maps with names, notes and manifest, got {file} "
            f"({type(error).__name__}: {error}) — save them again"
        ) from error


def _stored(tensors: dict[str, Tensor], about: dict[str, Any]) -> StoredMaps:
    return StoredMaps(
        heat_map=tensors["heat_map"],
        patch_map=tensors["patch_map"],
        concentration=tensors["concentration"],
        target=tensors.get("target"),
        names=tuple(about["names"]),
        notes=tuple(about["notes"]),
        manifest=about["manifest"],
    )


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    """Return the digest of the content of a file."""
    text = torch.tensor(list(about.encode()), dtype=torch.uint8, device="cpu")
    return digest({**tensors, "about": text})
