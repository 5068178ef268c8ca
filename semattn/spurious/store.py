"""A discovery on the disk: arrays in an npz, all else as JSON inside it; nothing is pickled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..errors import SemattnError
from ..files import DAMAGE, read_arrays, whole
from ..grid import PatchGrid
from .cue import Example, SpuriousCue
from .detector import Detector
from .discovery import Discovery, Rank, Skipped
from .evidence import Effect
from .trials import Group

FORM = 1


def save_discovery(found: Discovery, file: str | os.PathLike[str]) -> Path:
    """Write a discovery to `file` (npz): complete, or not at all.

    Cues keep what finds them in new images, and their examples as pixels; the model is not kept.
    """
    path = Path(file)
    arrays: dict[str, np.ndarray] = {}
    cues = []
    for number, one in enumerate(found.cues):
        arrays[f"cue{number}.weights"] = one.detector.weights
        arrays[f"cue{number}.place"] = one.place
        for place, shown in enumerate(one.examples):
            arrays[f"cue{number}.example{place}.pixels"] = shown.pixels
            arrays[f"cue{number}.example{place}.matches"] = shown.matches
        plain = {
            name: value for name, value in vars(one).items()
            if name not in ("model", "preprocessing", "finder", "detector", "place", "examples",
                            "removed", "transplanted", "groups", "grid")
        }  # fmt: skip
        cues.append(plain | {
            "removed": asdict(one.removed), "transplanted": asdict(one.transplanted),
            "groups": [asdict(group) for group in one.groups],
            "examples": [[e.name, e.before, e.without] for e in one.examples],
            "grid": None if one.grid is None else one.grid.to_list(),
            "detector": [one.detector.offset, one.detector.slope, one.detector.start],
        })  # fmt: skip
    about = {name: value for name, value in vars(found).items()
             if name not in ("cues", "classes", "skipped")}  # fmt: skip
    text = json.dumps(about | {
        "form": FORM, "cues": cues, "classes": [asdict(one) for one in found.classes],
        "skipped": [asdict(one) for one in found.skipped],
    })  # fmt: skip
    arrays["about"] = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    with whole(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return path


def load_discovery(file: str | os.PathLike[str], model: nn.Module | None = None) -> Discovery:
    """Read what `save_discovery` wrote; with `model`, its cues can be found in new images.

    Raises
    ------
    SemattnError
        For a file that is none, or damaged.
    """
    path = Path(file)
    try:
        arrays = read_arrays(path)
        about: dict[str, Any] = json.loads(arrays["about"].tobytes().decode("utf-8"))
        if about.pop("form") != FORM:
            raise ValueError("of another version")
        cues = [_cue(number, one, arrays, model) for number, one in enumerate(about.pop("cues"))]
        return Discovery(
            cues=tuple(cues),
            classes=tuple(Rank(**one) for one in about.pop("classes")),
            skipped=tuple(Skipped(**one) for one in about.pop("skipped")),
            **about | {"notes": tuple(about["notes"])},
        )
    except FileNotFoundError:
        raise SemattnError(
            f"file: expected a discovery, got {path}, which does not exist"
        ) from None
    except DAMAGE as error:
        raise SemattnError(
            f"file: expected what save_discovery wrote, got {path} ({error}) — it is damaged, or "
            "something else"
        ) from error


def _cue(
    number: int, one: dict[str, Any], arrays: dict[str, np.ndarray], model: nn.Module | None
) -> SpuriousCue:
    start = f"cue{number}."
    grid = PatchGrid.from_list(fields) if (fields := one.pop("grid", None)) else None
    examples = tuple(
        Example(name, arrays[f"{start}example{place}.pixels"],
                arrays[f"{start}example{place}.matches"], before, without, grid)
        for place, (name, before, without) in enumerate(one.pop("examples"))
    )  # fmt: skip
    finder = Detector(arrays[start + "weights"], *one.pop("detector"))
    made = SpuriousCue(
        examples=examples, detector=finder, place=arrays[start + "place"],
        removed=Effect(**one.pop("removed")), transplanted=Effect(**one.pop("transplanted")),
        groups=tuple(Group(**group) for group in one.pop("groups")),
        interval=tuple(one.pop("interval")), grid=grid, **one,
    )  # fmt: skip
    return replace(made, model=model)
