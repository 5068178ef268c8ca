"""Cut an object out of a photograph with a plain background."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter
from skimage.measure import label

from .catalog import Plain

MIN_HOLE = 0.004  # of the picture's area
MIN_PART = 0.1  # of the area of the object's largest part


def cut_out(photograph: Image.Image, plain: Plain) -> Image.Image:
    """Return the photograph with an alpha channel that hides the background.

    The background are the pixels of the border's median colour that are connected to the border,
    and large enclosed areas of that colour if `plain.holes`. Small separate parts, such as dust,
    are background too. The object is made smaller by one pixel, so that no border of the
    background's colour shows.
    """
    colours = np.asarray(photograph.convert("RGB")).astype(np.int16)
    border = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    distance = np.abs(colours - np.median(border, axis=0)).max(axis=-1)
    areas = label(distance < plain.tolerance, connectivity=1)
    outer = np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]])
    is_background = np.zeros(areas.max() + 1, dtype=bool)
    is_background[outer] = True
    if plain.holes:
        is_background |= np.bincount(areas.ravel()) > MIN_HOLE * areas.size
    is_background[0] = False  # pixels of other colours
    parts = label(~is_background[areas], connectivity=1)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    is_object = (sizes > MIN_PART * sizes.max())[parts]
    alpha = Image.fromarray(is_object.astype(np.uint8) * 255)
    cutout = photograph.convert("RGB")
    cutout.putalpha(alpha.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.GaussianBlur(0.7)))
    return cutout
