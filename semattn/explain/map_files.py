"""Maps in a file: safetensors, which holds numbers and text and nothing that could run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SemattnError
from ..utils.digest import digest
from .explanation import Explanation

_FORMAT = "semattn maps 1"


class StoreError(SemattnError, OSError):
    """A file that holds no maps, or a place that none can be written to."""


@dataclass(frozen=True, eq=False)
class StoredMaps:
    """The maps of a batch as they were saved, on the CPU.

    Parameters
    ----------
    heat : (B, H, W), on pixels
    patch_map : (B, h, w), on patches
    concentration : (B, P)
    target : (B,) classes, None where no class was explained
    names : of the B images
    notes : what a reader must know
    manifest : of the `Explanation`
    """

    heat: Tensor
    patch_map: Tensor
    concentration: Tensor
    target: Tensor | None
    names: tuple[str, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.heat)


def save_maps(explanation: Explanation, file: str | os.PathLike[str]) -> Path:
    """Write the maps of an explanation into `file`, whole or not at all.

    Raises
    ------
    StoreError
        Where no file can be written; what stood there before stands there still.
    """
    file = Path(file)
    tensors = {
        name: value.detach().cpu().clone().contiguous()
        for name in ("heat", "patch_map", "concentration", "target")
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
    own = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=".semattn-", dir=file.parent))
        save_file(tensors, own / "maps", metadata=metadata)
        (own / "maps").replace(file)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(
            f"file: expected to write {file}, got {reason} — save it elsewhere"
        ) from error
    finally:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
    return file


def load_maps(file: str | os.PathLike[str]) -> StoredMaps:
    """Read what `save_maps` wrote.

    Raises
    ------
    StoreError
        For a file that is missing, cut off or changed, or that something else wrote.
    """
    file = Path(file)
    if not file.is_file():
        raise StoreError(f"file: expected maps, got {file}, which is no file — check the name")
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
            "give a file that save_maps wrote"
        )
    if metadata.get("sha256") != _digest(tensors, metadata.get("about", "")):
        raise StoreError(
            f"file: expected the maps that were saved, got {file} with others — save them again"
        )
    try:
        return _stored(tensors, json.loads(metadata["about"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"file: expected maps and what belongs to them, got {file} without "
            f"({type(error).__name__}: {error}) — save them again"
        ) from error


def _stored(tensors: dict[str, Tensor], about: dict[str, Any]) -> StoredMaps:
    return StoredMaps(
        heat=tensors["heat"],
        patch_map=tensors["patch_map"],
        concentration=tensors["concentration"],
        target=tensors.get("target"),
        names=tuple(about["names"]),
        notes=tuple(about["notes"]),
        manifest=about["manifest"],
    )


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    """One number for all that is in a file."""
    text = torch.tensor(list(about.encode()), dtype=torch.uint8, device="cpu")
    return digest({**tensors, "about": text})
