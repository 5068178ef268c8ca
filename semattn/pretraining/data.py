"""The data set of a run: crops of pictures, each with its mask, as pure functions of their keys.

A key is (epoch, index). Crop, mirror and mask follow from it, the seed and the picture alone:
whichever worker or process makes an item, and whether the run was resumed, it is the same.
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

from ..data import listed
from ..density import Scene, count, densities
from ..errors import ImageError
from ..grid import PatchGrid
from ..images import read
from ..keypoints import Keypoints, detect
from ..masking import Crop, KeypointCache, Masking, RandomMasking, generator, kept, loss_weights
from ..masking.crop import SCALE

VIEW, OTHER, ORDER = 2, 3, 4  # purposes of the chance

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CENTER = 0.875  # part of a picture's shorter side that is seen where nothing is drawn


class MaskedImages(Dataset):
    """Random crops of pictures with their masks.

    An item is a dict: `pixel_values` (3, H, W) float32, normalised; `noise` (P,) float32; and
    `loss_weight` (P,) float32 where one is asked for. Keys are (epoch, index), as `Order` gives.

    Parameters
    ----------
    pictures : paths, arrays or PIL images, as `semattn.images.read` takes them
    masking : the policy
    size : side of a crop, pixels
    patch_size : side of a patch, pixels
    density : for policies that look: a name in `semattn.densities`, or a function of a `Scene`;
        "other" is the count of another picture, drawn once for each
    cache : keypoints of the whole pictures; where there is none, they are found in each crop
    detector : finds them then
    loss_weight, temperature : as for `semattn.masking.loss_weights`
    scale : least and greatest part of a picture's area that a crop shows
    seed : of crops; masks have their policy's
    mean, std : of the normalisation

    Examples
    --------
    >>> picture = np.zeros((80, 100, 3), dtype=np.uint8)
    >>> data = MaskedImages([picture], RandomMasking(), size=64, patch_size=16)
    >>> {name: tuple(one.shape) for name, one in data[0, 0].items()}
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
        self.visible = kept(self.grid.patches, masking.mask_ratio)
        self.other = density == "other"
        self.density = count if self.other else densities.ensure(density)
        self.needs = frozenset(getattr(self.density, "needs", ("keypoints",)))
        self.cache, self.detector = cache, detector
        self.loss_weight, self.temperature = loss_weight, temperature
        loss_weights(loss_weight, np.zeros(1), 1.0, temperature)  # refuses unknown names
        self.scale, self.seed = scale, seed
        self.mean, self.std = (
            torch.tensor(one, device="cpu").reshape(3, 1, 1) for one in (mean, std)
        )
        self._check()

    def _check(self) -> None:
        if not len(self.pictures):
            raise ImageError("pictures: expected one at least, got none — give photographs")
        if self.other and len(self.pictures) < 2:
            raise ValueError("density: expected two pictures at least for 'other', got one")
        # What a policy cannot do with so many patches, it says now.
        self.masking.noise(np.zeros(self.grid.patches), self.grid.shape, 0)
        if self.cache is not None:
            self.use(self.cache)

    def use(self, cache: KeypointCache) -> None:
        """Take keypoints from a cache from now on."""
        self.check_cacheable()
        if len(cache) != len(self.pictures):
            raise ValueError(
                f"cache: expected the keypoints of {len(self.pictures)} pictures, got those of "
                f"{len(cache)} — build it from the same list"
            )
        self.cache = cache

    def check_cacheable(self) -> None:
        """Raise ValueError unless the density does with what a cache keeps."""
        if self.masking.looks and "descriptors" in self.needs:
            raise ValueError(
                "density: expected one without descriptors, which no cache keeps — find the "
                "keypoints in each crop, or take count, size, gaussian, response or surround"
            )

    @property
    def uses_keypoints(self) -> bool:
        """Whether items depend on keypoints at all."""
        guided = self.masking.looks and (self.other or bool(self.needs))
        return guided or self.loss_weight != "none"

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        picture = self.picture(index)
        return self.item(picture, self.crop(picture.size, epoch, index), epoch, index)

    def picture(self, index: int) -> Image.Image:
        """A whole picture."""
        return read(self.pictures[index])

    def crop(self, picture: tuple[int, int], epoch: int, index: int) -> Crop:
        """What is seen of a picture of (width, height) in an epoch."""
        chance = generator(self.seed, epoch, index, VIEW)
        return Crop.draw((picture[1], picture[0]), self.grid.image_size, chance, self.scale)

    def item(self, picture: Image.Image, crop: Crop, epoch: int, index: int) -> dict[str, Tensor]:
        """An item, for a picture and a crop of it."""
        seen = crop.image(picture)
        pixels = np.array(seen)
        made = {"pixel_values": self.normalized(pixels)}
        s = np.zeros(self.grid.patches)
        if self.masking.looks:
            s = self.densities(pixels, crop, epoch, index)
        made["noise"] = torch.from_numpy(self.masking.noise(s, self.grid.shape, index, epoch))
        if self.loss_weight != "none":
            counts = count(self._scene(pixels, self.keypoints(pixels, crop, index)))[0]
            area = self.grid.cell[0] * self.grid.cell[1]
            weight = loss_weights(self.loss_weight, counts, area, self.temperature)
            assert weight is not None
            made["loss_weight"] = weight
        return made

    def normalized(self, pixels: np.ndarray) -> Tensor:
        """Pixels (H, W, 3) uint8 as the model takes them, (3, H, W)."""
        chw = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float()
        return chw.div_(255).sub_(self.mean).div_(self.std)

    def densities(self, pixels: np.ndarray, crop: Crop, epoch: int, index: int) -> np.ndarray:
        """The density (P,) that guides, of the pixels (H, W, 3) of a crop."""
        found = None
        if self.other:
            found = self._of_another(epoch, index)
        elif self.needs:
            found = self.keypoints(pixels, crop, index)
        return self.density(self._scene(pixels, found))[0].numpy()

    def keypoints(self, pixels: np.ndarray, crop: Crop, index: int) -> Keypoints:
        """The keypoints of the pixels (H, W, 3) of a crop: from the cache, or found in them."""
        if self.cache is not None:
            return crop.keypoints(self.cache[index])
        wanted = "descriptors" in self.needs
        return detect(pixels[None], self.detector, workers=1, descriptors=wanted)[0]

    def _of_another(self, epoch: int, index: int) -> Keypoints:
        """Those of another picture, as it is seen itself in this epoch."""
        total = len(self.pictures)
        step = int(generator(self.seed, 0, index, OTHER).integers(1, total))
        other = (index + step) % total
        if self.cache is not None:
            found = self.cache[other]
            return self.crop(found.image_size[::-1], epoch, other).keypoints(found)
        picture = self.picture(other)
        crop = self.crop(picture.size, epoch, other)
        return self.keypoints(np.array(crop.image(picture)), crop, other)

    def _scene(self, pixels: np.ndarray, found: Keypoints | None) -> Scene:
        given = () if found is None else (found,)
        return Scene(pixels[None], given, self.grid, self.seed)


