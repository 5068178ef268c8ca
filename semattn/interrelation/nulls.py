"""What a figure would be if keypoints had nothing to do with it: other weights on the patches.

Three nulls, each a number of draws: `shifted`, the image's own concentration moved round the torus
by any other amount (its autocorrelation stays, its place does not); `other`, that of images before
it in the set (what is common to all photographs stays, such as their centre); `permuted`, its
patches shuffled (nothing stays). What is drawn depends on the seed and the image, and for `other`
on those before it, never on its batch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..density import Scene

NULLS = ("shifted", "other", "permuted")


@dataclass
class Pool:
    """Concentrations of the last images of a set, to draw from.

    The images change as the set goes by: if all drew from the same few, what these few have by
    chance would count as a difference of all.

    Parameters
    ----------
    most : how many images it holds
    known : their weights and strata, (P,) each, by a number for each, see `keys_of`
    """

    most: int
    known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.known)

    def enter(self, key: int, p: Tensor, sorted_in: Tensor) -> None:
        """Take in an image, if it is new and not blank; the one that came first has to go."""
        if key in self.known or not sorted_in.any():
            return
        self.known[key] = (p, sorted_in)
        if len(self) > self.most:
            del self.known[next(iter(self.known))]

    def draw(self, chance: np.random.Generator, own: int, draws: int) -> tuple[Tensor, Tensor]:
        """Weights and strata (R, P) of images other than `own`; as many where it is not here."""
        others = [one for key, one in self.known.items() if key != own]
        taken = chance.choice(len(others), size=min(draws, len(self) - 1), replace=False)
        weights, groups = zip(*(others[one] for one in taken), strict=True)
        return torch.stack(weights), torch.stack(groups)


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

    Each image enters the `pool` before it draws. Without one of three images at least there is no
    null `other`.
    """
    weights = [p[:, None], (p * keep / (p * keep).sum(1, keepdim=True))[:, None]]
    groups = [sorted_in[:, None], sorted_in[:, None]]
    nulls: dict[str, slice] = {}
    start = 2
    for name, pick in (("shifted", _shifts), ("other", None), ("permuted", _shuffles)):
        drawn: list[tuple[Tensor, Tensor]] = []
        for i in range(len(p)):
            seed, key = _seeds(scene, i)
            chance = np.random.default_rng([NULLS.index(name), seed, key])
            if pick is not None:
                order = pick(chance, scene.grid.shape, draws)
                drawn.append((p[i][order], sorted_in[i][order]))
            elif pool is not None:
                pool.enter(key, p[i], sorted_in[i])
                if len(pool) > 2:
                    drawn.append(pool.draw(chance, key, draws))
        if drawn and len(drawn[0][0]) > 1:
            weights.append(torch.stack([one for one, _ in drawn]))
            groups.append(torch.stack([one for _, one in drawn]))
            nulls[name] = slice(start, start + weights[-1].shape[1])
            start = nulls[name].stop
    return Held(torch.cat(weights, 1), torch.cat(groups, 1), keep, nulls)


def keys_of(scene: Scene) -> list[int]:
    """A number for each image, which its pixels alone decide."""
    return [_seeds(scene, i)[1] for i in range(len(scene))]


def _seeds(scene: Scene, image: int) -> tuple[int, int]:
    return scene.seed, zlib.crc32(scene.pixels[image].tobytes())


def _shifts(chance: np.random.Generator, shape: tuple[int, int], draws: int) -> Tensor:
    """Orders (R, P) of patches that move the grid round the torus: each by another amount."""
    h, w = shape
    places = torch.arange(h * w, device="cpu").reshape(h, w)
    every = h * w - 1
    amounts = 1 + chance.choice(every, size=min(draws, every), replace=False)
    return torch.stack(
        [places.roll((int(one) // w, int(one) % w), (0, 1)).flatten() for one in amounts]
    )


def _shuffles(chance: np.random.Generator, shape: tuple[int, int], draws: int) -> Tensor:
    count = shape[0] * shape[1]
    return torch.from_numpy(np.stack([chance.permutation(count) for _ in range(draws)]))
