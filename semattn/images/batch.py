"""Batches of images: the model input, and the pixels that it shows.

Float tensors are passed to the model unchanged, and a copy is converted to pixels. Other inputs are
pictures, which are read by `picture` and prepared by `preprocessing`.
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
from semattn.utils.remote_path import StoredFile, is_stored_file
from semattn.utils.validation import check_values

from .picture import read_with_note
from .preprocessing import Preprocessing

ImageLike: TypeAlias = (
    "Images | Tensor | np.ndarray | Image.Image | StoredFile | str | os.PathLike[str] | bytes"
    " | list[Any]"
)
"""One picture or a batch in any form that `prepare` accepts."""

PreprocessingLike: TypeAlias = "Preprocessing | Callable[[], Preprocessing] | None"

PICTURE_CHANNELS = (1, 3)
LEAST_SEEN = 0.6  # minimum visible share; 4:3 and 3:2 photographs are cropped to 0.75 and 0.67
SLACK = 0.02  # tolerance of pixel values outside [0, 1] after resizing or rounding


@dataclass(frozen=True, eq=False)
class Images:
    """Batch of images: model inputs and displayable pixels.

    Parameters
    ----------
    inputs : (B, C, H, W), the input of the model
    pixels : (B, H, W, 3) uint8, the same images for display
    names : B file names, or "image 0", …
    batched : False for a single image without a batch axis
    prepared : whether `inputs` were computed from pictures; otherwise they are the caller's tensor
    notes : notes for the user on how the pictures were read
    preprocessing : preprocessing that computed `inputs`; None if they are the caller's tensor
    """

    inputs: Tensor
    pixels: np.ndarray
    names: tuple[str, ...]
    batched: bool
    prepared: bool = False
    notes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    @property
    def pixels_are_mean(self) -> bool:
        """Return whether `pixels` are the mean of the channels: neither 1 nor 3 channels.

        Keypoints should not be detected on such pixels.
        """
        return self.inputs.shape[1] not in PICTURE_CHANNELS


def prepare(
    source: Any,
    preprocessing: PreprocessingLike = None,
    *,
    any_channels: bool = False,
    names: Sequence[str] | None = None,
) -> Images:
    """Prepare a batch from any image input.

    Parameters
    ----------
    source : float tensor (C, H, W) or (B, C, H, W), passed to the model unchanged; or a picture
        that `read` accepts, a uint8 tensor (C, H, W), a list of those, an array (B, H, W, C), or a
        uint8 tensor (B, C, H, W); `Images` are returned unchanged
    preprocessing : preprocessing of the model, or a function that returns it; needed for pictures
    any_channels : accept float tensors with any number of channels; if there are neither 1 nor 3,
        the pixels are the mean of the channels (`mean_of_channels`)
    names : names of the pictures; None uses the names of their files

    Raises
    ------
    ImageError
        For a picture that cannot be read, or NaN or inf in a tensor.
    ShapeError
        For an empty batch, or channels that are not 1 or 3, unless `any_channels`.

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
    sources, batched = _as_list(source)
    transform = preprocessing() if callable(preprocessing) else preprocessing
    if transform is None:
        raise ValueError(
            "preprocessing: expected a Preprocessing for pictures, got None — pass "
            "preprocessing=Preprocessing(size, mean, std), or a float tensor"
        )
    names = tuple(names or ()) or tuple(
        Path(label).name if (label := display_name(picture_source)) else f"image {i}"
        for i, picture_source in enumerate(sources)
    )
    fitted: list[Image.Image] = []
    notes: list[str] = []
    for name, picture_source in zip(names, sources, strict=True):
        picture, note = read_with_note(_channels_last(picture_source))
        if note:
            warnings.warn(note, stacklevel=2)
        notes += filter(None, (note, _crop_note(name, picture.size, transform)))
        fitted.append(transform.fit(picture))
    # SIFT gets the same image as the model, in grey for models of one channel.
    visible = [picture.convert(transform.mode).convert("RGB") for picture in fitted]
    pixels = np.stack([np.asarray(picture) for picture in visible])
    return Images(
        inputs=transform.inputs(pixels),
        pixels=pixels,
        names=names,
        batched=batched,
        prepared=True,
        notes=tuple(dict.fromkeys(notes)),
        preprocessing=transform,
    )


