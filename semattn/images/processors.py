"""Settings of `Preprocessing` from the image processors of other libraries.

Supported are image processors of transformers (also in a processor or pipeline), presets of
torchvision (``weights.transforms()``), and models and image towers of OpenCLIP. The settings are
read from attributes, without importing these libraries. A processor may do more than its attributes
show; so its result for a test picture is compared, and a difference raises an error. Only
`read_processor`, which reads the file of an image processor, imports transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import UnsupportedModelError
from semattn.utils.validation import as_tensor

LEVELS = 3  # of 255; tolerance for the rounding of different resize implementations
FILES = ("preprocessor_config.json", "processor_config.json")  # with an image processor

Transform = Callable[[Image.Image], Tensor]


def settings(source: Any) -> tuple[dict[str, Any], Transform | None] | None:
    """Return `Preprocessing` fields and a transform to compare with; None for other objects."""
    source = getattr(source, "image_processor", None) or source
    if hasattr(source, "do_resize") and hasattr(source, "resample"):
        return _transformers_settings(source), lambda picture: _pixel_values(source, picture)
    if hasattr(source, "resize_size") and hasattr(source, "crop_size"):
        return _torchvision_settings(source), source
    for tower in (source, getattr(source, "visual", None)):
        config = getattr(tower, "preprocess_cfg", None) or _legacy_config(tower)
        if isinstance(config, Mapping):
            return _open_clip_settings(config, type(source).__name__), None
    return None


def read_processor(source: str) -> Any:
    """Read the image processor of transformers in a folder, or in a repository of the hub.

    The network is used only if `source` is not a folder. Code in the repository is not run.
    """
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(
        source, local_files_only=Path(source).is_dir(), trust_remote_code=False
    )


def model_of_transformers(model: Any) -> Any:
    """Return the model of transformers: `model` or one of its direct submodules; None without."""
    parts = (model, *getattr(model, "children", tuple)())
    return next((part for part in parts if _has_model_type(part)), None)


def origin(model: Any) -> str:
    """Return the folder or hub name that a model of transformers was loaded from; "" if unknown."""
    config = getattr(model, "config", None)
    names = (getattr(model, "name_or_path", ""), getattr(config, "_name_or_path", ""))
    return next((name for name in names if name and isinstance(name, str)), "")


def has_processor(folder: str) -> bool:
    """Return whether a local folder holds the file of an image processor."""
    return bool(folder) and any((Path(folder) / name).is_file() for name in FILES)


def check_channels(config: Any, values: int, source: str) -> None:
    """Raise UnsupportedModelError if the config of a model names another number of channels.

    Parameters
    ----------
    config : config of a model of transformers
    values : number of values of the mean of the image processor
    source : the folder, or the specification of the model, for the message
    """
    config = getattr(config, "vision_config", None) or config
    channels = getattr(config, "num_channels", None)
    if isinstance(channels, int) and channels != values:
        raise UnsupportedModelError(
            f"model: expected an image processor for {channels} channels in {source!r}, got one "
            f"for {values} — set its image_mean and image_std"
        )


def check(
    restored: Callable[[Image.Image], tuple[Tensor, Tensor]], transform: Transform, name: str
) -> None:
    """Raise UnsupportedModelError unless both transforms agree on a test picture.

    Parameters
    ----------
    restored : returns our input (C, H, W) for a picture, and the standard deviations (C,)
    transform : the transform of the other library
    name : name of its class
    """
    picture = _test_picture()
    result, std = restored(picture)
    try:
        with torch.device("cpu"):  # other libraries' transforms follow the default device
            reference = as_tensor(transform(picture)).to(torch.float32)
    except Exception as error:  # code of the other library may raise any error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _unsupported(name, f"it fails on a picture ({reason})") from error
    if reference.shape != result.shape:
        raise _unsupported(name, f"it makes {tuple(reference.shape)}, not {tuple(result.shape)}")
    levels = float(((reference - result) * std[:, None, None] * 255).abs().max())
    if not levels <= LEVELS:
        raise _unsupported(name, f"its result differs by {levels:.0f} of 255 levels")


def _has_model_type(part: Any) -> bool:
    return hasattr(getattr(part, "config", None), "model_type")


def _test_picture() -> Image.Image:
    """Return a picture of coloured blobs that reveals shifts, rotations and swapped channels.

    Its pixel values stay away from 0 and 255, because implementations differ in how they clip the
    overshoot of an interpolation.
    """
    blobs = np.random.default_rng(0).integers(64, 192, (64, 91, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((533, 371), Image.Resampling.BICUBIC)


def _transformers_settings(source: Any) -> dict[str, Any]:
    name = type(source).__name__
    if not source.do_resize:
        raise _unsupported(name, "it does not resize")
    size = dict(source.size or {})
    crop = dict(source.crop_size or {}) if getattr(source, "do_center_crop", False) else {}
    final_size = (crop["height"], crop["width"]) if {"height", "width"} <= crop.keys() else None
    if size.keys() == {"height", "width"}:
        geometry = _squash_settings((size["height"], size["width"]), final_size, name)
    elif size.keys() == {"shortest_edge"} and final_size:
        geometry = _center_settings(size["shortest_edge"], final_size, name)
    else:
        raise _unsupported(name, f"its size {size} is not the same for every picture")
    mean, std = _normalisation(source)
    resample = Image.Resampling.BILINEAR if source.resample is None else source.resample
    return geometry | {
        "mean": mean,
        "std": std,
        "interpolation": Image.Resampling(int(resample)).name.lower(),
        "crop_rounding": "down",
    }


def _normalisation(source: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for pixels in [0, 1], independent of the processor's rescaling."""
    mean, std = _rgb_values(0.0), _rgb_values(1.0)
    if getattr(source, "do_normalize", False):
        mean, std = _rgb_values(source.image_mean), _rgb_values(source.image_std)
    factor = 255.0 * (source.rescale_factor if getattr(source, "do_rescale", False) else 1.0)
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _rgb_values(values: Any) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, int | float) else tuple(map(float, values))


