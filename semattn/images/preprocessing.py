"""What a model wants done to a picture: size, crop, mean and std.

The arithmetic is that of timm's evaluation transform, number for number, written on PIL alone:
timm is never imported. The model is only asked for the attributes in which timm keeps its wishes;
what other libraries keep beside their models is read by `processors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import ImageError, ShapeError, UnsupportedModelError
from semattn.utils.registry import choices

from . import processors
from .picture import MAX_PIXELS

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
CROP_ROUNDINGS = ("even", "down")

# What timm takes where a config is silent.
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
    """From a picture to the model's input, and back to pixels.

    Parameters
    ----------
    size : (H, W) of the model's input, pixels
    mean, std : C values each, for pixels in [0, 1]; one channel means grey
    interpolation : a filter of PIL by its name
    crop_pct : the part of the resized picture's side that the crop keeps
    crop_mode : "center" (the shortest side fits, the rest is cut), "squash" (sides scaled apart)
        or "border" (the longest side fits, the rest is filled with the mean)
    crop_rounding : where a crop starts that would start at half a pixel: "even" (torchvision's and
        timm's) or "down" (transformers')

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

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(choices("interpolation", self.interpolation, INTERPOLATIONS))
        if self.crop_mode not in CROP_MODES:
            raise ValueError(choices("crop_mode", self.crop_mode, CROP_MODES))
        if self.crop_rounding not in CROP_ROUNDINGS:
            raise ValueError(choices("crop_rounding", self.crop_rounding, CROP_ROUNDINGS))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ShapeError(
                "preprocessing: expected one mean and std for each of 1 or 3 channels, got "
                f"{len(self.mean)} and {len(self.std)} — a picture has no others; pass a tensor"
            )
        if len(self.size) != 2 or min(*self.size, self.crop_pct, *self.std) <= 0:
            raise ValueError(
                f"preprocessing: expected a positive size (H, W), std and crop_pct, got {self} — "
                "give them as the model was trained"
            )

    @classmethod
    def of(cls, model: Any) -> Preprocessing:
        """Read it from a model or its direct submodules, or from what stands beside a model.

        That is a transformers image processor (or a pipeline that has one) or torchvision's
        ``weights.transforms()``. Of a timm model, the size is the one that it was built for
        (``patch_embed.img_size``), else its config's. Where a model of one channel has a config
        for three, their averages are taken. An OpenCLIP model or tower bears its own config.

        Raises
        ------
        UnsupportedModelError
            When nothing tells, it takes neither 1 nor 3 channels, or a processor does what cannot
            be said in these terms: compared on a test picture, not assumed.

        Notes
        -----
        A wrapper that normalises by itself cannot be told from one that does not: give such a
        model tensors, or a `Preprocessing` with mean 0 and std 1.
        """
        if (said := processors.settings(model)) is not None:
            fields, call = said
            made = cls(**fields)
            if call is not None:
                processors.check(made._input_and_std, call, type(model).__name__)
            return made
        owner, config = _configured(model)
        size = getattr(getattr(owner, "patch_embed", None), "img_size", None)
        size = size or tuple(config["input_size"])[-2:]
        mean, std = tuple(config["mean"]), tuple(config["std"])
        channels = _channels(owner, config.get("first_conv")) or len(mean)
        if channels == 1:
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        elif channels != len(mean):
            raise UnsupportedModelError(
                f"preprocessing: expected a model of 1 or 3 channels, got one of {channels} — "
                "a picture has no others"
            )
        return cls(
            size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
            mean=mean,
            std=std,
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
        )

    def seen_share(self, size: tuple[int, int]) -> float:
        """Return which part of a picture's area the model sees, the usual border left out.

        The usual border is what `crop_pct` cuts off a picture of the model's own proportions.

        Parameters
        ----------
        size : (width, height) of the picture

        Examples
        --------
        >>> Preprocessing((16, 16), (0.5,), (0.5,)).seen_share((4000, 1000))
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
            For one so long and narrow that it would be resized to more than `MAX_PIXELS`.
        """
        wanted = [math.floor(side / self.crop_pct) for side in self.size]
        sides = [picture.height, picture.width]
        ratios = [have / want for have, want in zip(sides, wanted, strict=True)]
        fill = [0, 0, 0]
        if self.crop_mode == "squash":
            scaled = wanted
        elif self.crop_mode == "border":
            scaled = [round(side / max(ratios)) for side in sides]
            fill = [round(255 * mean) for mean in self.mean] * (3 // len(self.mean))
        elif wanted[0] == wanted[1]:  # timm hands squares to torchvision, which rounds down
            scaled = [int(wanted[0] * side / min(sides)) for side in sides]
        else:
            scaled = [round(side / min(ratios)) for side in sides]
        if scaled[0] * scaled[1] > MAX_PIXELS:
            raise ImageError(
                f"image: expected sides that differ less, got {sides[1]}x{sides[0]}, which would be"
                f" resized to {scaled[1]}x{scaled[0]} — crop it first"
            )
        resampling = Image.Resampling[self.interpolation.upper()]
        resized = picture.resize((max(scaled[1], 1), max(scaled[0], 1)), resampling)
        return _center(resized, self.size, (fill[0], fill[1], fill[2]), self.crop_rounding)

    def normalize(self, picture: Image.Image) -> Tensor:
        """A fitted picture as the model takes it, (C, H, W) float32."""
        return self.inputs(np.asarray(picture.convert(self.mode).convert("RGB"))[None])[0]

    def inputs(self, pixels: np.ndarray) -> Tensor:
        """Fitted pixels (B, H, W, 3) as the model takes them, (B, C, H, W) float32."""
        planes = pixels[..., : len(self.mean)].transpose(0, 3, 1, 2)
        values = torch.from_numpy(planes.astype(np.float32, order="C"))
        return values.div_(255).sub_(_column(self.mean)).div_(_column(self.std))

    @property
    def mode(self) -> str:
        """What the model sees of a picture, in Pillow's words: "RGB", or "L" for one channel."""
        return "L" if len(self.mean) == 1 else "RGB"

    def restore(self, inputs: Tensor) -> Tensor:
        """Undo the normalisation of (…, C, H, W)."""
        std, mean = (_column(one).to(inputs.device) for one in (self.std, self.mean))
        return inputs * std + mean

    def _input_and_std(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        return self.normalize(self.fit(picture)), torch.tensor(self.std, device="cpu")


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").reshape(-1, 1, 1)


def _configured(model: Any) -> tuple[Any, dict[str, Any]]:
    """The module that bears a config, and that config with nothing missing."""
    for owner in (model, *getattr(model, "children", tuple)()):
        config = getattr(owner, "pretrained_cfg", None) or getattr(owner, "default_cfg", None)
        if config:
            given = config if isinstance(config, Mapping) else vars(config)
            return owner, _DEFAULTS | {key: value for key, value in given.items() if value}
    if hasattr(getattr(model, "config", None), "model_type"):
        raise UnsupportedModelError(
            f"preprocessing: expected a model that says how it wants pictures, got "
            f"{type(model).__name__}, whose image processor does — pass a tensor, or "
            "preprocessing=Preprocessing.of(processor)"
        )
    raise UnsupportedModelError(
        f"preprocessing: expected a model with a pretrained_cfg, got {type(model).__name__} "
        "without one — pass a tensor, or preprocessing=Preprocessing(size, mean, std), or "
        "Preprocessing.of(weights.transforms()) with torchvision's weights"
    )


def _channels(owner: Any, first: Any) -> int | None:
    """Channels that the first convolution takes, where the config names it."""
    try:
        name = first if isinstance(first, str) else first[0]
        return int(owner.get_submodule(name).in_channels)
    except (AttributeError, TypeError, IndexError):
        return None


def _center(
    picture: Image.Image, size: tuple[int, int], fill: tuple[int, int, int], rounding: str
) -> Image.Image:
    """The middle (H, W) of a picture; filled where it is too small."""
    (height, width), (have_h, have_w) = size, (picture.height, picture.width)
    if height > have_h or width > have_w:
        canvas = Image.new("RGB", (max(width, have_w), max(height, have_h)), fill)
        canvas.paste(picture, (max(width - have_w, 0) // 2, max(height - have_h, 0) // 2))
        picture = canvas
    whole = round if rounding == "even" else math.floor
    top, left = whole((picture.height - height) / 2), whole((picture.width - width) / 2)
    return picture.crop((left, top, left + width, top + height))
