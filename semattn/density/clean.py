"""A density of the pictures themselves, whatever noisy copies of them a model is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from semattn.errors import ShapeError
from semattn.images import prepare
from semattn.keypoints import detect

from .scene import Scene, densities


def clean_density(
    inputs: Any,
    density: Any = "count",
    *,
    detector: Any = "sift",
    preprocessing: Any = None,
) -> Callable[[Scene], Tensor]:
    """A density that always looks at `inputs`, for tools that explain noisy copies of them.

    Captum's `NoiseTunnel` and `sensitivity_max` hand an explainer k copies of each image, those of
    one image one after the other. By its own density an explainer looks for keypoints in what the
    model gets, noise and all. By this one it takes those of `inputs`, found once, for every copy.

    Parameters
    ----------
    inputs : B images, as `semattn.images.prepare` takes them, of the size of the model's input
    density : name in `densities`, or a function of a `Scene`
    detector : name in `semattn.keypoints.detectors`, or a function of an image
    preprocessing : of pictures, and to undo the normalisation of tensors

    Raises
    ------
    ShapeError
        When used on a batch that is not k copies of B images, or of another size.

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
    chosen = densities.ensure(density)
    pixels = prepare(inputs, preprocessing).pixels
    needs = getattr(chosen, "needs", ("keypoints",))
    found = detect(pixels, detector, descriptors="descriptors" in needs) if needs else ()

    def clean(scene: Scene) -> Tensor:
        copies, rest = divmod(len(scene), len(pixels))
        if rest:
            raise ShapeError(
                f"density: expected copies of {len(pixels)} clean images, got a batch of "
                f"{len(scene)} — as many of each, one after the other"
            )
        s = chosen(Scene(pixels, found, scene.grid, scene.seed))
        return s.repeat_interleave(copies, dim=0)

    clean.needs = frozenset()  # type: ignore[attr-defined]
    clean.__name__ = f"clean {getattr(chosen, '__name__', type(chosen).__name__)}"
    return clean
