"""Matte of a mark, opacity and colour of each of its pixels, estimated from images that show it.

A mark with the opacity a and the colour F over a background B gives I = a F + (1 - a) B. In the
frame of the mark, a and F are the same in all images, and B is not. The standard deviation of I
over the images is therefore 1 - a times that of B, and its mean is a F + (1 - a) mean(B). The
background is known around the mark, and from there between its strokes.

Source: Dekel, Rubinstein, Liu and Freeman, On the effectiveness of visible watermarks (CVPR 2017),
for this model of a watermark in many images; they estimate it from gradients, for a fixed place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .matching import apply, compose, invert
from .opencv import import_cv2
from .regions import fill, frame_of, outline_mask, widen_mask

MIN_PICTURES = 5  # pictures that an estimate needs
MARGIN = 0.3  # part of the shorter side of the frame that is added around it, for the background
MIN_MARGIN = 8.0  # units of the frame
BEYOND = 4.0  # units of the frame around the outline that may belong to the mark
MIN_SHOWN = 0.5  # part of the pictures that show a pixel of the frame
# A pixel is of the mark if its standard deviation is below this part of the background's, less
# with few pictures: by this number of standard errors, but not below the first value.
MIN_SPREAD, MAX_SPREAD, SPREAD_ERRORS = 0.1, 0.6, 2.0
MIN_CONTRAST = 4.0  # difference of the mean from the background, robust standard deviations
BACKGROUND_BLUR = 1 / 75  # standard deviation, part of the longer side of a picture
MAX_ROUNDS = 20  # of finding the pixels of the mark and the background between them
MIN_WEIGHT = 0.02  # part of the blur's weight on the background; below, it is inpainted
EDGE = 5  # pixels: thinner lines of high spread are edges inside the mark
LEAST_OPACITY = 0.1  # of a pixel of the mark in its frame
MIN_OPACITY = 0.05  # of a pixel of a picture that the mark covers


@dataclass(frozen=True, eq=False)
class Matte:
    """Opacity and colour of a mark.

    Parameters
    ----------
    colour : (h, w, 3) float32, colour times opacity, 0 to 255; 0 where the mark is not
    opacity : (h, w) float32, 0 to 1
    to_frame : (2, 3), from pixels of the two to the frame of the mark
    """

    colour: np.ndarray
    opacity: np.ndarray
    to_frame: np.ndarray

    def draw(self, picture: np.ndarray, transform: np.ndarray) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 with the mark drawn on it.

        Parameters
        ----------
        picture : (H, W, 3) uint8
        transform : (2, 3), from the frame of the mark to the picture
        """
        cv2 = import_cv2()
        size = picture.shape[1::-1]
        to_picture = compose(transform, self.to_frame)
        colour, opacity = (
            cv2.warpAffine(values, to_picture, size, flags=cv2.INTER_LINEAR)
            for values in (self.colour, self.opacity)
        )
        with_mark = colour + (1 - opacity[..., None]) * picture
        return np.clip(with_mark, 0, 255).round().astype(np.uint8)

    def mask(self, transform: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the pixels (H, W) of bool that the mark covers.

        Parameters
        ----------
        transform : (2, 3), from the frame of the mark to the picture
        size : height and width of the picture
        """
        to_picture = compose(transform, self.to_frame)
        covered = import_cv2().warpAffine(self.opacity, to_picture, size[::-1])
        is_covered: np.ndarray = covered > MIN_OPACITY
        return is_covered


def estimate_matte(
    pictures: Sequence[np.ndarray], transforms: Sequence[np.ndarray], outline: np.ndarray
) -> Matte | None:
    """Return the matte of a mark; None with too few pictures, or if no pixel stands out.

    Parameters
    ----------
    pictures : n pictures (H, W, 3) uint8 that show the mark, on different backgrounds
    transforms : n transforms (2, 3), from the frame of the mark to the picture
    outline : (V, 2), outline of the mark in its frame
    """
    cv2 = import_cv2()
    margin = max(MIN_MARGIN, MARGIN * float(np.ptp(outline, axis=0).min()))
    to_frame, size = frame_of(outline, margin)
    mean, spread, is_shown = _moments(pictures, [compose(t, to_frame) for t in transforms], size)
    in_pixels = apply(invert(to_frame), outline)
    widening = round(BEYOND / to_frame[0, 0])
    inside = widen_mask(outline_mask([in_pixels], mean.shape[:2]), widening)
    around = is_shown & ~inside
    usual = float(np.median(spread[around])) if around.any() else 0.0
    if usual == 0:
        return None
    spread = np.where(is_shown, spread / usual, 1.0)
    blur = BACKGROUND_BLUR * max(pictures[0].shape) / to_frame[0, 0]
    may_be_mark = inside & is_shown
    error = 1 / np.sqrt(2 * len(pictures) - 2)  # of a standard deviation, as a part of it
    limit = max(MIN_SPREAD, min(MAX_SPREAD, 1 - SPREAD_ERRORS * error))
    is_mark = varies_less = may_be_mark & (spread < limit)
    for _ in range(MAX_ROUNDS):
        background = _background(mean, is_shown & ~widen_mask(is_mark, 1), blur)
        contrast = np.abs(mean - background).max(axis=-1)
        noise = 1.4826 * float(np.median(contrast[is_shown & ~is_mark]))
        previous = is_mark
        is_mark = varies_less | (may_be_mark & (contrast > MIN_CONTRAST * noise))
        if np.array_equal(previous, is_mark):
            break
    if not is_mark.any():
        return None
    # Edges inside an opaque mark do not fit exactly from image to image, and vary.
    opened = cv2.morphologyEx(spread.astype(np.float32), cv2.MORPH_OPEN, np.ones((EDGE, EDGE)))
    passed = np.clip(opened, 0, 1 - LEAST_OPACITY)
    opacity = np.where(is_mark, 1 - passed, 0)
    colour = np.where(is_mark[..., None], mean - passed[..., None] * background, 0)
    return Matte(colour.astype(np.float32), opacity.astype(np.float32), to_frame)


def _moments(
    pictures: Sequence[np.ndarray], transforms: Sequence[np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean (h, w, 3) and standard deviation (h, w) of pictures in the frame.

    The third array (h, w) tells which pixels of the frame enough of the pictures show.

    Parameters
    ----------
    transforms : (2, 3) each, from pixels of the frame to the picture
    size : width and height in pixels of the frame
    """
    cv2 = import_cv2()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    count = np.zeros((size[1], size[0], 1))
    total, squares = (np.zeros((size[1], size[0], 3)) for _ in range(2))
    for picture, transform in zip(pictures, transforms, strict=True):
        values = cv2.warpAffine(picture, transform, size, flags=flags).astype(np.float64)
        inside = np.full(picture.shape[:2], 255, np.uint8)
        weight = cv2.warpAffine(inside, transform, size, flags=flags)[..., None] == 255
        count += weight
        total += values * weight
        squares += values**2 * weight
    mean = total / count.clip(min=1)
    variance = (squares - count * mean**2) / (count - 1).clip(min=1)
    spread = np.sqrt(variance.clip(min=0).mean(axis=-1))
    return mean, spread, count[..., 0] >= max(MIN_PICTURES, MIN_SHOWN * len(pictures))


def _background(mean: np.ndarray, is_free: np.ndarray, blur: float) -> np.ndarray:
    """Return the mean (h, w, 3) of the background: blurred, or inpainted far from free pixels."""
    weight = _blurred(is_free, blur)
    background = _blurred(mean * is_free[..., None], blur) / (weight + 1e-6)[..., None]
    is_far = weight < MIN_WEIGHT
    if is_far.any():
        pixels = np.clip(mean, 0, 255).round().astype(np.uint8)
        filled = fill(pixels, ~is_free)
        background[is_far] = filled[is_far]
    return background


def _blurred(values: np.ndarray, blur: float) -> np.ndarray:
    blurred: np.ndarray = import_cv2().GaussianBlur(values.astype(np.float32), (0, 0), blur)
    return blurred