class FixedMasks(Dataset):
    """The middles of pictures under one set of random masks: what losses are compared on.

    Parameters
    ----------
    data : whose pictures and sizes they are
    pictures : others than its own
    seed : of the masks, which never change
    """

    def __init__(
        self, data: MaskedImages, pictures: Sequence[Any] | None = None, seed: int = 0
    ) -> None:
        size, cell = data.grid.image_size[0], int(data.grid.cell[0])
        self.data = MaskedImages(
            data.pictures if pictures is None else pictures,
            RandomMasking(data.masking.mask_ratio, seed),
            size=size, patch_size=cell,
            mean=tuple(data.mean.flatten().tolist()), std=tuple(data.std.flatten().tolist()),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        picture = self.data.picture(index)
        crop = middle(picture, self.data.grid.image_size)
        return self.data.item(picture, crop, 0, index)


def middle(picture: Image.Image, size: tuple[int, int]) -> Crop:
    """The middle of a picture, as evaluation sees it."""
    return Crop.center((picture.height, picture.width), size, CENTER)


class Order(Sampler):
    """The keys (epoch, index) of an epoch in a chance order, the same in every process.

    Parameters
    ----------
    count : number of pictures
    seed : of the order
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is of, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = generator(self.seed, epoch, 0, ORDER).permutation(self.count)
        return ((epoch, int(index)) for index in order)


def readable(folder: str | os.PathLike[str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The files of a folder whose headers are those of pictures, and the others with the reason.

    Raises
    ------
    ImageError
        For a folder that cannot be read, or that holds no picture.
    """
    files = listed(folder)

    def reason(path: Path) -> str:
        try:
            with Image.open(path):
                return ""
        except Exception as error:  # noqa: BLE001 — decoders raise anything on what is no picture
            return " ".join(str(error).split()) or type(error).__name__

    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(reason, files))
    good = [path for path, why in zip(files, reasons, strict=True) if not why]
    if not good:
        raise ImageError(
            f"folder: expected pictures, got {len(files)} files in {folder} that are none — "
            "give photographs"
        )
    return good, [(path, why) for path, why in zip(files, reasons, strict=True) if why]
