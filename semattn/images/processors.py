"""What the image processors of other libraries do, in the terms of `Preprocessing`.

Read from attributes alone: transformers' image processors (or what bears one: a processor, a
pipeline), torchvision's presets (``weights.transforms()``), OpenCLIP's models and image towers. No
such library is imported. What can be called is called on a test picture, and is refused unless the
result is the same: a processor may do more than its attributes tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import UnsupportedModelError
from semattn.utils.validation import as_tensor

LEVELS = 3  # of 255; by how much two ways to resize may differ in rounding

Call = Callable[[Image.Image], Tensor]


def settings(source: Any) -> tuple[dict[str, Any], Call | None] | None:
    """The fields of a `Preprocessing`, and what to compare with; None for any other object."""
    source = getattr(source, "image_processor", None) or source
    if hasattr(source, "do_resize") and hasattr(source, "resample"):
        return _transformers(source), lambda picture: _pixel_values(source, picture)
    if hasattr(source, "resize_size") and hasattr(source, "crop_size"):
        return _torchvision(source), source
    for tower in (source, getattr(source, "visual", None)):
        config = getattr(tower, "preprocess_cfg", None) or _legacy(tower)
        if isinstance(config, Mapping):
            return _open_clip(config, type(source).__name__), None
    return None


def check(restored: Callable[[Image.Image], tuple[Tensor, Tensor]], call: Call, name: str) -> None:
    """Raise UnsupportedModelError unless both make the same of a test picture.

    Parameters
    ----------
    restored : a picture's input (C, H, W) as we make it, and the standard deviations (C,)
    call : the same by the other library
    name : of its class
    """
    picture = _test_picture()
    ours, std = restored(picture)
    try:
        with torch.device("cpu"):  # other libraries' transforms follow the default device
            theirs = as_tensor(call(picture)).to(torch.float32)
    except Exception as error:  # whatever it raises, it is no answer
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _unlike(name, f"it fails on a picture ({reason})") from error
    if theirs.shape != ours.shape:
        raise _unlike(name, f"it makes {tuple(theirs.shape)}, not {tuple(ours.shape)}")
    levels = float(((theirs - ours) * std[:, None, None] * 255).abs().max())
    if not levels <= LEVELS:
        raise _unlike(name, f"its result differs by {levels:.0f} of 255 levels")


def _test_picture() -> Image.Image:
    """Blobs of colour, of uneven sides: shifts, turns and swapped channels all show.

    Its levels are middle ones, since where resizing overshoots, clipping differs by more than
    rounding does.
    """
    blobs = np.random.default_rng(0).integers(64, 192, (64, 91, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((533, 371), Image.Resampling.BICUBIC)


def _transformers(source: Any) -> dict[str, Any]:
    name = type(source).__name__
    if not source.do_resize:
        raise _unlike(name, "it does not resize")
    size = dict(source.size or {})
    crop = dict(source.crop_size or {}) if getattr(source, "do_center_crop", False) else {}
    final = (crop["height"], crop["width"]) if {"height", "width"} <= crop.keys() else None
    if size.keys() == {"height", "width"}:
        geometry = _squashed((size["height"], size["width"]), final, name)
    elif size.keys() == {"shortest_edge"} and final:
        geometry = _shortest(size["shortest_edge"], final, name)
    else:
        raise _unlike(name, f"its size {size} is not the same for every picture")
    mean, std = _levels(source)
    resample = Image.Resampling.BILINEAR if source.resample is None else source.resample
    return geometry | {
        "mean": mean,
        "std": std,
        "interpolation": Image.Resampling(int(resample)).name.lower(),
        "crop_rounding": "down",
    }


def _levels(source: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for pixels in [0, 1], whatever the levels are that the processor takes."""
    mean, std = _three(0.0), _three(1.0)
    if getattr(source, "do_normalize", False):
        mean, std = _three(source.image_mean), _three(source.image_std)
    factor = 255.0 * (source.rescale_factor if getattr(source, "do_rescale", False) else 1.0)
    return tuple(one / factor for one in mean), tuple(one / factor for one in std)


def _three(values: Any) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(map(float, values))


def _pixel_values(source: Any, picture: Image.Image) -> Tensor:
    return source(images=picture, return_tensors="pt")["pixel_values"][0]


def _torchvision(source: Any) -> dict[str, Any]:
    name, resized = type(source).__name__, source.resize_size
    crop = _pair(source.crop_size)
    if isinstance(resized, int) or len(resized) == 1:
        geometry = _shortest(_pair(resized)[0], crop, name)
    else:
        geometry = _squashed(_pair(resized), crop, name)
    return geometry | {
        "mean": tuple(source.mean),
        "std": tuple(source.std),
        "interpolation": source.interpolation.value,
    }


def _legacy(tower: Any) -> dict[str, Any] | None:
    """What OpenCLIP wrote on a tower before it kept all of it in one dict."""
    names = {"size": "image_size", "mean": "image_mean", "std": "image_std"}
    found = {key: getattr(tower, name, None) for key, name in names.items()}
    return found if all(value is not None for value in found.values()) else None


def _open_clip(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    size = _pair(config["size"])
    mode = config.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise _unlike(name, f"its resize_mode {mode!r} fills the border with a colour of its own")
    return {
        "size": size,
        "mean": _three(config["mean"]),
        "std": _three(config["std"]),
        "interpolation": config.get("interpolation") or "bicubic",
        "crop_mode": "center" if mode == "shortest" else "squash",
    }


def _shortest(edge: int, crop: tuple[int, int], name: str) -> dict[str, Any]:
    """The shortest side becomes `edge`, the middle (H, W) is kept."""
    if crop[0] != crop[1]:
        raise _unlike(name, f"it cuts {crop} out of a picture whose shortest side is {edge}")
    return {"size": crop, "crop_pct": _part(crop[0], edge), "crop_mode": "center"}


def _squashed(whole: tuple[int, int], crop: tuple[int, int] | None, name: str) -> dict[str, Any]:
    """The sides become `whole`, the middle (H, W) is kept, or all of it."""
    crop = crop or whole
    part = _part(crop[0], whole[0])
    if math.floor(crop[1] / part) != whole[1]:
        raise _unlike(name, f"it cuts {crop} out of {whole}")
    return {"size": crop, "crop_pct": part, "crop_mode": "squash"}


def _part(crop: int, whole: int) -> float:
    """`crop_pct` such that floor(crop / crop_pct) is `whole`, in spite of rounding."""
    part = crop / whole
    return part if math.floor(crop / part) == whole else math.nextafter(part, 0)


def _pair(size: Any) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0]), int(sides[-1])


def _unlike(name: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"preprocessing: expected a processor that resizes, crops and normalises, got {name}: "
        f"{reason} — process the picture with it and pass the tensor"
    )
