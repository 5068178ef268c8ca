"""`Crop`: one random crop of a picture, for its pixels and for its keypoints alike.

Keypoints follow the pixels exactly: what lies at the centre of a pixel of the picture is where that
pixel goes. So they can be found once, in the whole picture, and be cropped in every epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from semattn.errors import ShapeError
from semattn.keypoints import Keypoints

SCALE = (0.2, 1.0)  # of the picture's area: MAE's
RATIO = (3 / 4, 4 / 3)  # of width to height
TRIES = 10

# The least diameter that OpenCV's SIFT finds, pixels: nothing smaller would be found in the crop.
SMALLEST = 1.8


@dataclass(frozen=True)
class Crop:
    """A rectangle of a picture, resized, and mirrored or not.

    Parameters
    ----------
    box : (left, top, width, height) in the picture, whole pixels
    size : (H, W) of the result, pixels
    flip : whether left and right change places
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    flip: bool = False

    @classmethod
    def draw(
        cls,
        picture: tuple[int, int],
        size: tuple[int, int],
        chance: np.random.Generator,
        scale: tuple[float, float] = SCALE,
        flip: float = 0.5,
    ) -> Crop:
        """A random one, by the rule of torchvision's `RandomResizedCrop`.

        Parameters
        ----------
        picture : (height, width), pixels
        size : (H, W) of the result
        chance : decides
        scale : least and greatest part of the picture's area
        flip : the chance that it is mirrored
        """
        _check(picture, size)
        height, width = picture
        mirrored = bool(chance.random() < flip)
        for _ in range(TRIES):
            area = height * width * chance.uniform(*scale)
            ratio = math.exp(chance.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left = int(chance.integers(width - w, endpoint=True))
                top = int(chance.integers(height - h, endpoint=True))
                return cls((left, top, w, h), size, mirrored)
        return cls(cls.center(picture, size).box, size, mirrored)

    @classmethod
    def center(cls, picture: tuple[int, int], size: tuple[int, int], part: float = 1.0) -> Crop:
        """The largest crop of the result's aspect in the middle, or a part of its sides.

        Examples
        --------
        >>> Crop.center((100, 200), (64, 64)).box
        (50, 0, 100, 100)
        """
        _check(picture, size)
        height, width = picture
        factor = part * min(height / size[0], width / size[1])
        h, w = max(1, round(factor * size[0])), max(1, round(factor * size[1]))
        return cls(((width - w) // 2, (height - h) // 2, w, h), size)

    def image(self, picture: Image.Image) -> Image.Image:
        """What the crop shows of a picture, (H, W)."""
        left, top, width, height = self.box
        box = (left, top, left + width, top + height)
        made = picture.resize(self.size[::-1], Image.Resampling.BICUBIC, box=box)
        return made.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else made

    def keypoints(self, found: Keypoints, smallest: float = SMALLEST) -> Keypoints:
        """The keypoints of the whole picture that the crop shows, where it shows them.

        Parameters
        ----------
        found : in pixels of the picture
        smallest : least diameter in the crop; what is finer would not be found there

        Returns
        -------
        Keypoints
            In pixels of the crop, in their old order; descriptors are left out, which a mirrored
            picture changes.
        """
        left, top, width, height = self.box
        if left + width > found.image_size[1] or top + height > found.image_size[0]:
            raise ShapeError(
                f"keypoints: expected those of a picture that holds the crop {self.box}, got one "
                f"of {found.image_size[1]}x{found.image_size[0]} — detect them on this picture"
            )
        # By numpy: this runs for every image of every step, and its calls cost less than torch's.
        with np.errstate(over="ignore", invalid="ignore"):  # what is infinite lies outside
            return self._moved(found, smallest)

    def _moved(self, found: Keypoints, smallest: float) -> Keypoints:
        left, top, width, height = self.box
        across, down = self.size[1] / width, self.size[0] / height
        x = (found.xy[:, 0].numpy() + np.float32(0.5 - left)) * np.float32(across) - np.float32(0.5)
        y = (found.xy[:, 1].numpy() + np.float32(0.5 - top)) * np.float32(down) - np.float32(0.5)
        size = found.size.numpy() * np.float32(math.sqrt(across * down))
        shown = (x >= -0.5) & (x < self.size[1] - 0.5) & (y >= -0.5) & (y < self.size[0] - 0.5)
        shown = np.flatnonzero(shown & (size >= smallest))
        x, angle = x[shown], found.angle.numpy()[shown]
        if across != down:
            turned = np.radians(angle)
            angle = np.degrees(np.arctan2(np.sin(turned) * down, np.cos(turned) * across)) % 360
        if self.flip:
            x, angle = self.size[1] - 1 - x, (180 - angle) % 360
        return Keypoints(
            xy=torch.from_numpy(np.stack([x, y[shown]], axis=1)),
            response=torch.from_numpy(found.response.numpy()[shown]),
            size=torch.from_numpy(size[shown]),
            angle=torch.from_numpy(angle.astype(np.float32)),
            descriptor=None,
            image_size=self.size,
            detector=found.detector,
        )


def _check(picture: tuple[int, int], size: tuple[int, int]) -> None:
    if min(*picture, *size) < 1:
        raise ShapeError(
            f"crop: expected sides of 1 pixel at least, got {picture[1]}x{picture[0]} for "
            f"{size[1]}x{size[0]}"
        )
