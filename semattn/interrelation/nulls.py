"""Null distributions of the metrics: other weights on the same patches.

There are three nulls, each with a number of draws. `shifted` shifts the image's own concentration
toroidally (it keeps the autocorrelation, not the position). `other` uses the concentration of
earlier images of the set (it keeps properties that all photographs share, such as a centre bias).
`permuted` shuffles the patches (it keeps neither). The draws depend on the seed and the image, and
for `other` on the earlier images, never on the batch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..density import EMPTY, Scene

NULLS = ("shifted", "other", "permuted")


@dataclass
class ConcentrationPool:
    """Concentrations of the most recent images of a set, for the null `other`.

    The entries change as the analysis proceeds. If all images drew from the same few, the chance
    properties of these few would count as a difference of all images.

    Parameters
    ----------
    max_size : maximum number of images
    entries : weights and strata of each image, (P,) each, by its key, see `image_keys`
    """

    max_size: int
    entries: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, key: int, p: Tensor, strata: Tensor) -> None:
        """Add an image if it is new and has a keypoint; drop the oldest if the pool is full."""
        if key in self.entries or not strata.any():
            return
        self.entries[key] = (p, strata)
        if len(self) > self.max_size:
            del self.entries[next(iter(self.entries))]

    def draw(self, rng: np.random.Generator, excluded: int, n_draws: int) -> tuple[Tensor, Tensor]:
        """Draw weights and strata (R, P) of images other than the one with the key `excluded`.

        R is the same whether or not that image is in the pool.
        """
        candidates = [entry for key, entry in self.entries.items() if key != excluded]
        indices = rng.choice(len(candidates), size=min(n_draws, len(self) - 1), replace=False)
        weights, strata = zip(*(candidates[index] for index in indices), strict=True)
        return torch.stack(weights), torch.stack(strata)


@dataclass(frozen=True)
class PatchDistributions:
    """D distributions of weights over the patches of each image.

    The first is the concentration, the second is the concentration without outlier tokens, the
    others are draws of the nulls.

    Parameters
    ----------
    weights : (B, D, P) float64, rows sum to 1
    strata : (B, D, P) int8
    keep : (B, P) bool, the patches that count in the second distribution
    nulls : name of a null: the slice of the D distributions that holds its draws
    """

    weights: Tensor
    strata: Tensor
    keep: Tensor
    nulls: dict[str, slice] = field(default_factory=dict)


def patch_distributions(
    p: Tensor,
    strata_of_p: Tensor,
    keep: Tensor,
    scene: Scene,
    n_draws: int,
    pool: ConcentrationPool | None,
) -> PatchDistributions:
    """Return the concentration `p` (B, P), its strata `strata_of_p`, and `n_draws` of each null.

    Each image enters the `pool` before it draws. The null `other` needs a pool of at least three
    images.
    """
    weights = [p[:, None], (p * keep / (p * keep).sum(1, keepdim=True))[:, None]]
    strata = [strata_of_p[:, None], strata_of_p[:, None]]
    nulls: dict[str, slice] = {}
    start = 2
    for name, permute in (
        ("shifted", _shift_orders),
        ("other", None),
        ("permuted", _shuffle_orders),
    ):
        image_draws: list[tuple[Tensor, Tensor]] = []
        for i in range(len(p)):
            seed, key = _seed_and_key(scene, i)
            rng = np.random.default_rng([NULLS.index(name), seed, key])
            if permute is not None:
                orders = permute(rng, scene.grid.shape, n_draws)
                image_draws.append((p[i][orders], strata_of_p[i][orders]))
            elif pool is not None:
                pool.add(key, p[i], strata_of_p[i])
                if len(pool) > 2:
                    image_draws.append(pool.draw(rng, key, n_draws))
        if image_draws and len(image_draws[0][0]) > 1:
            weights.append(torch.stack([draw for draw, _ in image_draws]))
            strata.append(torch.stack([draw for _, draw in image_draws]))
            nulls[name] = slice(start, start + weights[-1].shape[1])
            start = nulls[name].stop
    return PatchDistributions(torch.cat(weights, 1), torch.cat(strata, 1), keep, nulls)


def image_keys(scene: Scene) -> list[int]:
    """Return a number for each image that depends on its pixels only."""
    return [_seed_and_key(scene, i)[1] for i in range(len(scene))]


def _seed_and_key(scene: Scene, image: int) -> tuple[int, int]:
    return scene.seed, zlib.crc32(scene.pixels[image].tobytes())


def _shift_orders(rng: np.random.Generator, shape: tuple[int, int], n_draws: int) -> Tensor:
    """Return patch orders (R, P) that shift the grid toroidally, each by a different amount."""
    h, w = shape
    indices = torch.arange(h * w, device="cpu").reshape(h, w)
    n_shifts = h * w - 1
    shifts = 1 + rng.choice(n_shifts, size=min(n_draws, n_shifts), replace=False)
    return torch.stack(
        [indices.roll((int(shift) // w, int(shift) % w), (0, 1)).flatten() for shift in shifts]
    )


def _shuffle_orders(rng: np.random.Generator, shape: tuple[int, int], n_draws: int) -> Tensor:
    count = shape[0] * shape[1]
    return torch.from_numpy(np.stack([rng.permutation(count) for _ in range(n_draws)]))


MIN_DEVIATIONS = 5.0  # robust standard deviations above the median norm


def find_outliers(norms: Tensor, strata: Tensor) -> Tensor:
    """Return a mask (B, P) of patches that are EMPTY and have a norm far above the image's median.

    The spread is 1.4826 times the median absolute deviation, which estimates the standard deviation
    of a normal distribution.

    Examples
    --------
    >>> import torch
    >>> find_outliers(torch.tensor([[1.0, 1.1, 0.9, 9.0, 1.0]]), torch.zeros(1, 5)).tolist()
    [[False, False, False, True, False]]
    """
    norms = norms.cpu().double()
    median = norms.quantile(0.5, dim=1, keepdim=True)
    spread = 1.4826 * (norms - median).abs().quantile(0.5, dim=1, keepdim=True)
    return (norms > median + MIN_DEVIATIONS * spread) & (strata == EMPTY)