def _pixel_values(source: Any, picture: Image.Image) -> Tensor:
    return source(images=picture, return_tensors="pt")["pixel_values"][0]


def _torchvision_settings(source: Any) -> dict[str, Any]:
    name, resized = type(source).__name__, source.resize_size
    crop = _as_pair(source.crop_size)
    if isinstance(resized, int) or len(resized) == 1:
        geometry = _center_settings(_as_pair(resized)[0], crop, name)
    else:
        geometry = _squash_settings(_as_pair(resized), crop, name)
    return geometry | {
        "mean": tuple(source.mean),
        "std": tuple(source.std),
        "interpolation": source.interpolation.value,
    }


def _legacy_config(tower: Any) -> dict[str, Any] | None:
    """Return the settings of a tower of older OpenCLIP versions, which are separate attributes."""
    names = {"size": "image_size", "mean": "image_mean", "std": "image_std"}
    config = {key: getattr(tower, name, None) for key, name in names.items()}
    return config if all(value is not None for value in config.values()) else None


def _open_clip_settings(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    size = _as_pair(config["size"])
    mode = config.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise _unsupported(
            name, f"its resize_mode {mode!r} fills the border with a colour of its own"
        )
    return {
        "size": size,
        "mean": _rgb_values(config["mean"]),
        "std": _rgb_values(config["std"]),
        "interpolation": config.get("interpolation") or "bicubic",
        "crop_mode": "center" if mode == "shortest" else "squash",
    }


def _center_settings(edge: int, crop: tuple[int, int], name: str) -> dict[str, Any]:
    """Return settings for a resize of the shortest side to `edge` and a center crop (H, W)."""
    if crop[0] != crop[1]:
        raise _unsupported(name, f"it cuts {crop} out of a picture whose shortest side is {edge}")
    return {"size": crop, "crop_pct": _crop_pct(crop[0], edge), "crop_mode": "center"}


def _squash_settings(
    resized: tuple[int, int], crop: tuple[int, int] | None, name: str
) -> dict[str, Any]:
    """Return settings for a resize to `resized` (H, W) and an optional center crop."""
    crop = crop or resized
    crop_pct = _crop_pct(crop[0], resized[0])
    if math.floor(crop[1] / crop_pct) != resized[1]:
        raise _unsupported(name, f"it cuts {crop} out of {resized}")
    return {"size": crop, "crop_pct": crop_pct, "crop_mode": "squash"}


def _crop_pct(crop: int, side: int) -> float:
    """Return `crop_pct` such that floor(crop / crop_pct) equals `side` in floating point."""
    crop_pct = crop / side
    return crop_pct if math.floor(crop / crop_pct) == side else math.nextafter(crop_pct, 0)


def _as_pair(size: Any) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0]), int(sides[-1])


def _unsupported(name: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"preprocessing: expected a processor that resizes, crops and normalises, got {name}: "
        f"{reason} — process the picture with it and pass the tensor"
    )
