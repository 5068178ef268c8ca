"""Preprocessing of pictures for a model: size, crop, mean and std.

The result equals that of timm's evaluation transform. It is implemented with PIL and does not
import timm. Settings are read from timm's model attributes; `processors` reads those of other
libraries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import ImageError, ShapeError, UnsupportedModelError
from semattn.utils.registry import unknown_name_message

from . import processors
from .picture import MAX_PIXELS

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
CROP_ROUNDINGS = ("even", "down")

# timm's defaults for settings that a config lacks.
_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}


@dataclass(frozen=True)
class Preprocessing:
    """Conversion of a picture to the model's input, and back to pixels.

    Parameters
    ----------
    size : (H, W) of the model's input, pixels
    mean, std : C values each, for pixels in [0, 1]; one channel means grey
    interpolation : name of a PIL resampling filter
    crop_pct : share of the side of the resized picture that the crop keeps
    crop_mode : "center" (the shortest side fits, the rest is cropped), "squash" (both sides fit,
        the aspect ratio changes) or "border" (the longest side fits, the rest is filled with the
        mean)
    crop_rounding : rounding of a crop offset of half a pixel: "even" (torchvision and timm) or
        "down" (transformers)
    source : where the settings come from, for the manifest of a result; "" if they were given

    Examples
    --------
    >>> half = Preprocessing(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> half.normalize(half.fit(Image.new("RGB", (40, 20), "white"))).unique()
    tensor([1.])
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    crop_rounding: str = "even"
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                unknown_name_message("interpolation", self.interpolation, INTERPOLATIONS)
            )
        if self.crop_mode not in CROP_MODES:
            raise ValueError(unknown_name_message("crop_mode", self.crop_mode, CROP_MODES))
        if self.crop_rounding not in CROP_ROUNDINGS:
            raise ValueError(
                unknown_name_message("crop_rounding", self.crop_rounding, CROP_ROUNDINGS)
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ShapeError(
                "preprocessing: expected one mean and std for each of 1 or 3 channels, got "
                f"{len(self.mean)} and {len(self.std)} — pass a tensor for other channels"
            )
        if len(self.size) != 2 or min(*self.size, self.crop_pct, *self.std) <= 0:
            raise ValueError(
                f"preprocessing: expected a positive size (H, W), std and crop_pct, got {self} — "
                "give them as the model was trained"
            )

    def enlarged(self, longer_side: int) -> Preprocessing:
        """Return the same view at the multiple of the size that is nearest to a longer side.

        Examples
        --------
        >>> Preprocessing((32, 64), (0.5,), (0.5,)).enlarged(200).size
        (96, 192)
        """
        factor = max(1, round(longer_side / max(self.size)))
        return replace(self, size=(factor * self.size[0], factor * self.size[1]))

    @classmethod
    def of(cls, model: Any, *, needed_by: str = "") -> Preprocessing:
        """Read the preprocessing of a model, an image processor or a transform.

        Parameters
        ----------
        model : a model with a `Preprocessing` as its attribute `preprocessing`, as `semattn.load`
            sets it; a timm or OpenCLIP model, a module with one as a direct submodule, a
            transformers image processor or a pipeline with one, or torchvision's
            ``weights.transforms()``; a model of transformers, or a module with one as a direct
            submodule, if it was loaded from a local folder with its image processor
        needed_by : name of the class or function with the argument `preprocessing`, for messages

        Raises
        ------
        UnsupportedModelError
            If no preprocessing is found, the model has neither 1 nor 3 channels, or the result for
            a test picture differs from that of the processor.

        Notes
        -----
        The size of a timm model is ``patch_embed.img_size``, or else that of its config. If a model
        with one channel has a config for three, mean and std are averaged. A wrapper that
        normalises its input cannot be detected: pass tensors to such a model, or a `Preprocessing`
        with mean 0 and std 1.
        """
        if isinstance(of_model := getattr(model, "preprocessing", None), cls):
            return of_model
        if (processor_settings := processors.settings(model)) is not None:
            fields, transform = processor_settings
            preprocessing = cls(**fields)
            if transform is not None:
                processors.check(preprocessing._to_input_and_std, transform, type(model).__name__)
            return replace(preprocessing, source=f"settings of {type(model).__name__}")
        owner_and_config = _find_config(model)
        if owner_and_config is None:
            return cls._of_transformers(model, needed_by)
        owner, config = owner_and_config
        size = getattr(getattr(owner, "patch_embed", None), "img_size", None)
        size = size or tuple(config["input_size"])[-2:]
        mean, std = tuple(config["mean"]), tuple(config["std"])
        channels = _input_channels(owner, config.get("first_conv")) or len(mean)
        if channels == 1:
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        elif channels != len(mean):
            raise UnsupportedModelError(
                f"preprocessing: expected a model with 1 or 3 channels, got {channels} — "
                "pass a tensor"
            )
        return cls(
            size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
            mean=mean,
            std=std,
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
            source=f"pretrained_cfg of {type(owner).__name__}",
        )

    @classmethod
    def of_saved(cls, source: str) -> Preprocessing:
        """Read the image processor of transformers in a folder, or in a repository of the hub."""
        processor = processors.read_processor(source)
        return replace(cls.of(processor), source=f"{type(processor).__name__} in {source}")

    @classmethod
    def _of_transformers(cls, model: Any, needed_by: str) -> Preprocessing:
        """Read the image processor in the local folder of a model of transformers."""
        part = processors.model_of_transformers(model)
        folder = processors.origin(part)
        if not processors.has_processor(folder):
            raise _no_settings_error(model, part, folder, needed_by)
        try:
            preprocessing = cls.of_saved(folder)
        except UnsupportedModelError:
            raise
        except Exception as error:  # of transformers
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise UnsupportedModelError(
                f"preprocessing: expected an image processor in {folder!r}, got {reason!r} — "
                "save it again with save_pretrained, or write "
                f"{_argument(needed_by, 'semattn.Preprocessing.of(processor)')}"
            ) from error
        processors.check_channels(part.config, len(preprocessing.mean), folder)
        return preprocessing

    def visible_share(self, size: tuple[int, int]) -> float:
        """Return the share of a picture's area that the model sees, apart from the usual crop.

        The usual crop is that of `crop_pct` for a picture with the aspect ratio of the input.

        Parameters
        ----------
        size : (width, height) of the picture

        Examples
        --------
        >>> Preprocessing((16, 16), (0.5,), (0.5,)).visible_share((4000, 1000))
        0.25
        """
        if self.crop_mode != "center":
            return 1.0
        ratios = (size[1] / self.size[0], size[0] / self.size[1])
        return min(ratios) / max(ratios)

    def fit(self, picture: Image.Image) -> Image.Image:
        """Resize and crop an RGB picture to `size`.

        Raises
        ------
        ImageError
            For a picture so narrow that it would be resized to more than `MAX_PIXELS`.
        """
        uncropped = [math.floor(side / self.crop_pct) for side in self.size]
        sides = [picture.height, picture.width]
        ratios = [
            side / uncropped_side for side, uncropped_side in zip(sides, uncropped, strict=True)
        ]
        fill = [0, 0, 0]
        if self.crop_mode == "squash":
            scaled = uncropped
        elif self.crop_mode == "border":
            scaled = [round(side / max(ratios)) for side in sides]
            fill = [round(255 * mean) for mean in self.mean] * (3 // len(self.mean))
        elif uncropped[0] == uncropped[1]:  # timm uses torchvision for squares, which rounds down
            scaled = [int(uncropped[0] * side / min(sides)) for side in sides]
        else:
            scaled = [round(side / min(ratios)) for side in sides]
        if scaled[0] * scaled[1] > MAX_PIXELS:
            raise ImageError(
                f"image: expected a less narrow picture, got {sides[1]}x{sides[0]}, which would be "
                f"resized to {scaled[1]}x{scaled[0]} — crop it first"
            )
        resampling = Image.Resampling[self.interpolation.upper()]
        resized = picture.resize((max(scaled[1], 1), max(scaled[0], 1)), resampling)
        return _center_crop(resized, self.size, (fill[0], fill[1], fill[2]), self.crop_rounding)

    def normalize(self, picture: Image.Image) -> Tensor:
        """Convert a fitted picture to a model input (C, H, W), float32."""
        return self.inputs(np.asarray(picture.convert(self.mode).convert("RGB"))[None])[0]

    def inputs(self, pixels: np.ndarray) -> Tensor:
        """Convert fitted pixels (B, H, W, 3) to model inputs (B, C, H, W), float32."""
        planes = pixels[..., : len(self.mean)].transpose(0, 3, 1, 2)
        values = torch.from_numpy(planes.astype(np.float32, order="C"))
        return values.div_(255).sub_(_column(self.mean)).div_(_column(self.std))

    @property
    def mode(self) -> str:
        """Mode of Pillow for the model's channels: "RGB", or "L" for one channel."""
        return "L" if len(self.mean) == 1 else "RGB"

    def restore(self, inputs: Tensor) -> Tensor:
        """Undo the normalisation of (…, C, H, W)."""
        std, mean = (_column(values).to(inputs.device) for values in (self.std, self.mean))
        return inputs * std + mean

    def _to_input_and_std(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        return self.normalize(self.fit(picture)), torch.tensor(self.std, device="cpu")


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").reshape(-1, 1, 1)


def _find_config(model: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return the module with a config of timm, and the config completed with timm's defaults."""
    for owner in (model, *getattr(model, "children", tuple)()):
        config = getattr(owner, "pretrained_cfg", None) or getattr(owner, "default_cfg", None)
        if config:
            fields = config if isinstance(config, Mapping) else vars(config)
            return owner, _DEFAULTS | {key: value for key, value in fields.items() if value}
    return None


def _no_settings_error(model: Any, part: Any, origin: str, needed_by: str) -> UnsupportedModelError:
    """Return the error for a model without preprocessing settings.

    Parameters
    ----------
    part : the model of transformers in `model`, or None
    origin : folder or hub name that `part` was loaded from, or ""
    """
    name = type(model).__name__
    if part is None:
        settings = _argument(needed_by, "semattn.Preprocessing(size, mean, std)")
        return UnsupportedModelError(
            f"preprocessing: expected a model with a pretrained_cfg, got {name} without one — "
            f"pass a tensor, or write {settings}, or with torchvision's weights "
            "semattn.Preprocessing.of(weights.transforms())"
        )
    is_folder = bool(origin) and Path(origin).is_dir()
    if is_folder:
        load = f"save the processor there with processor.save_pretrained({origin!r})"
    else:
        both = f"semattn.load({f'hf:{origin}'!r})" if origin else (
            "semattn.load('./folder') or semattn.load('hf:owner/name')"
        )  # fmt: skip
        load = f"load both with {both}"
    return UnsupportedModelError(
        f"preprocessing: expected a model with preprocessing settings, got {name}, whose settings "
        f"are in its image processor — "
        f"write {_argument(needed_by, 'semattn.Preprocessing.of(processor)')}, or {load}"
    )


def _argument(needed_by: str, value: str) -> str:
    """Return the code that passes a preprocessing to the class or function that needs it."""
    return f"{needed_by}(preprocessing={value})" if needed_by else f"preprocessing={value}"


def _input_channels(owner: Any, first: Any) -> int | None:
    """Return the input channels of the first convolution, if the config names it."""
    try:
        name = first if isinstance(first, str) else first[0]
        return int(owner.get_submodule(name).in_channels)
    except (AttributeError, TypeError, IndexError):
        return None


def _center_crop(
    picture: Image.Image, size: tuple[int, int], fill: tuple[int, int, int], rounding: str
) -> Image.Image:
    """Crop the central (H, W) of a picture; pad it if it is too small."""
    (height, width), (picture_height, picture_width) = size, (picture.height, picture.width)
    if height > picture_height or width > picture_width:
        canvas = Image.new("RGB", (max(width, picture_width), max(height, picture_height)), fill)
        canvas.paste(
            picture, (max(width - picture_width, 0) // 2, max(height - picture_height, 0) // 2)
        )
        picture = canvas
    round_offset = round if rounding == "even" else math.floor
    top, left = (
        round_offset((picture.height - height) / 2),
        round_offset((picture.width - width) / 2),
    )
    return picture.crop((left, top, left + width, top + height))
