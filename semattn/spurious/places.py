"""Where the object is, and where a cue is: on maps of patches (n, h, w)."""

from __future__ import annotations

import numpy as np

FIXED = 0.3  # more often than in other classes: what stands out there is no object
BESIDE = 0.7  # of its patches that lie by another's, to be a part of that
SAME = 0.4  # mean overlap of the patches of two images, to be the same place


def on_object(thing: np.ndarray) -> np.ndarray:
    """Patches that stand out above the mean of their image: (n, P) to (n, P) of bool."""
    return thing > thing.mean(axis=1, keepdims=True)


def off_object(over: np.ndarray, fixed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Patches that are not on the object nor beside it.

    What stands out at a fixed place of a class is not its object: objects move, marks do not.

    Parameters
    ----------
    over : (n, P), see `on_object`
    fixed : (P,) or (n, P), patches that count as off it all the same
    shape : (h, w)
    """
    from scipy.ndimage import maximum_filter

    maps = (over & ~fixed).reshape(-1, *shape)
    wide = maximum_filter(maps, size=(1, 3, 3), mode="constant")
    return ~wide.reshape(over.shape) | np.broadcast_to(fixed, over.shape)


def fixed_places(over: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """Patches (P,) that stand out in a class more often than in others, by `FIXED` of images."""
    made: np.ndarray = over[mine].mean(axis=0) - over[~mine].mean(axis=0) > FIXED
    return made


def beside(marks: np.ndarray, others: np.ndarray, shape: tuple[int, int]) -> float:
    """The part of patches `marks` (n, P) within two patches of `others` (n, P) of the same image.

    A part ends within a patch, so that two parts of one thing may have a patch between them. Images
    that have none of either do not count; 0 where no image has both.
    """
    from scipy.ndimage import maximum_filter

    both = marks.any(axis=1) & others.any(axis=1)
    wide = maximum_filter(others[both].reshape(-1, *shape), size=(1, 5, 5), mode="constant")
    return float((marks[both] & wide.reshape(-1, marks.shape[1])).sum() / max(1, marks[both].sum()))


def sameness(marks: np.ndarray) -> float:
    """Mean overlap (intersection over union) of the patches (n, P) of two images, in [0, 1]."""
    marks = marks[marks.any(axis=1)].astype(np.float32)
    if len(marks) < 2:
        return float("nan")
    both = marks @ marks.T
    count = marks.sum(axis=1)
    overlap = both / (count[:, None] + count[None] - both)
    return float((overlap.sum() - len(marks)) / (len(marks) * (len(marks) - 1)))
