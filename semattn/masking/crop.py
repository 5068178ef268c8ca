"""`Crop`: a random crop that is applied to the pixels and the keypoints of a picture.

Keypoints are transformed with the same geometry as the pixels, to sub-pixel accuracy. They are
therefore detected once, in the full picture, and transformed for each crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from semattn.errors import ShapeError
from semattn.keypoints import Keypoints

SCALE = (0.2, 1.0)  # range of the area fraction, as in MAE
RATIO = (3 / 4, 4 / 3)  # range of width to height
MAX_TRIES = 10

# Smallest diameter that OpenCV's SIFT detects, pixels: smaller keypoints are dropped from the crop.
MIN_SIZE = 1.8


@dataclass(frozen=True)
class Crop:
    """Rectangle of a picture with the output size and an optional horizontal flip.

    Parameters
    ----------
    box : (left, top, width, height) in the picture, integer pixels
    size : (H, W) of the result, pixels
    flip : mirror the crop horizontally
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
        """Draw a random crop by the rule of torchvision's `RandomResizedCrop`.

        Parameters
        ----------
        picture : (height, width), pixels
        size : (H, W) of the result
        chance : random generator
        scale : smallest and largest fraction of the picture's area
        flip : probability of a horizontal flip
        """
        _check_sizes(picture, size)
        height, width = picture
        mirrored = bool(chance.random() < flip)
        for _ in range(MAX_TRIES):
            area = height * width * chance.uniform(*scale)
            ratio = math.exp(chance.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(chance.integers(width - crop_width, endpoint=True))
                top = int(chance.integers(height - crop_height, endpoint=True))
                return cls((left, top, crop_width, crop_height), size, mirrored)
        return cls(cls.center(picture, size).box, size, mirrored)

    @classmethod
    def center(cls, picture: tuple[int, int], size: tuple[int, int], part: float = 1.0) -> Crop:
        """Return the largest centered crop with the aspect of `size`, its sides scaled by `part`.

        Examples
        --------
        >>> Crop.center((100, 200), (64, 64)).box
        (50, 0, 100, 100)
        """
        _check_sizes(picture, size)
        height, width = picture
        factor = part * min(height / size[0], width / size[1])
        h, w = max(1, round(factor * size[0])), max(1, round(factor * size[1]))
        return cls(((width - w) // 2, (height - h) // 2, w, h), size)

    def image(self, picture: Image.Image) -> Image.Image:
        """Return the cropped and resized picture, (H, W)."""
        left, top, width, height = self.box
        box = (left, top, left + width, top + height)
        resized = picture.resize(self.size[::-1], Image.Resampling.BICUBIC, box=box)
        return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else resized

    def keypoints(self, keypoints: Keypoints, smallest: float = MIN_SIZE) -> Keypoints:
        """Return the keypoints that are visible in the crop, in crop coordinates.

        Parameters
        ----------
        keypoints : keypoints of the full picture, in its pixels
        smallest : minimum diameter in the crop, pixels; a detector would not find smaller ones

        Returns
        -------
        Keypoints
            In pixels of the crop, in the original order. Descriptors are dropped, because a flip
            changes them.
        """
        left, top, width, height = self.box
        if left + width > keypoints.image_size[1] or top + height > keypoints.image_size[0]:
            raise ShapeError(
                f"keypoints: expected those of a picture that contains the crop {self.box}, got a "
                f"{keypoints.image_size[1]}x{keypoints.image_size[0]} picture — detect them on "
                "this picture"
            )
        # numpy has less overhead than torch, and this runs for each image of each step.
        with np.errstate(over="ignore", invalid="ignore"):  # infinite coordinates are outside
            return self._moved(keypoints, smallest)

    def _moved(self, keypoints: Keypoints, smallest: float) -> Keypoints:
        left, top, width, height = self.box
        scale_x, scale_y = self.size[1] / width, self.size[0] / height
        x = (keypoints.xy[:, 0].numpy() + np.float32(0.5 - left)) * np.float32(
            scale_x
        ) - np.float32(0.5)
        y = (keypoints.xy[:, 1].numpy() + np.float32(0.5 - top)) * np.float32(scale_y) - np.float32(
            0.5
        )
        size = keypoints.size.numpy() * np.float32(math.sqrt(scale_x * scale_y))
        visible = (x >= -0.5) & (x < self.size[1] - 0.5) & (y >= -0.5) & (y < self.size[0] - 0.5)
        visible = np.flatnonzero(visible & (size >= smallest))
        x, angle = x[visible], keypoints.angle.numpy()[visible]
        if scale_x != scale_y:
            radians = np.radians(angle)
            angle = (
                np.degrees(np.arctan2(np.sin(radians) * scale_y, np.cos(radians) * scale_x)) % 360
            )
        if self.flip:
            x, angle = self.size[1] - 1 - x, (180 - angle) % 360
        return Keypoints(
            xy=torch.from_numpy(np.stack([x, y[visible]], axis=1)),
            response=torch.from_numpy(keypoints.response.numpy()[visible]),
            size=torch.from_numpy(size[visible]),
            angle=torch.from_numpy(angle.astype(np.float32)),
            descriptor=None,
            image_size=self.size,
            detector=keypoints.detector,
        )


def _check_sizes(picture: tuple[int, int], size: tuple[int, int]) -> None:
    if min(*picture, *size) < 1:
        raise ShapeError(
            f"crop: expected sides of at least 1 pixel, got {picture[1]}x{picture[0]} for "
            f"{size[1]}x{size[0]}"
        )
