"""`Scene`, the input of a density, the registry of densities, and their conversion to weights.

A density s is converted to the concentration p, with sum 1, or to three strata of patches.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from semattn.errors import NoKeypointWarning, ShapeError
from semattn.grid import PatchGrid
from semattn.images import prepare
from semattn.keypoints import Keypoints, detect
from semattn.utils.registry import Registry
from semattn.utils.validation import check_number, check_values

EMPTY, LOW, HIGH = 0, 1, 2

densities: Registry[Callable[[Scene], Tensor]] = Registry("density")
"""Mapping of names to functions from a `Scene` to s (B, P); see `register_density`."""

Density = TypeVar("Density", bound="Callable[[Scene], Tensor]")
DensityLike: TypeAlias = "str | Tensor | Callable[[Scene], Tensor]"
"""Name in `densities`, weights (P,) or (B, P), or a function of a `Scene`."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Batch of images with keypoints and a patch grid.

    Parameters
    ----------
    pixels : (B, H, W, 3) uint8
    keypoints : keypoints of each image; () for densities that need none
    grid : patch grid over the same H and W
    seed : seed of random numbers
    """

    pixels: np.ndarray
    keypoints: Sequence[Keypoints]
    grid: PatchGrid
    seed: int = 0

    def __post_init__(self) -> None:
        shape = self.pixels.shape if isinstance(self.pixels, np.ndarray) else ()
        if len(shape) != 4 or shape[1:] != (*self.grid.image_size, 3) or not shape[0]:
            height, width = self.grid.image_size
            raise ShapeError(
                f"pixels: expected (B, {height}, {width}, 3) for this grid, got "
                f"{shape or type(self.pixels).__name__} — at least one image, at the size of the "
                "model's input"
            )
        if self.pixels.dtype != np.uint8:
            raise TypeError(
                f"pixels: expected uint8, got {self.pixels.dtype} — use images.pixels_of"
            )
        check_number("seed", self.seed, minimum=0, integer=True)
        if len(self.keypoints) not in (0, len(self.pixels)):
            raise ShapeError(
                f"keypoints: expected keypoints of {len(self.pixels)} images, got "
                f"{len(self.keypoints)} — detect them on the same pixels"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def generator(self, image: int) -> np.random.Generator:
        """Return the random generator of an image; it depends on the seed and the pixels only."""
        return np.random.default_rng([self.seed, zlib.crc32(self.pixels[image].tobytes())])

    def scatter(self, weight: Callable[[Keypoints], Tensor]) -> Tensor:
        """Compute s (B, P), the sum of `weight` (K,) over the keypoints of each patch.

        Keypoints outside all patches are ignored.
        """
        s = np.zeros((len(self), self.grid.patches))
        for row, keypoints in zip(s, self.require_keypoints(), strict=True):
            patches = self.grid.patch_of(keypoints.xy).numpy()
            inside = patches >= 0
            row += np.bincount(patches[inside], weight(keypoints).numpy()[inside], len(row))
        return torch.from_numpy(s)

    def require_keypoints(self) -> Sequence[Keypoints]:
        """Return the keypoints; raise if the scene has none."""
        if len(self.keypoints) != len(self):
            raise ValueError(
                f"keypoints: expected keypoints of {len(self)} images, got none — pass "
                "keypoints.detect(pixels)"
            )
        return self.keypoints


def register_density(
    name: str, needs: Iterable[str] = (), control: bool = False
) -> Callable[[Density], Density]:
    """Register a function from a `Scene` to s (B, P), float64 and >= 0, under `name`.

    Parameters
    ----------
    needs : required parts of the scene, "keypoints" or "descriptors"; stored as ``.needs``
    control : true for a baseline, false for a semantic density; stored as ``.control``

    Examples
    --------
    >>> densities["sobel"].control, sorted(densities["distinct"].needs)
    (True, ['descriptors', 'keypoints'])
    """

    def decorate(density: Density) -> Density:
        density.needs = frozenset(needs)  # type: ignore[attr-defined]
        density.control = control  # type: ignore[attr-defined]
        return densities.register(name)(density)

    return decorate


def density_needs(density: str | Callable[[Scene], Tensor]) -> frozenset[str]:
    """Return the parts of the scene that a density needs: "keypoints", "descriptors".

    A function that is not registered needs keypoints, unless its attribute ``needs`` lists others.

    Examples
    --------
    >>> density_needs("uniform"), density_needs(lambda scene: scene)
    (frozenset(), frozenset({'keypoints'}))
    """
    return frozenset(getattr(densities.resolve(density), "needs", ("keypoints",)))


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


def concentration(s: Tensor, smoothing: float = 0.1) -> Tensor:
    """Compute p_i = (s_i + e) / sum_j (s_j + e), with e = smoothing * mean(s).

    Parameters
    ----------
    s : (B, P), >= 0; if a row is all 0, its p is uniform and a warning is issued
    smoothing : >= 0; keeps p above 0 in empty patches

    Returns
    -------
    Tensor
        p (B, P); rows sum to 1. Gradients flow to s. float64 on the CPU; at least float32 on other
        devices, because some do not support float64.

    Examples
    --------
    >>> concentration(torch.tensor([[0.0, 3.0, 1.0, 0.0]]), smoothing=1.0)
    tensor([[0.1250, 0.5000, 0.2500, 0.1250]], dtype=torch.float64)
    """
    s = _check_density(s)
    check_number("smoothing", smoothing, minimum=0, maximum=1e6)
    maximum = s.amax(-1, keepdim=True)
    empty = maximum == 0
    if 0 in (maxima := maximum.detach()[:, 0].tolist()):
        images = ", ".join(str(i) for i, value in enumerate(maxima) if value == 0)
        warnings.warn(
            f"density: image {images} has no keypoint and no weight in any patch; "
            "its concentration is uniform",
            NoKeypointWarning,
            stacklevel=2,
        )
    s = torch.where(empty, 1.0, s / maximum)  # prevents overflow; the scale cancels
    s = s + float(smoothing) * s.mean(-1, keepdim=True)
    return s / s.sum(-1, keepdim=True)


def concentration_of(density: DensityLike, scene: Scene) -> Tensor:
    """Return the concentration p (B, P) of a density: its name, a function, or weights.

    Raises
    ------
    ShapeError
        For weights that are neither (P,) nor (B, P).
    """
    if not isinstance(density, Tensor):
        return concentration(densities.resolve(density)(scene))
    if density.ndim not in (1, 2):
        raise ShapeError(f"density: expected weights (P,) or (B, P), got {tuple(density.shape)}")
    weights = density.detach().cpu().double().reshape(-1, density.shape[-1])
    scene.grid.check(weights, "density")
    if len(weights) not in (1, len(scene.pixels)):
        raise ShapeError(
            f"density: expected ({len(scene.pixels)}, {scene.grid.patches}) weights for "
            f"{len(scene.pixels)} images, got {tuple(density.shape)}"
        )
    return concentration(weights.expand(len(scene.pixels), -1))


def strata(s: Tensor, seed: int = 0) -> Tensor:
    """Assign patches to EMPTY (s = 0), LOW and HIGH (split at the median of the rest).

    LOW and HIGH have the same size, or HIGH has one more. Ties at the median are broken at random;
    the random numbers depend on the seed and the ranks of the image, not on the batch.

    Returns
    -------
    Tensor
        (B, P) int8.

    Examples
    --------
    >>> strata(torch.tensor([[0.0, 3.0, 1.0, 2.0]])).tolist()
    [[0, 2, 1, 2]]
    """
    s = _check_density(s)
    check_number("seed", seed, minimum=0, integer=True)
    if not len(s):
        return s.to(torch.int8)
    rank = torch.stack([_ranks(row, seed) for row in s.detach().cpu().numpy()]).to(s.device)
    empty = (s == 0).sum(1, keepdim=True)
    high = rank - empty >= (s.shape[1] - empty) // 2
    return torch.where(s == 0, EMPTY, torch.where(high, HIGH, LOW)).to(torch.int8)


def _ranks(row: np.ndarray, seed: int) -> Tensor:
    """Return ranks 0 … P-1 of a row (P,) in ascending order; ties are broken at random."""
    level = np.unique(row, return_inverse=True)[1].astype(np.int64)
    shuffled = np.random.default_rng([seed, zlib.crc32(level.tobytes())]).permutation(len(row))
    return torch.from_numpy(np.lexsort((shuffled, level)).argsort())


def _check_density(s: Tensor) -> Tensor:
    """Convert s to float64 on the CPU and at least float32 elsewhere; raise for invalid values."""
    check_values("density", s)
    if s.ndim != 2 or s.shape[1] == 0:
        raise ShapeError(f"density: expected (B, P), got {tuple(s.shape)} — one value per patch")
    min_dtype = torch.float64 if s.device.type == "cpu" else torch.float32
    s = s.to(min_dtype if not s.is_floating_point() else torch.promote_types(s.dtype, min_dtype))
    least, greatest = torch.stack(s.detach().aminmax()).tolist() if len(s) else (0.0, 0.0)
    if not 0 <= least <= greatest < math.inf:  # False for NaN, which aminmax propagates
        raise ValueError(
            f"density: expected finite values >= 0, got [{least:.4g}, {greatest:.4g}] — clip or "
            "replace them first"
        )
    return s
