"""Files of marks: one npz with the arrays, and JSON for the rest; nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...data.loading import Skipped
from ...errors import SemattnError
from ...keypoints.mattes import Matte
from ...utils.atomic_files import DAMAGE, read_about, read_arrays, with_prefix, write_arrays
from ...utils.text import to_json_number
from .mark import Mark, MarkedImage, MarkExample
from .search import MarkDiscovery
from .template import TEMPLATE_ARRAYS, MarkTemplate, Region, regions_to_arrays

FORMAT = "semattn marks 2"
NUMBERS = ("inside", "outside", "p")  # fields that may be NaN, which JSON does not have
FIELDS = ("target", "name", "n_inside", "n_outside", "significant", *NUMBERS)


def save_marks(discovery: MarkDiscovery, path: str | os.PathLike[str]) -> Path:
    """Write the marks of a data set to `path` (npz), atomically.

    Marks keep their template, their examples as pixels, and their places in all images, so that a
    mark that is loaded can be located in new images.

    Parameters
    ----------
    discovery : result of `find_marks`
    path : the file; an existing one is replaced
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    marks = []
    for number, mark in enumerate(discovery.marks):
        of_mark, fields = mark_to_arrays(mark)
        arrays |= {f"mark{number}.{name}": values for name, values in of_mark.items()}
        marks.append(fields)
    about = {name: value for name, value in vars(discovery).items()
             if name not in ("marks", "skipped")}  # fmt: skip
    text = json.dumps(about | {
        "format": FORMAT, "marks": marks,
        "skipped": [skipped._asdict() for skipped in discovery.skipped],
    }, allow_nan=False)  # fmt: skip
    write_arrays(path, arrays, text)
    return path


def load_marks(path: str | os.PathLike[str]) -> MarkDiscovery:
    """Read a file that `save_marks` wrote.

    Raises
    ------
    SemattnError
        For a file that is missing, damaged, or does not contain marks.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
        about = read_about(arrays)
        if about.pop("format") != FORMAT:
            raise ValueError("another version of the format")
        marks = [
            mark_from_arrays(with_prefix(arrays, f"mark{number}."), fields)
            for number, fields in enumerate(about.pop("marks"))
        ]
        return MarkDiscovery(
            marks=tuple(marks),
            skipped=tuple(Skipped(**fields) for fields in about.pop("skipped")),
            same_scenes=tuple(map(tuple, about.pop("same_scenes"))),
            **about | {"notes": tuple(about["notes"])},
        )
    except FileNotFoundError:
        raise SemattnError(f"path: expected marks, got {path}, which does not exist") from None
    except DAMAGE as error:
        raise SemattnError(
            f"path: expected a file written by save_marks, got {path} "
            f"({' '.join(str(error).split())}) — it is damaged or of another kind"
        ) from error


def mark_to_arrays(mark: Mark) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a mark, and its other fields, ready for JSON."""
    regions = [region for example in mark.examples for region in example.regions]
    arrays = {
        "picture": mark.picture,
        **regions_to_arrays(regions),
        **{f"template.{name}": values for name, values in mark.template.to_arrays().items()},
        **{f"example{position}": e.pixels for position, e in enumerate(mark.examples)},
    }
    if mark.matte is not None:
        arrays |= {f"matte.{name}": values for name, values in vars(mark.matte).items()}
    places = [region for image in mark.marked_images for region in image.regions]
    arrays |= {f"images.{name}": values for name, values in regions_to_arrays(places).items()}
    fields: dict[str, Any] = {name: getattr(mark, name) for name in FIELDS}
    fields |= {name: to_json_number(fields[name]) for name in NUMBERS}
    return arrays, fields | {
        "examples": [[e.name, len(e.regions)] for e in mark.examples],
        "marked_images": [[*image[:-1], len(image.regions)] for image in mark.marked_images],
    }


def mark_from_arrays(arrays: dict[str, np.ndarray], fields: dict[str, Any]) -> Mark:
    """Return the mark of arrays and fields that `mark_to_arrays` returned.

    Raises
    ------
    ValueError, LookupError
        For arrays that are missing, or whose shapes do not match.
    """
    template = MarkTemplate.from_arrays(_template_arrays(arrays))
    _check_shape("picture", arrays["picture"], (None, None, 3))
    examples = []
    counts = [count for _, count in fields["examples"]]
    places = _split_regions(template, arrays, counts)
    for position, (name, _) in enumerate(fields["examples"]):
        pixels = arrays[f"example{position}"]
        _check_shape(f"example{position}", pixels, (None, None, 3))
        examples.append(MarkExample(name, pixels, places[position]))
    images = []
    if listed := fields.get("marked_images"):  # earlier versions of discoveries have none
        places = _split_regions(
            template, with_prefix(arrays, "images."), [row[-1] for row in listed]
        )
        images = [
            MarkedImage(name, class_name, in_class, regions)
            for (name, class_name, in_class, _), regions in zip(listed, places, strict=True)
        ]
    values = {name: fields[name] for name in FIELDS}
    values |= {name: float("nan") for name in NUMBERS if values[name] is None}
    return Mark(
        picture=arrays["picture"], examples=tuple(examples), template=template,
        marked_images=tuple(images), matte=_matte(with_prefix(arrays, "matte.")), **values,
    )  # fmt: skip


def _matte(arrays: dict[str, np.ndarray]) -> Matte | None:
    """Return the matte of its arrays; None without them, as in earlier versions of files."""
    if not arrays:
        return None
    _check_shape("matte.opacity", arrays["opacity"], (None, None))
    _check_shape("matte.colour", arrays["colour"], (*arrays["opacity"].shape, 3))
    _check_shape("matte.to_frame", arrays["to_frame"], (2, 3))
    return Matte(arrays["colour"], arrays["opacity"], arrays["to_frame"])


def _split_regions(
    template: MarkTemplate, arrays: dict[str, np.ndarray], counts: Sequence[int]
) -> list[tuple[Region, ...]]:
    """Return the regions of each image, of which `counts` are the numbers."""
    _check_shape("transforms", arrays["transforms"], (len(arrays["matches"]), 2, 3))
    regions = iter(template.regions_from_arrays(arrays))
    if len(arrays["matches"]) != sum(counts):
        raise ValueError(f"{len(arrays['matches'])} regions, which are not those of the images")
    return [tuple(islice(regions, count)) for count in counts]


def _template_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    template = with_prefix(arrays, "template.")
    count = len(template["xy"])
    widths: dict[str, tuple[int | None, ...]] = {
        "xy": (count, 2), "descriptors": (count, None), "outline": (None, 2),
    }  # fmt: skip
    for name in TEMPLATE_ARRAYS:
        _check_shape(name, template[name], widths.get(name, (count,)))
    return template


def _check_shape(name: str, values: np.ndarray, shape: Sequence[int | None]) -> None:
    """Raise ValueError unless an array has a shape, in which None is any size."""
    if len(values.shape) != len(shape) or any(
        size not in (None, actual) for actual, size in zip(values.shape, shape, strict=True)
    ):
        raise ValueError(f"{name} of shape {values.shape}")
