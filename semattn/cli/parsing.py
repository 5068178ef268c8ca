"""Parsers of command-line values: class names, regions, layers, precisions.

Each raises an error of one line for a value that it cannot use. Files with class names have one
name per line, numbered lines, or JSON.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SemattnError, plain
from ..utils.class_names import binary_names, check_names, class_names, resolve_class
from ..utils.text import read_lines

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from ..viz import Picture


RANDOM_SEED = 0  # of --random-weights
SHARPNESS = 896  # approximate pixels of the longer side of a picture in a figure
COLUMNS = {
    "index", "idx", "id", "number", "class", "classes", "class_id", "class_index", "name", "names",
    "class_name", "label", "label_id", "label_name",
}  # fmt: skip
NUMBERED = "its lines are taken as numbers and names of classes"
_NUMBER_FIRST = re.compile(r"([0-9]{1,9})(?:\s*[:,;\t]\s*|\s+|\.\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"(\S|\S.*?\S)(?:\s*[:,;\t]\s*|\s+)([0-9]{1,9})")
_WORDNET_FIRST = re.compile(r"n[0-9]{8}(?:\s*[:,;\t]\s*|\s+)(\S.*)")
_QUOTED = re.compile(r"""(["'])(.+)\1""")


def read_explainer(method: str, **options: Any) -> Any:
    """Return the explainer of a name; options that are None keep their default.

    An option that the explainer lacks is a ValueError that suggests the nearest one.
    """
    from ..explain import explainers

    explicit = {name: value for name, value in options.items() if value is not None}
    try:
        return explainers.resolve(method)(**explicit)
    except TypeError as error:
        raise ValueError(str(error)) from error


def enlarged_view(photograph: Image, network: nn.Module, sharpness: int = SHARPNESS) -> Picture:
    """Return the picture as the model sees it (crop and all), at a higher resolution."""
    from ..images import Preprocessing, prepare

    return prepare(photograph, Preprocessing.of(network).enlarged(sharpness)).pixels[0]


def read_methods(text: str | None, **options: Any) -> tuple[str, ...]:
    """Return the names of the explainers to compare (`a,b,c`), after checking that they exist."""
    from ..explain.comparison import check_methods

    return check_methods(read_names(text), options)


def read_names(text: str | None) -> list[str] | None:
    """Return `a,b,c` as a list."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def display_stem(path: Path) -> str:
    """Return the name of a path without its ending; "." and ".." are resolved first."""
    try:
        return path.resolve().stem
    except (OSError, RuntimeError, ValueError):  # a circular link, an invalid name
        return path.stem


def read_target(text: str | None, network: nn.Module) -> str | None:
    """Return the target of an explainer, after checking that it is a class of the model."""
    if text is not None:
        names = class_names(network)
        resolve_class(text, binary_names(names) or names)
    return text


def read_strengths(text: str | None) -> tuple[float, ...] | None:
    """Return `0,0.5,1` as numbers."""
    if text is None:
        return None
    try:
        strengths = tuple(float(part) for part in text.split(","))
    except ValueError:
        strengths = ()
    if not any(strengths) or not all(abs(strength) < 100 for strength in strengths):
        raise ValueError(
            f"strength: expected numbers such as 0.25,0.5,1, got {text!r} — 0 is always added"
        )
    return strengths


def read_region(text: str | None, image: Path | Image, network: nn.Module) -> Any:
    """Return a region of the photograph as a `Mask` of the model's input, or None."""
    if text is None:
        return None
    import numpy as np
    from PIL.Image import fromarray

    from ..images import Preprocessing, read
    from ..prompting import Mask
    from ..prompting.regions import draw

    photograph = read(image)
    size = photograph.size[1], photograph.size[0]
    region = _region(text, photograph.size)
    coverage = draw(region, size)
    if not coverage.any():
        raise ValueError(
            f"region: expected a region inside the photograph of {size[1]}x{size[0]} pixels, got "
            f"{text!r} — x counts from the left edge and y from the top edge, from 0"
        )
    mask_image = fromarray((255 * coverage).round().astype(np.uint8)).convert("RGB")
    visible = np.asarray(Preprocessing.of(network).fit(mask_image).convert("L"))
    if not (visible > 0).any():
        raise ValueError(
            f"region: expected a region in the part of the photograph that the model sees, got "
            f"{text!r}, which the crop removes"
        )
    return Mask(visible.astype(np.float32) / 255, region.grow)


def _region(text: str, size: tuple[int, int]) -> Any:
    """Parse a region of `semattn.prompting`, on a photograph of (width, height)."""
    from ..prompting import Box, Mask, Points, Polygon

    shape, equals, coordinates = text.partition("=")
    try:
        if equals and shape in ("points", "polygon"):
            pairs = tuple(
                (float(x), float(y))
                for x, y in (pair.split(",") for pair in coordinates.split(";"))
            )
            return Points(pairs) if shape == "points" else Polygon(pairs)
        if re.fullmatch(r"\s*-?[\d.]+(\s*,\s*-?[\d.]+){3}\s*", text):
            left, top, right, bottom = (float(part) for part in text.split(","))
            return Box(left, top, right, bottom)
    except ValueError as error:
        raise ValueError(
            f"region: expected pairs x,y with ; between them, got {coordinates!r}"
        ) from error
    if not Path(text).is_file():
        raise ValueError(
            f"region: expected left,top,right,bottom, points=x,y;x,y, polygon=x,y;x,y;x,y or the "
            f"file of a mask, got {text!r}"
        )
    return Mask(_mask_file(Path(text), size))


def _mask_file(file: Path, size: tuple[int, int]) -> Any:
    """Return the inside of a mask file, at the photograph's size (width, height)."""
    from ..images import read_mask

    mask = read_mask(file, size)
    if not mask.is_plain:
        warnings.warn(f"region: of the mask {file.name}, {mask.reading}", stacklevel=2)
    return mask.inside


def read_layers(text: str | None) -> str | list[int] | None:
    """Return `6-11` and `3,7,11` as numbers; return other text and None unchanged."""
    if text is None:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not all(
            re.fullmatch("[0-9]{1,4}", number) for number in (first, *([last] if dash else []))
        ):
            return text
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


def read_precision(name: str, device: str) -> str:
    """Return a precision; "auto" is bfloat16 if the device supports it natively, else float32."""
    import torch

    if name != "auto":
        return name
    device_type = torch.device(device).type
    if device_type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not in every release
    return (
        "bfloat16"
        if device_type == "cpu" and has_bfloat16 is not None and has_bfloat16()
        else "float32"
    )


def read_classes(file: Path, count: int | None) -> tuple[str, ...]:
    """Return the class names in a file; check their number; warn with the note on it."""
    names, note = read_class_names(file)
    if note:
        warnings.warn(plain(note), stacklevel=1)
    if count:
        check_names(names, count, binary=count == 1)
    return names


def read_class_names(file: Path) -> tuple[tuple[str, ...], str]:
    """Return the class names in a file, by class number, and a note on how they were read.

    The note is "" if the file has only one possible reading.

    Parameters
    ----------
    file : one name per line, in the order of the classes; or lines with numbers (``0 cat``,
        ``cat,0``, ``0: cat``); or a list or dict in JSON, such as ImageNet's class index

    Raises
    ------
    ValueError
        For a file that cannot be read, is not text, or is ambiguous.
    """
    try:
        texts, notes = read_lines(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"class names: expected a text file with one name per line, got {file} ({error})"
        ) from error
    lines = [text.strip() for text in texts if text.strip()]
    content = _parse_structure(lines)
    if content is None:
        names, note = _names_from_lines(lines, file)
    else:
        names, note = _names_from_structure(content, file), "its names are read from a list or dict"
    notes += [note] if note else []
    return names, f"class names: {'; '.join(notes)}" if notes else ""


def _parse_structure(lines: Sequence[str]) -> Any:
    """Parse the lines as a list or dict in JSON or Python syntax; return None for other text."""
    text = "\n".join(lines)
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _names_from_structure(content: Any, file: Path) -> tuple[str, ...]:
    """Return the names in a list, in a dict by numbers, or in a dict of numbers by names."""
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]  # config.json of transformers
    if isinstance(content, dict):
        pairs = [(str(key), value) for key, value in content.items()]
        if all(isinstance(value, int) for _, value in pairs):  # a class_to_idx of torchvision
            pairs = [(str(number), name) for name, number in pairs]
        values = _order_by_number(pairs)
    else:
        values = list(content)
    if values is not None:  # ImageNet's index has pairs of WordNet number and name
        names = [item[-1] if isinstance(item, list | tuple) and item else item for item in values]
        if names and all(isinstance(name, str) for name in names):
            return tuple(name.strip() for name in names)
    raise ValueError(
        "class names: expected a list of names, or a name for each number from 0, "
        f"got {file} — write one name per line"
    )


