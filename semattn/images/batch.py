"""What goes to the model, and the pixels that it stands for.

Float tensors are the caller's: they reach the model as the same object, and only a copy is turned
into pixels. Everything else is a picture and takes the way of `picture` and `preprocessing`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import ImageError, ShapeError, UnsupportedModelError, plain
from semattn.utils.validation import check_values

from .archives import TarMember
from .picture import read_with_note
from .preprocessing import Preprocessing

Wanted: TypeAlias = "Preprocessing | Callable[[], Preprocessing] | None"

PICTURE_CHANNELS = (1, 3)
LEAST_SEEN = 0.6  # of a picture; photographs of 4:3 and 3:2 are cropped to 0.75 and 0.67
SLACK = 0.02  # by how much pixel values may leave [0, 1] after resizing or rounding


@dataclass(frozen=True, eq=False)
class Images:
    """A batch, for the model and for the eye.

    Parameters
    ----------
    inputs : (B, C, H, W), exactly what the model gets
    pixels : (B, H, W, 3) uint8, what a person sees of it, of the same H and W
    names : B file names, or "image 0", …
    batched : False when one image came without a batch axis
    prepared : whether `inputs` were made from pictures; else they are the caller's own tensor
    notes : sentences about how the pictures were read that a person must know
    """

    inputs: Tensor
    pixels: np.ndarray
    names: tuple[str, ...]
    batched: bool
    prepared: bool = False
    notes: tuple[str, ...] = ()

    @property
    def pixels_are_mean(self) -> bool:
        """Return whether the inputs have neither 1 nor 3 channels: `pixels` are a grey stand-in.

        Keypoints are not to be detected on it.
        """
        return self.inputs.shape[1] not in PICTURE_CHANNELS


def prepare(source: Any, preprocessing: Wanted = None, *, any_channels: bool = False) -> Images:
    """Make a batch of any image.

    Parameters
    ----------
    source : float tensor (C, H, W) or (B, C, H, W), given to the model unchanged; or a picture that
        `read` takes, a uint8 tensor (C, H, W), a list of those, an array (B, H, W, C), or a uint8
        tensor (B, C, H, W); `Images` are handed back
    preprocessing : what the model wants, or a function that finds it out; needed for pictures
    any_channels : accept float tensors of any number of channels; where there are neither 1 nor 3,
        the pixels are the mean of the channels (`mean_of_channels`)

    Raises
    ------
    ImageError
        A picture that cannot be read; NaN or inf in a tensor.
    ShapeError
        Nothing in the batch; channels that are not 1 or 3, unless `any_channels`.

    Examples
    --------
    >>> images = prepare(torch.rand(3, 28, 28))
    >>> images.inputs.shape, images.pixels.shape, images.names, images.batched
    (torch.Size([1, 3, 28, 28]), (1, 28, 28, 3), ('image 0',), False)
    """
    if isinstance(source, Images):
        return source
    if isinstance(source, Tensor) and source.dtype != torch.uint8:
        batched = source.ndim != 3
        inputs = source if batched else source.unsqueeze(0)
        pixels = pixels_of(inputs, preprocessing, any_channels=any_channels)
        return Images(inputs, pixels, tuple(f"image {i}" for i in range(len(inputs))), batched)
    sources, batched = _pictures(source)
    wanted = preprocessing() if callable(preprocessing) else preprocessing
    if wanted is None:
        raise ValueError(
            "preprocessing: expected one for a picture, got None — pass "
            "preprocessing=Preprocessing(size, mean, std), or a float tensor"
        )
    names = tuple(
        Path(said).name if (said := called(one)) else f"image {i}" for i, one in enumerate(sources)
    )
    fitted: list[Image.Image] = []
    notes: list[str] = []
    for name, one in zip(names, sources, strict=True):
        picture, note = read_with_note(_channels_last(one))
        if note:
            warnings.warn(note, stacklevel=2)
        notes += filter(None, (note, _crop_note(name, picture.size, wanted)))
        fitted.append(wanted.fit(picture))
    # What the model cannot see, SIFT does not see either.
    seen = [picture.convert(wanted.mode).convert("RGB") for picture in fitted]
    pixels = np.stack([np.asarray(picture) for picture in seen])
    return Images(
        inputs=wanted.inputs(pixels),
        pixels=pixels,
        names=names,
        batched=batched,
        prepared=True,
        notes=tuple(dict.fromkeys(notes)),
    )


def _crop_note(name: str, size: tuple[int, int], wanted: Preprocessing) -> str:
    """The note on a picture of which the model sees a small part; "" for any other."""
    share = wanted.seen_share(size)
    if share >= LEAST_SEEN:
        return ""
    return (
        f"The model sees the middle {100 * share:.0f} % of {name} ({size[0]} x {size[1]} pixels): "
        "crop it to the part of interest, or in Python pass preprocessing=dataclasses.replace("
        "Preprocessing.of(model), crop_mode='squash'), or 'border'."
    )


def called(source: Any) -> str:
    """What a picture is called: its path, or its place in an archive; "" for what has no name.

    Of signs that cannot be shown, the escapes.
    """
    if isinstance(source, (str, os.PathLike)):
        return plain(Path(source).as_posix())
    return plain(str(source)) if isinstance(source, TarMember) else ""


def pixels_of(
    inputs: Tensor, preprocessing: Wanted = None, *, any_channels: bool = False
) -> np.ndarray:
    """The pixels (B, H, W, 3), uint8, that inputs (B, C, H, W) stand for.

    Each image for itself: values in [0, 1] are pixels already; else the normalisation is undone,
    if that leads to [0, 1]; else the image is stretched between its least and greatest value, which
    SIFT hardly notices. With `any_channels`, inputs of neither 1 nor 3 channels give their mean
    (`mean_of_channels`); keypoints are not to be detected on it.

    Raises
    ------
    ImageError
        NaN or inf, or a type that is neither float nor uint8.
    ShapeError
        Not (B, C, H, W) with one image at least and C of 1 or 3, as the model takes.

    Examples
    --------
    >>> pixels_of(torch.tensor([-2.0, 0.0, 2.0]).expand(1, 3, 1, 3))[0, 0, :, 0].tolist()
    [0, 128, 255]
    """
    check_values("inputs", inputs)
    is_picture = inputs.ndim == 4 and inputs.shape[1] in PICTURE_CHANNELS
    if any_channels and inputs.ndim == 4 and not is_picture:
        return mean_of_channels(inputs)
    if not is_picture or inputs.numel() == 0:
        raise ShapeError(
            "inputs: expected (B, C, H, W) with C of 1 or 3 and nothing empty, got "
            f"{tuple(inputs.shape)} — one image at least, colour or grey, channels before height"
        )
    values = _finite_values(inputs)
    wanted = _known(preprocessing)
    if wanted is not None and len(wanted.mean) != inputs.shape[1]:
        raise ShapeError(
            f"inputs: expected {len(wanted.mean)} channels for this model, got "
            f"{tuple(inputs.shape)} — "
            + (
                "pass the picture, or x.mean(dim=1, keepdim=True)"
                if len(wanted.mean) == 1
                else "pass the picture, or x.expand(-1, 3, -1, -1)"
            )
        )
    return _levels(torch.stack([_raw(image, wanted) for image in values]))


def mean_of_channels(inputs: Tensor) -> np.ndarray:
    """Return a grey picture (B, H, W, 3), uint8, of inputs (B, C, H, W) with any C.

    Each channel of each image is stretched between its least and greatest value; the picture is
    the mean over channels.

    Raises
    ------
    ImageError
        NaN or inf, or a type that is neither float nor uint8.
    ShapeError
        An empty tensor.

    Examples
    --------
    >>> two = torch.tensor([[0.0, 9.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    >>> mean_of_channels(two)[0, 0, :, 0].tolist()
    [0, 128]
    """
    if inputs.ndim != 4 or inputs.numel() == 0:
        raise ShapeError(
            "inputs: expected (B, C, H, W) with nothing empty, got "
            f"{tuple(inputs.shape)} — one image and one channel at least"
        )
    channels = _finite_values(inputs).flatten(0, 1)[:, None]
    stretched = torch.stack([_stretched(channel) for channel in channels])
    return _levels(stretched.unflatten(0, inputs.shape[:2])[:, :, 0].mean(dim=1, keepdim=True))


def _finite_values(inputs: Tensor) -> Tensor:
    """The values as float32 on the CPU; raise ImageError for NaN, inf and other types."""
    if inputs.dtype == torch.uint8:
        values = inputs.cpu() / 255
    elif inputs.is_floating_point():
        values = inputs.detach().to("cpu", torch.float32)
    else:
        raise ImageError(f"inputs: expected float or uint8, got {inputs.dtype} — call .float()")
    extremes = torch.stack(values.flatten(1).aminmax(dim=1), dim=1)  # NaN, if there is one
    broken = (~extremes.isfinite()).any(1).nonzero().flatten().tolist()
    if broken:
        raise ImageError(
            f"inputs: expected finite values, got NaN or inf in image {broken[0]} — clean it first"
        )
    return values


def _levels(raw: Tensor) -> np.ndarray:
    """Pixels (B, H, W, 3), uint8, of values (B, 1 or 3, H, W) in about [0, 1]."""
    levels = (raw * 255).round_().clamp_(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def keypoint_channels_error(channels: int, instead: str) -> ShapeError:
    """Return what to raise where keypoints are needed and inputs are neither grey nor colour."""
    return ShapeError(
        f"inputs: expected 1 or 3 channels to detect keypoints on, got {channels} — {instead}"
    )


def luma(pixels: np.ndarray) -> np.ndarray:
    """Brightness in [0, 1], float64, of pixels (…, 3): the weights of ITU-R 601, as in OpenCV."""
    return pixels @ np.array([0.299, 0.587, 0.114]) / 255


def _known(preprocessing: Wanted) -> Preprocessing | None:
    """The preprocessing; None for a model that says nothing of it, but can be given tensors."""
    try:
        return preprocessing() if callable(preprocessing) else preprocessing
    except UnsupportedModelError:
        return None


def _raw(image: Tensor, wanted: Preprocessing | None) -> Tensor:
    """One image (C, H, W) in about [0, 1]."""
    if _is_raw(image):
        return image
    if wanted is not None and _is_raw(restored := wanted.restore(image)):
        return restored
    return _stretched(image)


def _stretched(image: Tensor) -> Tensor:
    """The values moved to [0, 1]; all 0 where they are equal."""
    least, greatest = image.aminmax()
    if (greatest - least).isinf():
        image, least, greatest = image / 2, least / 2, greatest / 2
    return (image - least) / (greatest - least).clamp(min=torch.finfo(image.dtype).tiny)


def _is_raw(image: Tensor) -> bool:
    least, greatest = image.aminmax()
    return bool(least >= -SLACK and greatest <= 1 + SLACK)


def _pictures(source: Any) -> tuple[Sequence[Any], bool]:
    """The pictures in `source`, and whether it was a batch."""
    is_batch = isinstance(source, (list, tuple)) or getattr(source, "ndim", 0) == 4
    sources = list(source) if is_batch else [source]
    if not sources:
        raise ShapeError("image: expected one image at least, got an empty batch — give some")
    return sources, is_batch


def _channels_last(source: Any) -> Any:
    """A uint8 tensor (C, H, W) as the array (H, W, C) that `read` takes; all else as it is."""
    if not isinstance(source, Tensor):
        return source
    if source.dtype != torch.uint8:
        raise ImageError(
            f"image: expected pictures in a list, got a tensor of {source.dtype} — "
            "put float tensors into one batch with torch.stack"
        )
    if source.ndim != 3 or source.shape[0] not in (1, 3, 4):
        raise ShapeError(
            f"image: expected a uint8 tensor (C, H, W) of 1, 3 or 4 channels, got "
            f"{tuple(source.shape)} — move the channels first"
        )
    check_values("image", source)
    return source.permute(1, 2, 0).cpu().numpy()
