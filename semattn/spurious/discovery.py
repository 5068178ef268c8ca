"""Result of a search for spurious cues, and its file.

The file is an npz with the arrays, and JSON for the rest; nothing is pickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..data.loading import Skipped
from ..errors import SemattnError
from ..grid import PatchGrid
from ..utils.atomic_files import DAMAGE, read_about, read_arrays, with_prefix, write_arrays
from ..utils.notebook import NotebookView
from .cue import CueImage, Example, SpuriousCue
from .cue_detector import CueDetector
from .interventions import Group
from .marks.cue import MarkCue
from .marks.files import mark_from_arrays, mark_to_arrays
from .significance import Effect

FORMAT = 2


@dataclass(frozen=True)
class Rank:
    """Class, its number of images, and the score of its best confirmed cue; 0 for none."""

    target: int
    name: str
    images: int
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class Discovery(NotebookView):
    """Cues of a search, the confirmed ones first, by decreasing score.

    Parameters
    ----------
    cues : all cues that were tried
    classes : searched classes, the most biased first
    images : number of images
    candidates : number of kinds of patches that were judged
    accuracy : of the model on the images; None without labels
    alpha : significance level, after correction
    skipped, notes : images that could not be read, and notes on the search
    manifest : model, weights, data, parameters, versions
    not_searched : names of the classes whose patches were not searched, because they have too few
        images; marks were searched in all classes
    """

    cues: tuple[SpuriousCue, ...]
    classes: tuple[Rank, ...]
    images: int
    candidates: int
    accuracy: float | None
    alpha: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]
    not_searched: tuple[str, ...] = ()

    @property
    def confirmed(self) -> tuple[SpuriousCue, ...]:
        """Cues with a significant frequency, removal effect and transplant effect."""
        return tuple(cue for cue in self.cues if cue.confirmed)

    def summary(self) -> dict[str, Any]:
        """Return everything except pictures and detectors, ready for JSON."""
        return {
            "cues": [cue.summary() for cue in self.cues],
            "classes": [vars(rank) for rank in self.classes],
            "images": self.images, "candidates": self.candidates, "accuracy": self.accuracy,
            "alpha": self.alpha, "skipped": [image._asdict() for image in self.skipped],
            "notes": list(self.notes), "manifest": self.manifest,
            "not_searched": list(self.not_searched),
        }  # fmt: skip


def save_discovery(discovery: Discovery, path: str | os.PathLike[str]) -> Path:
    """Write a discovery to `path` (npz), atomically.

    Cues keep their detector, and their examples as pixels; the model is not stored.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    cues = []
    for number, cue in enumerate(discovery.cues):
        arrays[f"cue{number}.place"] = cue.place
        arrays |= {f"cue{number}.{name}": value for name, value in _location_arrays(cue).items()}
        for position, example in enumerate(cue.examples):
            arrays[f"cue{number}.example{position}.pixels"] = example.pixels
            arrays[f"cue{number}.example{position}.matches"] = example.matches
            if example.off_object is not None:
                arrays[f"cue{number}.example{position}.off_object"] = example.off_object
        fields = {
            name: value for name, value in vars(cue).items()
            if name not in ("model", "preprocessing", "keypoint_detector", "detector", "mark",
                            "place", "examples", "removal", "transplant", "groups", "grid",
                            "cue_images")
        }  # fmt: skip
        cues.append(fields | {
            "removal": asdict(cue.removal), "transplant": asdict(cue.transplant),
            "groups": [asdict(group) for group in cue.groups],
            "examples": [[e.name, e.before, e.without] for e in cue.examples],
            "cue_images": [list(image) for image in cue.cue_images],
            "grid": None if cue.grid is None else cue.grid.to_list(),
            "location": _location_fields(cue),
        })  # fmt: skip
    about = {name: value for name, value in vars(discovery).items()
             if name not in ("cues", "classes", "skipped")}  # fmt: skip
    text = json.dumps(about | {
        "format": FORMAT, "cues": cues, "classes": [asdict(rank) for rank in discovery.classes],
        "skipped": [skipped._asdict() for skipped in discovery.skipped],
    })  # fmt: skip
    write_arrays(path, arrays, text)
    return path


def _location_arrays(cue: SpuriousCue) -> dict[str, np.ndarray]:
    """Return the arrays that locate a cue in other images."""
    if isinstance(cue, MarkCue) and cue.mark is not None:
        return mark_to_arrays(cue.mark)[0]
    assert cue.detector is not None
    return {"weights": cue.detector.weights}


def _location_fields(cue: SpuriousCue) -> dict[str, Any]:
    """Return the other fields that locate a cue, ready for JSON."""
    if isinstance(cue, MarkCue) and cue.mark is not None:
        return {"mark": mark_to_arrays(cue.mark)[1]}
    assert cue.detector is not None
    return {"detector": [cue.detector.offset, cue.detector.slope, cue.detector.start]}


def load_discovery(path: str | os.PathLike[str], model: nn.Module | None = None) -> Discovery:
    """Read a file that `save_discovery` wrote; `model` lets its cues be matched in new images.

    Raises
    ------
    SemattnError
        For a file that is missing, damaged, or not a discovery.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
        about = read_about(arrays)
        if about.pop("format") != FORMAT:
            raise ValueError("another version of the format")
        cues = [
            _cue(number, fields, arrays, model) for number, fields in enumerate(about.pop("cues"))
        ]
        return Discovery(
            cues=tuple(cues),
            classes=tuple(Rank(**fields) for fields in about.pop("classes")),
            skipped=tuple(Skipped(**fields) for fields in about.pop("skipped")),
            not_searched=tuple(about.pop("not_searched", ())),
            **about | {"notes": tuple(about["notes"])},
        )
    except FileNotFoundError:
        raise SemattnError(
            f"path: expected a discovery, got {path}, which does not exist"
        ) from None
    except DAMAGE as error:
        raise SemattnError(
            f"path: expected a file written by save_discovery, got {path} ({error}) — it is "
            "damaged or of another kind"
        ) from error


def _cue(
    number: int, record: dict[str, Any], arrays: dict[str, np.ndarray], model: nn.Module | None
) -> SpuriousCue:
    prefix = f"cue{number}."
    grid = PatchGrid.from_list(grid_fields) if (grid_fields := record.pop("grid", None)) else None
    examples = tuple(
        Example(name, arrays[f"{prefix}example{position}.pixels"],
                arrays[f"{prefix}example{position}.matches"], before, without, grid,
                arrays.get(f"{prefix}example{position}.off_object"))
        for position, (name, before, without) in enumerate(record.pop("examples"))
    )  # fmt: skip
    cue_arrays = with_prefix(arrays, prefix)
    location = record.pop("location")
    cue_type: type[SpuriousCue] = SpuriousCue
    if "mark" in location:
        cue_type = MarkCue
        record |= {"detector": None, "mark": mark_from_arrays(cue_arrays, location["mark"])}
    else:
        record["detector"] = CueDetector(cue_arrays["weights"], *location["detector"])
    cue = cue_type(
        examples=examples, place=arrays[prefix + "place"],
        removal=Effect(**record.pop("removal")), transplant=Effect(**record.pop("transplant")),
        groups=tuple(Group(**group) for group in record.pop("groups")),
        interval=tuple(record.pop("interval")), grid=grid,
        cue_images=tuple(CueImage(*fields) for fields in record.pop("cue_images", ())), **record,
    )  # fmt: skip
    return replace(cue, model=model)
