"""What a figure would be if keypoints had nothing to do with it: other weights on the patches.

Three nulls, each a number of draws: `shifted`, the image's own concentration moved round the torus
by any other amount (its autocorrelation stays, its place does not); `other`, that of other images
of the set (what is common to all photographs stays, such as their centre); `permuted`, its patches
shuffled (nothing stays). What is drawn depends on the seed and the image, never on its batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..density import Scene, concentration, strata

NULLS = ("shifted", "other", "permuted")


@dataclass(frozen=True)
class Pool:
    """Concentrations of other images of a set, to draw from.

    Parameters
    ----------
    weights, strata : (M, P) of M images
    keys : M numbers that tell the images apart, see `keys_of`
    """

    weights: Tensor
    strata: Tensor
    keys: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Held:
    """What attention is held against: D distributions of weights on the patches of each image.

    The first is the concentration itself, the second is that without the tokens that are left out,
    the others are draws of the nulls.

    Parameters
    ----------
    weights : (B, D, P) float64, rows sum to 1
    strata : (B, D, P) int8
    keep : (B, P) bool, the patches that count in the second
    nulls : which of the D are draws of each null
    """

    weights: Tensor
    strata: Tensor
    keep: Tensor
    nulls: dict[str, slice] = field(default_factory=dict)


def held(
    p: Tensor, sorted_in: Tensor, keep: Tensor, scene: Scene, draws: int, pool: Pool | None
) -> Held:
    """The concentration `p` (B, P), its strata, and `draws` of each null.

    Without a `pool` of three images at least there is no null `other`.
    """
    weights = [p[:, None], (p * keep / (p * keep).sum(1, keepdim=True))[:, None]]
    groups = [sorted_in[:, None], sorted_in[:, None]]
    nulls: dict[str, slice] = {}
    start = 2
    for name, pick in (("shifted", _shifts), ("other", None), ("permuted", _shuffles)):
        drawn: list[tuple[Tensor, Tensor]] = []
        for i in range(len(p)):
            chance = np.random.default_rng([NULLS.index(name), *_seeds(scene, i)])
            if pick is not None:
                order = pick(chance, scene.grid.shape, draws)
                drawn.append((p[i][order], sorted_in[i][order]))
            elif pool is not None and len(pool) > 2:
                drawn.append(_others(chance, pool, keys_of(scene)[i], draws))
        if drawn and len(drawn[0][0]) > 1:
            weights.append(torch.stack([one for one, _ in drawn]))
            groups.append(torch.stack([one for _, one in drawn]))
            nulls[name] = slice(start, start + weights[-1].shape[1])
            start = nulls[name].stop
    return Held(torch.cat(weights, 1), torch.cat(groups, 1), keep, nulls)


def pool_of(scenes: Sequence[tuple[Scene, Tensor]], most: int) -> Pool | None:
    """The concentrations of the first `most` images of scenes with their densities s (B, P).

    Images without a weight in any patch are left out, and each image is there once.
    """
    known: dict[int, tuple[Tensor, Tensor]] = {}
    for scene, s in scenes:
        for i, key in enumerate(keys_of(scene)):
            if len(known) < most and bool(s[i].any()):
                known.setdefault(
                    key, (concentration(s[i : i + 1]), strata(s[i : i + 1], scene.seed))
                )
    if not known:
        return None
    weights, groups = zip(*known.values(), strict=True)
    return Pool(torch.cat(weights), torch.cat(groups), tuple(known))


def keys_of(scene: Scene) -> list[int]:
    """A number for each image, which its pixels alone decide."""
    return [_seeds(scene, i)[1] for i in range(len(scene))]


def _seeds(scene: Scene, image: int) -> tuple[int, int]:
    return scene.seed, zlib.crc32(scene.pixels[image].tobytes())


def _shifts(chance: np.random.Generator, shape: tuple[int, int], draws: int) -> Tensor:
    """Orders (R, P) of patches that move the grid round the torus: each by another amount."""
    h, w = shape
    places = torch.arange(h * w).reshape(h, w)
    every = h * w - 1
    amounts = 1 + chance.choice(every, size=min(draws, every), replace=False)
    return torch.stack(
        [places.roll((int(one) // w, int(one) % w), (0, 1)).flatten() for one in amounts]
    )


def _shuffles(chance: np.random.Generator, shape: tuple[int, int], draws: int) -> Tensor:
    count = shape[0] * shape[1]
    return torch.from_numpy(np.stack([chance.permutation(count) for _ in range(draws)]))


def _others(chance: np.random.Generator, pool: Pool, own: int, draws: int) -> tuple[Tensor, Tensor]:
    """Weights and strata (R, P) of other images; as many for those of the pool as for the rest."""
    known = [place for place, key in enumerate(pool.keys) if key != own]
    taken = chance.choice(known, size=min(draws, len(pool) - 1), replace=False)
    return pool.weights[taken], pool.strata[taken]
