"""Density of clean images, for explanations of noisy copies of these images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from semattn.errors import ShapeError
from semattn.images import prepare
from semattn.keypoints import detect

from .scene import Scene, densities, density_needs


def clean_density(
    inputs: Any,
    density: Any = "count",
    *,
    detector: Any = "sift",
    preprocessing: Any = None,
) -> Callable[[Scene], Tensor]:
    """Return a density that always uses `inputs`, for tools that explain noisy copies of them.

    Captum's `NoiseTunnel` and `sensitivity_max` pass k consecutive noisy copies of each image to an
    explainer. Other densities detect keypoints in the noisy copies. This density uses the keypoints
    of `inputs`, detected once, for every copy.

    Parameters
    ----------
    inputs : B images, as accepted by `semattn.images.prepare`, of the size of the model's input
    density : name in `densities`, or a function of a `Scene`
    detector : name in `semattn.keypoints.detectors`, or a function of an image
    preprocessing : preprocessing of pictures, also used to undo the normalisation of tensors

    Raises
    ------
    ShapeError
        If a batch does not consist of k copies of B images, or has another size.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from semattn.grid import PatchGrid
    >>> dot = torch.zeros(1, 3, 64, 64)
    >>> dot[..., 12:16, 44:48] = 1
    >>> grid = PatchGrid((2, 2), image_size=(64, 64), cell=(32, 32))
    >>> noisy = Scene(np.full((3, 64, 64, 3), 7, np.uint8), (), grid)
    >>> clean_density(dot)(noisy).tolist()
    [[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    """
    function = densities.resolve(density)
    pixels = prepare(inputs, preprocessing).pixels
    needs = density_needs(function)
    keypoints = detect(pixels, detector, descriptors="descriptors" in needs) if needs else ()

    def clean(scene: Scene) -> Tensor:
        copies, rest = divmod(len(scene), len(pixels))
        if rest:
            raise ShapeError(
                f"density: expected copies of {len(pixels)} clean images, got a batch of "
                f"{len(scene)} — pass the same number of consecutive copies of each image"
            )
        s = function(Scene(pixels, keypoints, scene.grid, scene.seed))
        return s.repeat_interleave(copies, dim=0)

    clean.needs = frozenset()  # type: ignore[attr-defined]
    clean.__name__ = f"clean {getattr(function, '__name__', type(function).__name__)}"
    return clean
