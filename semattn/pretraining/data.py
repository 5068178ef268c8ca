"""Data set of a run: crops of pictures with their masks, as pure functions of their keys.

A key is (epoch, index). Crop, flip and mask depend on the key, the seed and the picture only. An
item is therefore the same in every worker and process, and after a resume.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..data import list_images
from ..density import Scene, count, densities, density_needs
from ..errors import ImageError
from ..grid import PatchGrid
from ..images import Preprocessing, read
from ..keypoints import Keypoints, detect
from ..masking import (
    Crop,
    DescriptorWords,
    KeypointCache,
    Masking,
    RandomMasking,
    generator,
    loss_weights,
    num_visible,
    output_length,
    patch_targets,
)
from ..masking.crop import SCALE

CROP_PURPOSE, OTHER_PURPOSE, ORDER_PURPOSE = 2, 3, 4  # separate the random numbers of each use

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CENTER = 0.875  # fraction of the shorter side in a center crop


class MaskedImages(Dataset):
    """Data set of random crops of pictures with their masks.

    An item is a dict: `pixel_values` (3, H, W) float32, normalised; `noise` (P,) float32; and
    `loss_weight` (P,) float32 unless it is "none"; `target` (P, D), or words (P,), if requested.
    Keys are (epoch, index), as given by `EpochSampler`.

    Parameters
    ----------
    pictures : paths, arrays or PIL images, as accepted by `semattn.images.read`
    masking : masking policy
    size : side of a crop, pixels
    patch_size : side of a patch, pixels
    density : for policies that use it: a name in `semattn.densities`, or a function of a `Scene`;
        "other" is the count of another picture, drawn once for each picture
    cache : keypoints of the full pictures; without it, keypoints are detected in each crop
    detector : detector for crops, used without a cache
    loss_weight, temperature : as for `semattn.masking.loss_weights`
    target, window : as for `semattn.masking.patch_targets`, which a trainer can also call inside
        its step, on a GPU; computed on the pixels of the crop
    scale : smallest and largest fraction of a picture's area in a crop
    seed : seed of the crops; the masks use the seed of the policy
    mean, std : of the normalisation

    Examples
    --------
    >>> picture = np.zeros((80, 100, 3), dtype=np.uint8)
    >>> data = MaskedImages([picture], RandomMasking(), size=64, patch_size=16)
    >>> {name: tuple(value.shape) for name, value in data[0, 0].items()}
    {'pixel_values': (3, 64, 64), 'noise': (16,)}
    """

    def __init__(
        self,
        pictures: Sequence[Any],
        masking: Masking,
        *,
        size: int = 224,
        patch_size: int = 16,
        density: Any = "count",
        cache: KeypointCache | None = None,
        detector: Any = "sift",
        loss_weight: str = "none",
        temperature: float = 0.5,
        target: str | DescriptorWords | None = None,
        window: float = 16.0,
        scale: tuple[float, float] = SCALE,
        seed: int = 0,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        if size % patch_size:
            raise ValueError(
                f"image_size: expected a multiple of the patch size {patch_size}, got {size}"
            )
        self.pictures, self.masking = pictures, masking
        shape = (size // patch_size, size // patch_size)
        self.grid = PatchGrid(shape, (size, size), (patch_size, patch_size), prefix=1)
        self.visible = num_visible(self.grid.patches, masking.mask_ratio)
        self.other = density == "other"
        self.density = count if self.other else densities.resolve(density)
        self.needs = density_needs(self.density)
        self.cache, self.detector = cache, detector
        self.loss_weight, self.temperature = loss_weight, temperature
        loss_weights(loss_weight, np.zeros(1), 1.0, temperature)  # raises for unknown names
        self.target, self.window = target, window
        if target is not None:
            output_length(target, patch_size=patch_size)  # raises for unknown names
        self.scale, self.seed = scale, seed
        self.mean, self.std = (
            torch.tensor(values, device="cpu").reshape(3, 1, 1) for values in (mean, std)
        )
        self._check()

    def _check(self) -> None:
        if not len(self.pictures):
            raise ImageError("pictures: expected at least one, got none — pass photographs")
        if self.other and len(self.pictures) < 2:
            raise ValueError("density: expected at least two pictures for 'other', got one")
        # Raises if the policy does not support this number of patches.
        self.masking.noise(np.zeros(self.grid.patches), self.grid.shape, 0)
        if self.cache is not None:
            self.use(self.cache)

    def use(self, cache: KeypointCache) -> None:
        """Use the keypoints of a cache."""
        self.check_cacheable()
        if len(cache) != len(self.pictures):
            raise ValueError(
                f"cache: expected the keypoints of {len(self.pictures)} pictures, got those of "
                f"{len(cache)} — build it from the same list"
            )
        self.cache = cache

    def check_cacheable(self) -> None:
        """Raise ValueError if the density needs descriptors, which a cache does not store."""
        if self.masking.needs_density and "descriptors" in self.needs:
            raise ValueError(
                "density: expected one without descriptors, which a cache does not store — detect "
                "keypoints in each crop, or use count, size, gaussian, response or surround"
            )

    @property
    def uses_keypoints(self) -> bool:
        """True if items depend on keypoints."""
        guided = self.masking.needs_density and (self.other or bool(self.needs))
        return guided or self.loss_weight != "none"

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        picture = self.picture(index)
        return self.item(picture, self.crop(picture.size, epoch, index), epoch, index)

    def picture(self, index: int) -> Image.Image:
        """Return a full picture."""
        return read(self.pictures[index])

    def crop(self, picture: tuple[int, int], epoch: int, index: int) -> Crop:
        """Return the crop of a picture of size (width, height) in an epoch."""
        chance = generator(self.seed, epoch, index, CROP_PURPOSE)
        return Crop.draw((picture[1], picture[0]), self.grid.image_size, chance, self.scale)

    def item(self, picture: Image.Image, crop: Crop, epoch: int, index: int) -> dict[str, Tensor]:
        """Return the item of a picture and a crop of it."""
        cropped = crop.image(picture)
        pixels = np.array(cropped)
        item = {"pixel_values": self.normalized(pixels)}
        s = np.zeros(self.grid.patches)
        if self.masking.needs_density:
            s = self.densities(pixels, crop, epoch, index)
        item["noise"] = torch.from_numpy(self.masking.noise(s, self.grid.shape, index, epoch))
        if self.loss_weight != "none":
            counts = count(self._scene(pixels, self.keypoints(pixels, crop, index)))[0]
            area = self.grid.cell[0] * self.grid.cell[1]
            weight = loss_weights(self.loss_weight, counts, area, self.temperature)
            assert weight is not None
            item["loss_weight"] = weight
        if self.target is not None:
            side = int(self.grid.cell[0])
            item["target"] = patch_targets(
                pixels[None], self.target, patch_size=side, window=self.window
            )[0]
        return item

    @property
    def preprocessing(self) -> Preprocessing:
        """Normalisation of the inputs; its `restore` undoes it."""
        mean, std = (tuple(values.flatten().tolist()) for values in (self.mean, self.std))
        return Preprocessing(self.grid.image_size, mean, std)

    def normalized(self, pixels: np.ndarray) -> Tensor:
        """Convert pixels (H, W, 3) uint8 to normalised model inputs (3, H, W)."""
        chw = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float()
        return chw.div_(255).sub_(self.mean).div_(self.std)

    def densities(self, pixels: np.ndarray, crop: Crop, epoch: int, index: int) -> np.ndarray:
        """Return the density (P,) for the masks, from the pixels (H, W, 3) of a crop."""
        keypoints = None
        if self.other:
            keypoints = self._other_keypoints(epoch, index)
        elif self.needs:
            keypoints = self.keypoints(pixels, crop, index)
        return self.density(self._scene(pixels, keypoints))[0].numpy()

    def keypoints(self, pixels: np.ndarray, crop: Crop, index: int) -> Keypoints:
        """Return the keypoints of a crop, from the cache or detected in its pixels (H, W, 3)."""
        if self.cache is not None:
            return crop.keypoints(self.cache[index])
        needs_descriptors = "descriptors" in self.needs
        return detect(pixels[None], self.detector, workers=1, descriptors=needs_descriptors)[0]

    def _other_keypoints(self, epoch: int, index: int) -> Keypoints:
        """Return the keypoints of the crop of another picture in this epoch."""
        count = len(self.pictures)
        step = int(generator(self.seed, 0, index, OTHER_PURPOSE).integers(1, count))
        other = (index + step) % count
        if self.cache is not None:
            keypoints = self.cache[other]
            return self.crop(keypoints.image_size[::-1], epoch, other).keypoints(keypoints)
        picture = self.picture(other)
        crop = self.crop(picture.size, epoch, other)
        return self.keypoints(np.array(crop.image(picture)), crop, other)

    def _scene(self, pixels: np.ndarray, keypoints: Keypoints | None) -> Scene:
        keypoint_list = () if keypoints is None else (keypoints,)
        return Scene(pixels[None], keypoint_list, self.grid, self.seed)


class FixedMasks(Dataset):
    """Data set of center crops with one fixed set of random masks, on which losses are compared.

    Parameters
    ----------
    data : data set with the pictures, the size and the normalisation
    pictures : pictures to use instead of those of `data`
    seed : seed of the masks, which are the same in each epoch
    """

    def __init__(
        self, data: MaskedImages, pictures: Sequence[Any] | None = None, seed: int = 0
    ) -> None:
        size, cell = data.grid.image_size[0], int(data.grid.cell[0])
        self.data = MaskedImages(
            data.pictures if pictures is None else pictures,
            RandomMasking(data.masking.mask_ratio, seed),
            size=size, patch_size=cell,
            mean=data.preprocessing.mean, std=data.preprocessing.std,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        picture = self.data.picture(index)
        crop = middle(picture, self.data.grid.image_size)
        return self.data.item(picture, crop, 0, index)


def middle(picture: Image.Image, size: tuple[int, int]) -> Crop:
    """Return the center crop of a picture, as used in evaluation."""
    return Crop.center((picture.height, picture.width), size, CENTER)


class EpochSampler(Sampler):
    """Sampler of the keys (epoch, index) of an epoch in random order, the same in every process.

    Parameters
    ----------
    count : number of pictures
    seed : seed of the order
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = generator(self.seed, epoch, 0, ORDER_PURPOSE).permutation(self.count)
        return ((epoch, int(index)) for index in order)


def readable(folder: str | os.PathLike[str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Split the files of a folder into pictures and others, by header; others have a reason.

    Raises
    ------
    ImageError
        If the folder cannot be read or holds no picture.
    """
    files = list_images(folder)

    def open_error(path: Path) -> str:
        try:
            with Image.open(path):
                return ""
        except Exception as error:  # noqa: BLE001 — decoders raise any type of error
            return " ".join(str(error).split()) or type(error).__name__

    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(open_error, files))
    pictures = [path for path, reason in zip(files, reasons, strict=True) if not reason]
    if not pictures:
        raise ImageError(
            f"folder: expected pictures, got {len(files)} other files in {folder} — "
            "choose a folder of photographs"
        )
    return pictures, [(path, reason) for path, reason in zip(files, reasons, strict=True) if reason]
