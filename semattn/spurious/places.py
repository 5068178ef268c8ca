"""Location of the object and of a cue, on maps of patches."""

from __future__ import annotations

import numpy as np

FIXED = 0.3  # excess rate of salience over other classes, above which a place is not the object
BESIDE = 0.7  # fraction of its patches near another candidate, above which it is part of that
SAME = 0.4  # mean overlap between two images, above which a cue has a fixed place


def on_object(objectness: np.ndarray) -> np.ndarray:
    """Return the patches above the mean objectness of their image: (n, P) to (n, P) of bool."""
    return objectness > objectness.mean(axis=1, keepdims=True)


def off_object(on_object: np.ndarray, fixed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the patches that are neither on the object nor next to it.

    Salient patches at a fixed place of a class are not its object: objects move, marks do not.

    Parameters
    ----------
    on_object : (n, P), see `on_object`
    fixed : (P,) or (n, P), patches that always count as off the object
    shape : (h, w)
    """
    from scipy.ndimage import maximum_filter

    moving = (on_object & ~fixed).reshape(-1, *shape)
    dilated = maximum_filter(moving, size=(1, 3, 3), mode="constant")
    return ~dilated.reshape(on_object.shape) | np.broadcast_to(fixed, on_object.shape)


def fixed_places(on_object: np.ndarray, in_class: np.ndarray) -> np.ndarray:
    """Return the patches (P,) that are salient in a class more often than in others, by `FIXED`."""
    fixed: np.ndarray = on_object[in_class].mean(axis=0) - on_object[~in_class].mean(axis=0) > FIXED
    return fixed


def beside(patches: np.ndarray, others: np.ndarray, shape: tuple[int, int]) -> float:
    """Return the fraction of `patches` (n, P) within two patches of `others` (n, P), per image.

    Two parts of one object may have a patch between them, because each ends within a patch. Images
    without patches of both kinds are left out; the result is 0 if no image has both.
    """
    from scipy.ndimage import maximum_filter

    has_both = patches.any(axis=1) & others.any(axis=1)
    dilated = maximum_filter(others[has_both].reshape(-1, *shape), size=(1, 5, 5), mode="constant")
    return float(
        (patches[has_both] & dilated.reshape(-1, patches.shape[1])).sum()
        / max(1, patches[has_both].sum())
    )


def sameness(patches: np.ndarray) -> float:
    """Return the mean overlap (intersection over union) of patches (n, P) between two images."""
    patches = patches[patches.any(axis=1)].astype(np.float32)
    if len(patches) < 2:
        return float("nan")
    intersection = patches @ patches.T
    count = patches.sum(axis=1)
    overlap = intersection / (count[:, None] + count[None] - intersection)
    return float((overlap.sum() - len(patches)) / (len(patches) * (len(patches) - 1)))
