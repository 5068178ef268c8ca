"""Mapping between the tokens of an image and the queries or keys of one attention call.

A plain ViT attends over all tokens of an image at once. Other models attend in windows, or over
coarser grids from stage to stage. `TokenMap` maps one weight per token to the queries or keys of
such a call, and values per key back to the tokens, all on the grid of the record. Sums are
preserved: a coarse patch has the sum of the fine patches that it covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..grid import PatchGrid


@dataclass(frozen=True)
class TokenMap:
    """Positions of G groups of n tokens; a group is an image or one window of an image.

    Parameters
    ----------
    call_grid : the grid of the call's tokens
    grid : the grid of the record, of the same image
    batch : B, the number of images
    image : (G,), the image index of each group; None if each group is an image
    token : (G, n), the token number in `call_grid` of each element, prefix tokens first, -1 for
        padding; None if the tokens are in order
    """

    call_grid: PatchGrid
    grid: PatchGrid
    batch: int
    image: Tensor | None = None
    token: Tensor | None = None

    def to_call(self, tokens: Tensor) -> Tensor:
        """Map weights (B, …, N) of the tokens of the grid to the tokens of the call: (G, …, n)."""
        if (tokens.shape[0], tokens.shape[-1]) != (self.batch, self.grid.tokens):
            raise ShapeError(
                f"weights: expected ({self.batch}, {self.grid.tokens}), one per token, got "
                f"{tuple(tokens.shape)} — add prefix tokens with grid.add_prefix(w)"
            )
        weights = _resample(tokens, self.grid, self.call_grid)
        if self.token is None or self.image is None:
            return weights
        return F.pad(weights, (0, 1)).movedim(-1, 1)[self.image[:, None], self.token].movedim(1, -1)

    def to_grid(self, values: Tensor) -> Tensor:
        """Sum values (G, H, n) of the call's tokens onto the tokens of the grid: (B, H, N)."""
        if self.token is not None and self.image is not None:
            heads = torch.arange(values.shape[1], device=values.device)
            sums = values.new_zeros(self.batch, values.shape[1], self.call_grid.tokens + 1)
            index = (self.image[:, None, None], heads[:, None], self.token[:, None])
            values = sums.index_put_(index, values, accumulate=True)[..., :-1]
        return _resample(values, self.call_grid, self.grid)

    def padding(self) -> Tensor | None:
        """Return 1 for the tokens of the call that are padding: (G, n); None without any."""
        return None if self.token is None else (self.token < 0).float()

    def per_image(self, values: Tensor) -> Tensor:
        """Sum values (G, …) over the groups of each image: (B, …)."""
        if self.image is None:
            return values
        total = values.new_zeros(self.batch, *values.shape[1:])
        return total.index_add_(0, self.image, values)


def _resample(tokens: Tensor, source: PatchGrid, target: PatchGrid) -> Tensor:
    """Sum values (…, N) of the tokens of one grid onto those of another grid of the same image."""
    if source.shape == target.shape and source.prefix == target.prefix:
        return tokens
    prefix, patches = tokens[..., : source.prefix], tokens[..., source.prefix :]
    prefix = F.pad(prefix, (0, target.prefix - source.prefix))  # a negative pad drops
    if source.shape != target.shape:
        rows, columns = (
            _cell_fractions(n_target, n_source).to(patches)
            for n_target, n_source in zip(target.shape, source.shape, strict=True)
        )
        patches = (rows @ patches.unflatten(-1, source.shape) @ columns.T).flatten(-2)
    return torch.cat([prefix, patches], dim=-1)


@lru_cache(maxsize=256)
def _cell_fractions(n_target: int, n_source: int) -> Tensor:
    """Return the fraction (n_target, n_source) of each source cell inside each target cell.

    One side of the image is divided into `n_source`, and into `n_target`, cells of equal length.

    >>> _cell_fractions(2, 3)
    tensor([[1.0000, 0.5000, 0.0000],
            [0.0000, 0.5000, 1.0000]], dtype=torch.float64)
    """
    row, column = (torch.arange(n, device="cpu").double() for n in (n_target, n_source))
    row = row[:, None]
    high = torch.minimum((row + 1) / n_target, (column + 1) / n_source)
    shared = high - torch.maximum(row / n_target, column / n_source)
    return shared.clamp(min=0) * n_source