def _names_from_lines(lines: list[str], file: Path) -> tuple[tuple[str, ...], str]:
    """Return the names in the lines, and a note on what was removed from them; "" for nothing."""
    names_and_notes = {}
    columns = re.split(r"[\s,;:]+", lines[0].casefold()) if lines else []
    rows = lines[1:] if len(columns) == 2 and COLUMNS.issuperset(columns) else lines
    for number, name, pattern in ((1, 2, _NUMBER_FIRST), (2, 1, _NUMBER_LAST)):
        matches = [pattern.fullmatch(line) for line in rows]
        if rows and all(matches):
            names = _order_by_number([(match[number], match[name]) for match in matches if match])
            # "class 0", "class 1" are names with numbers, not numbered names
            if names is not None and 2 * len(set(names)) > len(names):
                names_and_notes[tuple(map(_unquoted, names))] = NUMBERED
    if len(names_and_notes) > 1:
        raise SemattnError(
            f"class names: expected a class number in one column, got {rows[0]!r} in {file}, where "
            "both columns may be the number — write one name per line, without numbers"
        )
    if names_and_notes:
        return next(iter(names_and_notes.items()))
    wordnet = [_WORDNET_FIRST.fullmatch(line) for line in lines]
    if lines and all(wordnet):
        names = [match[1] for match in wordnet if match]
        return tuple(names), "WordNet numbers before its names are left out"
    if lines and all(map(_QUOTED.fullmatch, lines)):
        return tuple(map(_unquoted, lines)), "quotes around its names are left out"
    return tuple(lines), ""


def _order_by_number(pairs: Sequence[tuple[str, Any]]) -> list[Any] | None:
    """Return the values in the order of their numbers, from 0 or 1; None for other numbers."""
    if not all(re.fullmatch("[0-9]{1,9}", number) for number, _ in pairs):
        return None
    by_number = {int(number): value for number, value in pairs}
    start = min(by_number, default=0)
    if start > 1 or sorted(by_number) != list(range(start, start + len(pairs))):
        return None
    return [by_number[number] for number in sorted(by_number)]


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text.rstrip(","))
    return quoted[2] if quoted else text


def read_bounds(text: str | None) -> tuple[int, int] | None:
    """Return the least and the greatest number of ``N`` or ``MIN-MAX``.

    Examples
    --------
    >>> read_bounds("1-8"), read_bounds("2")
    ((1, 8), (2, 2))
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2] or match[1]):
        raise ValueError(f"actors: expected N or MIN-MAX, got {text!r} — for example 2 or 1-8")
    return int(match[1]), int(match[2] or match[1])