def _crop_note(name: str, size: tuple[int, int], transform: Preprocessing) -> str:
    """Return a note if the model sees only a small part of a picture; "" otherwise."""
    share = transform.visible_share(size)
    if share >= LEAST_SEEN:
        return ""
    return (
        f"The model sees the middle {100 * share:.0f} % of {name} ({size[0]} x {size[1]} pixels): "
        "crop it to the region of interest, or in Python pass preprocessing=dataclasses.replace("
        "Preprocessing.of(model), crop_mode='squash'), or 'border'."
    )


def display_name(source: Any) -> str:
    """Return the display name of a picture: its path, address, or path in an archive; else "".

    Characters that cannot be displayed are escaped.
    """
    if isinstance(source, (str, os.PathLike)):
        return plain(Path(source).as_posix())
    return plain(str(source)) if is_stored_file(source) else ""


def pixels_of(
    inputs: Tensor, preprocessing: PreprocessingLike = None, *, any_channels: bool = False
) -> np.ndarray:
    """Convert inputs (B, C, H, W) to pixels (B, H, W, 3), uint8.

    Each image is converted separately: values in [0, 1] are used as they are. Otherwise the
    normalisation is undone if that leads to [0, 1]. Otherwise the image is stretched between its
    minimum and maximum, which has little effect on SIFT. With `any_channels`, inputs with neither 1
    nor 3 channels are converted by `mean_of_channels`; do not detect keypoints on these.

    Raises
    ------
    ImageError
        For NaN or inf, or a type that is neither float nor uint8.
    ShapeError
        For inputs that are empty, not (B, C, H, W), or have other channels than the model.

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
            "inputs: expected a non-empty (B, C, H, W) with C of 1 or 3, got "
            f"{tuple(inputs.shape)} — pass at least one image, channels before height"
        )
    values = _finite_values(inputs)
    transform = _resolve_preprocessing(preprocessing)
    if transform is not None and len(transform.mean) != inputs.shape[1]:
        raise ShapeError(
            f"inputs: expected {len(transform.mean)} channels for this model, got "
            f"{tuple(inputs.shape)} — "
            + (
                "pass the picture, or x.mean(dim=1, keepdim=True)"
                if len(transform.mean) == 1
                else "pass the picture, or x.expand(-1, 3, -1, -1)"
            )
        )
    return _to_bytes(_to_unit_range(values, transform))


def mean_of_channels(inputs: Tensor) -> np.ndarray:
    """Convert inputs (B, C, H, W) with any C to grey pixels (B, H, W, 3), uint8.

    Each channel of each image is stretched between its minimum and maximum; the pixels are the mean
    over channels.

    Raises
    ------
    ImageError
        For NaN or inf, or a type that is neither float nor uint8.
    ShapeError
        For an empty tensor.

    Examples
    --------
    >>> two = torch.tensor([[0.0, 9.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    >>> mean_of_channels(two)[0, 0, :, 0].tolist()
    [0, 128]
    """
    if inputs.ndim != 4 or inputs.numel() == 0:
        raise ShapeError(
            "inputs: expected a non-empty (B, C, H, W), got "
            f"{tuple(inputs.shape)} — pass at least one image and one channel"
        )
    channels = _finite_values(inputs).flatten(0, 1)[:, None]
    stretched_channels = torch.stack([_stretch(channel) for channel in channels])
    return _to_bytes(
        stretched_channels.unflatten(0, inputs.shape[:2])[:, :, 0].mean(dim=1, keepdim=True)
    )


def _finite_values(inputs: Tensor) -> Tensor:
    """Return the values as float32 on the CPU; raise ImageError for NaN, inf and other types."""
    if inputs.dtype == torch.uint8:
        values = inputs.cpu() / 255
    elif inputs.is_floating_point():
        values = inputs.detach().to("cpu", torch.float32)
    else:
        raise ImageError(f"inputs: expected float or uint8, got {inputs.dtype} — call .float()")
    extremes = [side.numpy() for side in values.flatten(1).aminmax(dim=1)]  # NaN stays NaN
    broken = np.flatnonzero(~np.isfinite(extremes).all(axis=0))
    if len(broken):
        raise ImageError(
            f"inputs: expected finite values, got NaN or inf in image {broken[0]} — clean it first"
        )
    return values


def _to_bytes(raw: Tensor) -> np.ndarray:
    """Convert values (B, 1 or 3, H, W) in about [0, 1] to pixels (B, H, W, 3), uint8."""
    levels = (raw * 255).round_().clamp_(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def keypoint_channels_error(channels: int, instead: str) -> ShapeError:
    """Return the error for inputs with neither 1 nor 3 channels if keypoints are needed."""
    return ShapeError(
        f"inputs: expected 1 or 3 channels to detect keypoints on, got {channels} — {instead}"
    )


def luma(pixels: np.ndarray) -> np.ndarray:
    """Compute the luma in [0, 1], float64, of pixels (…, 3), with the weights of ITU-R 601."""
    return pixels @ np.array([0.299, 0.587, 0.114]) / 255


def _resolve_preprocessing(preprocessing: PreprocessingLike) -> Preprocessing | None:
    """Return the preprocessing; None for a model without one, which needs tensors."""
    try:
        return preprocessing() if callable(preprocessing) else preprocessing
    except UnsupportedModelError:
        return None


def _to_unit_range(values: Tensor, transform: Preprocessing | None) -> Tensor:
    """Convert images (B, C, H, W) to about [0, 1], each by the first way that fits it."""
    are_done = _are_in_unit_range(values)
    if are_done.all():
        return values
    result = values
    if transform is not None:
        restored = transform.restore(values)
        are_restored = _are_in_unit_range(restored) & ~are_done
        result = _select(restored, are_restored, values)
        are_done |= are_restored
    if are_done.all():
        return result
    stretched = [_stretch(values[row]) for row in np.flatnonzero(~are_done)]
    return result.index_copy(0, torch.from_numpy(np.flatnonzero(~are_done)), torch.stack(stretched))


def _select(selected: Tensor, where: np.ndarray, others: Tensor) -> Tensor:
    """Return the images of `selected` where a mask (B,) is true, those of `others` elsewhere."""
    if where.all():
        return selected
    return torch.where(torch.from_numpy(where)[:, None, None, None], selected, others)


def _stretch(image: Tensor) -> Tensor:
    """Rescale values to [0, 1]; constant values become 0."""
    least, greatest = image.aminmax()
    if (greatest - least).isinf():
        image, least, greatest = image / 2, least / 2, greatest / 2
    return (image - least) / (greatest - least).clamp(min=torch.finfo(image.dtype).tiny)


def _are_in_unit_range(values: Tensor) -> np.ndarray:
    """Return which images (B, C, H, W) on the CPU are in about [0, 1], as a mask (B,)."""
    least, greatest = (side.numpy() for side in values.flatten(1).aminmax(dim=1))
    mask: np.ndarray = (least >= -SLACK) & (greatest <= 1 + SLACK)
    return mask


def _as_list(source: Any) -> tuple[Sequence[Any], bool]:
    """Return the pictures in `source` as a list, and whether it was a batch."""
    is_batch = isinstance(source, (list, tuple)) or getattr(source, "ndim", 0) == 4
    sources = list(source) if is_batch else [source]
    if not sources:
        raise ShapeError("image: expected at least one image, got an empty batch — pass an image")
    return sources, is_batch


def _channels_last(source: Any) -> Any:
    """Convert a uint8 tensor (C, H, W) to an array (H, W, C); return other values unchanged."""
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
