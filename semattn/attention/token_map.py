"""Which tokens of the image the queries, or the keys, of one attention call are.

A plain ViT attends over all tokens of an image at once. Others attend in windows, or over coarser
grids from stage to stage. Here a weight a token becomes a weight a query or a key of such a call,
and what the keys gathered comes back to the tokens, all in the one grid of the record. Nothing is
made or lost on the way: a coarse patch holds the sum of the fine ones that it covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..grid import PatchGrid


@dataclass(frozen=True)
class Placement:
    """The places of G groups of n tokens each; a group is an image, or a window of one.

    Parameters
    ----------
    own : the grid that the call's tokens lie on
    common : the grid of the record, of the same image
    batch : B, the number of images
    image : (G,), which image a group belongs to; None when groups are images
    token : (G, n), which token of `own` each one is, prefix tokens first, -1 for padding; None
        when they come in order
    """

    own: PatchGrid
    common: PatchGrid
    batch: int
    image: Tensor | None = None
    token: Tensor | None = None

    def spread(self, tokens: Tensor) -> Tensor:
        """Weights (B, …, N) of the common tokens as those of the call's: (G, …, n)."""
        if (tokens.shape[0], tokens.shape[-1]) != (self.batch, self.common.tokens):
            raise ShapeError(
                f"weights: expected ({self.batch}, {self.common.tokens}), one a token, got "
                f"{tuple(tokens.shape)} — add prefix tokens with grid.add_prefix(w)"
            )
        mine = self._resample(tokens, self.common, self.own, self._overlap)
        if self.token is None or self.image is None:
            return mine
        return F.pad(mine, (0, 1)).movedim(-1, 1)[self.image[:, None], self.token].movedim(1, -1)

    def collect(self, values: Tensor) -> Tensor:
        """What the call's tokens hold, (G, H, n), summed on the common ones: (B, H, N)."""
        if self.token is not None and self.image is not None:
            heads = torch.arange(values.shape[1], device=values.device)
            whole = values.new_zeros(self.batch, values.shape[1], self.own.tokens + 1)
            index = (self.image[:, None, None], heads[:, None], self.token[:, None])
            values = whole.index_put_(index, values, accumulate=True)[..., :-1]
        return self._resample(values, self.own, self.common, self._shares)

    def padding(self) -> Tensor:
        """1 for the tokens of the call that are padding, (G, n) or a single 0."""
        if self.token is None:
            return torch.zeros((), device="cpu")
        return (self.token < 0).float()

    def per_image(self, values: Tensor) -> Tensor:
        """Sum of (G, …) over the groups of each image: (B, …)."""
        if self.image is None:
            return values
        total = values.new_zeros(self.batch, *values.shape[1:])
        return total.index_add_(0, self.image, values)

    @cached_property
    def _overlap(self) -> tuple[Tensor, Tensor]:
        """For rows and columns: the part (own, common) of each common patch in each own one."""
        down, across = (
            _parts(mine, common)
            for mine, common in zip(self.own.shape, self.common.shape, strict=True)
        )
        return down, across

    @cached_property
    def _shares(self) -> tuple[Tensor, Tensor]:
        """For rows and columns: the part (common, own) of each own patch in each common one."""
        down, across = (
            _parts(common, mine)
            for mine, common in zip(self.own.shape, self.common.shape, strict=True)
        )
        return down, across

    @staticmethod
    def _resample(
        tokens: Tensor, given: PatchGrid, wanted: PatchGrid, parts: tuple[Tensor, Tensor]
    ) -> Tensor:
        if given.shape == wanted.shape and given.prefix == wanted.prefix:
            return tokens
        front, patches = tokens[..., : given.prefix], tokens[..., given.prefix :]
        front = F.pad(front, (0, wanted.prefix - given.prefix))  # a negative pad drops
        if given.shape != wanted.shape:
            down, across = (one.to(patches) for one in parts)
            patches = (down @ patches.unflatten(-1, given.shape) @ across.T).flatten(-2)
        return torch.cat([front, patches], dim=-1)


def _parts(wanted: int, given: int) -> Tensor:
    """The part (wanted, given) of each of `given` equal lengths in each of `wanted`, of one side.

    >>> _parts(2, 3)
    tensor([[1.0000, 0.5000, 0.0000],
            [0.0000, 0.5000, 1.0000]], dtype=torch.float64)
    """
    row, column = (torch.arange(n, device="cpu").double() for n in (wanted, given))
    row = row[:, None]
    high = torch.minimum((row + 1) / wanted, (column + 1) / given)
    shared = high - torch.maximum(row / wanted, column / given)
    return shared.clamp(min=0) * given
