"""Storage of discoveries: an npz with the arrays, and JSON for the rest; nothing is pickled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..data.loading import Skipped
from ..errors import SemattnError
from ..grid import PatchGrid
from ..utils.atomic_files import DAMAGE, atomic_write, read_arrays
from .cue import Example, SpuriousCue
from .cue_detector import Detector
from .discovery import Discovery, Rank
from .interventions import Group
from .significance import Effect

FORM = 1


def save_discovery(discovery: Discovery, file: str | os.PathLike[str]) -> Path:
    """Write a discovery to `file` (npz), atomically.

    Cues keep their detector, and their examples as pixels; the model is not stored.
    """
    path = Path(file)
    arrays: dict[str, np.ndarray] = {}
    cues = []
    for number, cue in enumerate(discovery.cues):
        arrays[f"cue{number}.weights"] = cue.detector.weights
        arrays[f"cue{number}.place"] = cue.place
        for position, example in enumerate(cue.examples):
            arrays[f"cue{number}.example{position}.pixels"] = example.pixels
            arrays[f"cue{number}.example{position}.matches"] = example.matches
        fields = {
            name: value for name, value in vars(cue).items()
            if name not in ("model", "preprocessing", "finder", "detector", "place", "examples",
                            "removed", "transplanted", "groups", "grid")
        }  # fmt: skip
        cues.append(fields | {
            "removed": asdict(cue.removed), "transplanted": asdict(cue.transplanted),
            "groups": [asdict(group) for group in cue.groups],
            "examples": [[e.name, e.before, e.without] for e in cue.examples],
            "grid": None if cue.grid is None else cue.grid.to_list(),
            "detector": [cue.detector.offset, cue.detector.slope, cue.detector.start],
        })  # fmt: skip
    about = {name: value for name, value in vars(discovery).items()
             if name not in ("cues", "classes", "skipped")}  # fmt: skip
    text = json.dumps(about | {
        "form": FORM, "cues": cues, "classes": [asdict(rank) for rank in discovery.classes],
        "skipped": [skipped._asdict() for skipped in discovery.skipped],
    })  # fmt: skip
    arrays["about"] = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return path


def load_discovery(file: str | os.PathLike[str], model: nn.Module | None = None) -> Discovery:
    """Read a file that `save_discovery` wrote; `model` lets its cues be matched in new images.

    Raises
    ------
    SemattnError
        For a file that is missing, damaged, or not a discovery.
    """
    path = Path(file)
    try:
        arrays = read_arrays(path)
        about: dict[str, Any] = json.loads(arrays["about"].tobytes().decode("utf-8"))
        if about.pop("form") != FORM:
            raise ValueError("another version of the format")
        cues = [
            _cue(number, fields, arrays, model) for number, fields in enumerate(about.pop("cues"))
        ]
        return Discovery(
            cues=tuple(cues),
            classes=tuple(Rank(**fields) for fields in about.pop("classes")),
            skipped=tuple(Skipped(**fields) for fields in about.pop("skipped")),
            **about | {"notes": tuple(about["notes"])},
        )
    except FileNotFoundError:
        raise SemattnError(
            f"file: expected a discovery, got {path}, which does not exist"
        ) from None
    except DAMAGE as error:
        raise SemattnError(
            f"file: expected a file written by save_discovery, got {path} ({error}) — it is "
            "damaged or of another kind"
        ) from error


def _cue(
    number: int, record: dict[str, Any], arrays: dict[str, np.ndarray], model: nn.Module | None
) -> SpuriousCue:
    prefix = f"cue{number}."
    grid = PatchGrid.from_list(grid_fields) if (grid_fields := record.pop("grid", None)) else None
    examples = tuple(
        Example(name, arrays[f"{prefix}example{position}.pixels"],
                arrays[f"{prefix}example{position}.matches"], before, without, grid)
        for position, (name, before, without) in enumerate(record.pop("examples"))
    )  # fmt: skip
    detector = Detector(arrays[prefix + "weights"], *record.pop("detector"))
    cue = SpuriousCue(
        examples=examples, detector=detector, place=arrays[prefix + "place"],
        removed=Effect(**record.pop("removed")), transplanted=Effect(**record.pop("transplanted")),
        groups=tuple(Group(**group) for group in record.pop("groups")),
        interval=tuple(record.pop("interval")), grid=grid, **record,
    )  # fmt: skip
    return replace(cue, model=model)
