"""From what a person types to what the library takes. Each refuses in one line."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..class_files import read_class_names
from ..class_names import check_names, class_names, resolve_class
from ..errors import plain

if TYPE_CHECKING:
    from torch import nn

    from ..viz import Picture

RANDOM_SEED = 0  # of --random-weights
SHARPNESS = 896  # pixels of the longer side of a picture that is looked at alone, about


def read_explainer(method: str, **options: Any) -> Any:
    """The explainer of that name; options that are None are left to it.

    An option that it lacks is a ValueError that names the nearest one and lists them all.
    """
    from ..explain import explainers

    chosen = {name: value for name, value in options.items() if value is not None}
    try:
        return explainers.ensure(method)(**chosen)
    except TypeError as error:
        raise ValueError(str(error)) from error


def load_model(
    name: str | None,
    checkpoint: Path | None,
    *,
    names: Path | None,
    pretrained: bool,
    device: str,
) -> nn.Module:
    """A model of the zoo; with the class names of a file, where one was given.

    Random weights are the same in every run; a warning and the manifest say that they are random.
    """
    import torch

    from .. import zoo
    from ..manifest import WEIGHTS_SOURCE

    if pretrained or checkpoint is not None:
        network = zoo.load(name, checkpoint=checkpoint, pretrained=pretrained, device=device)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            network = zoo.load(name, pretrained=False, device=device)
        setattr(network, WEIGHTS_SOURCE, f"random, seed {RANDOM_SEED}")
        warnings.warn(
            f"model: its weights are random (seed {RANDOM_SEED}), so that its answers and maps "
            "mean nothing — leave out --random-weights for trained ones",
            UserWarning,
            stacklevel=1,
        )
    if names is not None:
        count = getattr(network, "num_classes", None)
        network.classes = read_classes(names, count)  # type: ignore[assignment]
    return network


def sharp(image: Path | bytes, network: nn.Module, sharpness: int = SHARPNESS) -> Picture:
    """The view that the model has of the image, in more pixels."""
    from ..images import Preprocessing, prepare

    wants = Preprocessing.of(network)
    times = max(1, round(sharpness / max(wants.size)))
    height, width = wants.size
    return prepare(image, replace(wants, size=(times * height, times * width))).pixels[0]


def read_methods(given: str | None, **options: Any) -> tuple[str, ...]:
    """The names of the explainers to compare, `a,b,c`, once they are known to exist."""
    from ..comparison import check

    return check(read_names(given), options)


def read_names(given: str | None) -> list[str] | None:
    """`a,b,c` as a list."""
    if given is None:
        return None
    return [part.strip() for part in given.split(",") if part.strip()]


def name_of(path: Path) -> str:
    """What a path is called, without its ending: "." and ".." by where they lead."""
    try:
        return path.resolve().stem
    except (OSError, RuntimeError, ValueError):  # a link in a circle, a name that cannot be
        return path.stem


def read_classes(file: Path, count: int | None) -> tuple[str, ...]:
    """The names in a file, as many as the model has classes; a warning says what was assumed."""
    names, note = read_class_names(file)
    if note:
        warnings.warn(plain(note), stacklevel=1)
    if count:
        check_names(names, count, binary=count == 1)
    return names


def read_target(given: str | None, network: nn.Module) -> int | None:
    """The class that a name or a number stands for, see `semattn.class_names.resolve_class`."""
    if given is None:
        return None
    return resolve_class(given, class_names(network))


def read_strengths(given: str | None) -> tuple[float, ...] | None:
    """`0,0.5,1` as numbers."""
    if given is None:
        return None
    try:
        found = tuple(float(part) for part in given.split(","))
    except ValueError:
        found = ()
    if not any(found) or not all(abs(one) < 100 for one in found):
        raise ValueError(
            f"strength: expected numbers such as 0.25,0.5,1, got {given!r} — 0 is added by itself"
        )
    return found


def read_region(given: str | None, image: Path | bytes, network: nn.Module) -> Any:
    """A region of the photograph, as the model sees it: a `Mask`, or None."""
    if given is None:
        return None
    import numpy as np
    from PIL import Image

    from ..images import Preprocessing, read
    from ..prompting import Mask
    from ..prompting.regions import draw

    photograph = read(image)
    size = photograph.size[1], photograph.size[0]
    region = _region(given, photograph.size)
    drawn = draw(region, size)
    if not drawn.any():
        raise ValueError(
            f"region: expected one inside the photograph of {size[1]}x{size[0]} pixels, got "
            f"{given!r} — x counts to the right and y down, from 0"
        )
    page = Image.fromarray((255 * drawn).round().astype(np.uint8)).convert("RGB")
    seen = np.asarray(Preprocessing.of(network).fit(page).convert("L"))
    if not (seen > 0).any():
        raise ValueError(
            f"region: expected one in the part of the photograph that the model sees, got "
            f"{given!r}, which the crop cuts off"
        )
    return Mask(seen.astype(np.float32) / 255, region.grow)


def _region(given: str, size: tuple[int, int]) -> Any:
    """What was typed, as a region of `semattn.prompting` on a photograph of (width, height)."""
    from ..prompting import Box, Mask, Points, Polygon

    kind, equals, rest = given.partition("=")
    try:
        if equals and kind in ("points", "polygon"):
            pairs = tuple(
                (float(x), float(y)) for x, y in (one.split(",") for one in rest.split(";"))
            )
            return Points(pairs) if kind == "points" else Polygon(pairs)
        if re.fullmatch(r"\s*-?[\d.]+(\s*,\s*-?[\d.]+){3}\s*", given):
            left, top, right, bottom = (float(part) for part in given.split(","))
            return Box(left, top, right, bottom)
    except ValueError as error:
        raise ValueError(f"region: expected pairs x,y with ; between them, got {rest!r}") from error
    if not Path(given).is_file():
        raise ValueError(
            f"region: expected left,top,right,bottom, points=x,y;x,y, polygon=x,y;x,y;x,y or the "
            f"file of a mask, got {given!r}"
        )
    return Mask(_mask_file(Path(given), size))


def _mask_file(file: Path, size: tuple[int, int]) -> Any:
    """The object of a mask file of the photograph's size (width, height)."""
    from ..images import read_mask

    found = read_mask(file, size)
    if not found.is_plain:
        warnings.warn(f"region: of the mask {file.name}, {found.reading}", stacklevel=2)
    return found.inside


def read_layers(given: str | None) -> str | list[int] | None:
    """`6-11` and `3,7,11` as numbers; words, and nothing, as they are."""
    if given is None:
        return None
    numbers: list[int] = []
    for part in given.split(","):
        first, dash, last = part.strip().partition("-")
        if not all(re.fullmatch("[0-9]{1,4}", one) for one in (first, *([last] if dash else []))):
            return given
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


def read_precision(name: str, device: str) -> str:
    """The name of a precision; "auto" is bfloat16 where the device's own instructions know it."""
    import torch

    if name != "auto":
        return name
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not in every release
    return "bfloat16" if kind == "cpu" and asked is not None and asked() else "float32"


def read_device(name: str) -> str:
    """The name of a device, once it is known that this machine has it."""
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: expected one that this machine has, got {name!r} — --device cpu always works"
        ) from error
    return name
