"""Coordinates of pixels, patches and tokens.

All conversions between them are in this module. Pixel centres are integers, as in OpenCV: the
pixel (x, y) covers [x - .5, x + .5], so that the patch column of a keypoint is
floor((x + .5) / patch width). Patches are numbered row by row, after the prefix tokens (class
token, registers). The patches may cover only a part of the image; `PatchGrid.origin` is then the
position of the first patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ShapeError
from .utils.registry import unknown_name_message
from .utils.validation import check_values

LENGTH_TOLERANCE = 1e-6  # pixels by which the length of all patches may differ from an integer
MODES = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


@dataclass(frozen=True)
class PatchGrid:
    """Grid of patches over an image.

    Parameters
    ----------
    shape : (h, w), patches
    image_size : (H, W), pixels
    cell : (height, width) of a patch, pixels; may be fractional with a convolutional stem
    prefix : number of tokens before the patches
    origin : (y, x) of the top left corner of the first patch, in pixels from the top left corner of
        the image; differs from (0, 0) if the model crops or pads the image in its forward
    overlap : (y, x) pixels beyond the outer patches that these patches cover too, for overlapping
        patches; such a pixel belongs to the nearest patch

    Examples
    --------
    >>> grid = PatchGrid((3, 4), image_size=(48, 64), cell=(16, 16), prefix=1)
    >>> grid.patch_of(torch.tensor([[15.4, 0.0], [15.6, 47.0]])).tolist()
    [0, 9]
    """

    shape: tuple[int, int]
    image_size: tuple[int, int]
    cell: tuple[float, float]
    prefix: int = 0
    origin: tuple[float, float] = (0.0, 0.0)
    overlap: tuple[float, float] = (0.0, 0.0)

    @property
    def patches(self) -> int:
        """P, the number of patches."""
        return self.shape[0] * self.shape[1]

    def to_list(self) -> list[Any]:
        """Return all fields, ready for JSON."""
        return [
            list(self.shape), list(self.image_size), list(self.cell), self.prefix,
            list(self.origin), list(self.overlap),
        ]  # fmt: skip

    @classmethod
    def from_list(cls, fields: Sequence[Any]) -> PatchGrid:
        """Return the grid for the output of `to_list`; earlier files lack origin and overlap."""
        (h, w), (height, width), (cell_height, cell_width), prefix, *rest = fields
        (y, x), (dy, dx) = (*rest, (0.0, 0.0), (0.0, 0.0))[:2]
        return cls((h, w), (height, width), (cell_height, cell_width), prefix, (y, x), (dy, dx))

    @property
    def is_partial(self) -> bool:
        """Return whether pixels outside all patches are unseen by the model.

        True for an origin other than (0, 0), or if one cell or more is left over at the right or
        bottom. A smaller remainder counts as part of the last patch.
        """
        return self.origin != (0.0, 0.0) or any(
            side - count * cell >= cell
            for side, count, cell in zip(self.image_size, self.shape, self.cell, strict=True)
        )

    @property
    def visible_part(self) -> tuple[slice, slice]:
        """Rows and columns of the pixels that get a value from `upsample`; the others are 0."""
        if not self.is_partial:
            return slice(0, self.image_size[0]), slice(0, self.image_size[1])
        rows, columns = (
            ((pixel >= -overlap / cell) & (pixel < count + overlap / cell)).nonzero().flatten()
            for pixel, count, overlap, cell in zip(
                self._pixel_coordinates(), self.shape, self.overlap, self.cell, strict=True
            )
        )
        if not len(rows) or not len(columns):
            return slice(0, 0), slice(0, 0)
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def _pixel_coordinates(self) -> tuple[Tensor, Tensor]:
        """Return coordinates of the pixel rows (H,) and columns (W,), in patches, float64.

        The coordinates start at the top left corner of the first patch.
        """
        y, x = (
            (torch.arange(side, dtype=torch.float64, device="cpu") + 0.5 - start) / cell
            for side, start, cell in zip(self.image_size, self.origin, self.cell, strict=True)
        )
        return y, x

    @property
    def tokens(self) -> int:
        """N, the number of tokens: prefix and patches."""
        return self.prefix + self.patches

    def patch_of(self, xy: Tensor) -> Tensor:
        """Return patch indices (K,) of positions (K, 2), pixels; -1 outside the grid, for NaN."""
        check_values("positions", xy)
        if xy.shape[-1] != 2:
            raise ShapeError(f"positions: expected (K, 2), x and y, got {tuple(xy.shape)}")
        # numpy is faster than torch here; masking calls this for each image of each step.
        from_image_edge = xy.detach().cpu().double().numpy() + 0.5
        h, w = self.shape
        column = self._cell_numbers(from_image_edge[..., 0], 1)
        row = self._cell_numbers(from_image_edge[..., 1], 0)
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        return torch.from_numpy(np.where(inside, row * w + column, -1).astype(np.int64))

    def _cell_numbers(self, from_image_edge: np.ndarray, side: int) -> np.ndarray:
        """Return rows (side 0) or columns (side 1) of pixel distances from the image edge."""
        from_edge = from_image_edge - self.origin[side]
        numbers = np.floor(from_edge / self.cell[side])
        overlap, length = self.overlap[side], self.shape[side] * self.cell[side]
        if not overlap:
            return numbers
        is_covered = (from_edge >= -overlap) & (from_edge < length + overlap)
        return np.where(is_covered, numbers.clip(0, self.shape[side] - 1), numbers)

    def centers(self) -> Tensor:
        """Return the centres (P, 2) of the patches as (x, y), pixels."""
        h, w = self.shape
        y = (torch.arange(h, dtype=torch.float64, device="cpu") + 0.5) * self.cell[0] + (
            self.origin[0] - 0.5
        )
        x = (torch.arange(w, dtype=torch.float64, device="cpu") + 0.5) * self.cell[1] + (
            self.origin[1] - 0.5
        )
        return torch.stack([x.repeat(h), y.repeat_interleave(w)], dim=-1)

    def drop_prefix(self, per_token: Tensor) -> Tensor:
        """Remove the prefix tokens: (…, N) to (…, P)."""
        check_values("per-token values", per_token)
        if per_token.shape[-1] != self.tokens:
            raise ShapeError(
                f"per-token values: expected (…, {self.tokens}) for {self}, got "
                f"{tuple(per_token.shape)} — one value per token is needed"
            )
        return per_token[..., self.prefix :]

    def add_prefix(self, per_patch: Tensor, value: float = 0.0) -> Tensor:
        """Insert `value` for each prefix token: (…, P) to (…, N)."""
        self.check(per_patch, "weights")
        return F.pad(per_patch, (self.prefix, 0), value=value)

    def fold(self, per_patch: Tensor) -> Tensor:
        """Reshape values of patches from (…, P) to (…, h, w)."""
        self.check(per_patch, "per-patch values")
        return per_patch.unflatten(-1, self.shape)

    def check(self, per_patch: Tensor, name: str) -> None:
        """Raise ShapeError unless the last axis of `per_patch` is P long."""
        check_values(name, per_patch)
        if per_patch.shape[-1] == self.patches:
            return
        hint = (
            " — drop the prefix tokens with grid.drop_prefix(x)"
            if per_patch.shape[-1] == self.tokens
            else " — one value per patch is needed"
        )
        h, w = self.shape
        raise ShapeError(
            f"{name}: expected (…, {self.patches}) for a {h}x{w} grid, "
            f"got {tuple(per_patch.shape)}{hint}"
        )

    def upsample(self, per_patch: Tensor, mode: str = "bilinear") -> Tensor:
        """Interpolate (B, P) to pixels (B, H, W), with the value of a patch at its centre.

        `mode` is a mode of `torch.nn.functional.interpolate`. A remainder of less than one cell at
        the right and bottom repeats the last patch. If the grid `is_partial`, pixels outside all
        patches are 0.
        """
        if mode not in MODES:
            raise ValueError(unknown_name_message("mode", mode, MODES))
        picture = self.fold(per_patch).unsqueeze(1)
        if per_patch.ndim != 2 or not per_patch.is_floating_point():
            raise ShapeError(
                f"per-patch values: expected floats (B, {self.patches}), got {per_patch.dtype} "
                f"{tuple(per_patch.shape)} — one row per image"
            )
        lengths = (self.shape[0] * self.cell[0], self.shape[1] * self.cell[1])
        if self.is_partial or any(
            abs(length - round(length)) > LENGTH_TOLERANCE for length in lengths
        ):
            y, x = self._pixel_coordinates()
            rows = sample(picture[:, 0], y, 1, self.cell[0], mode)
            return self._mask_invisible(sample(rows, x, 2, self.cell[1], mode))
        covered = (round(lengths[0]), round(lengths[1]))
        smooth = {} if mode.startswith("nearest") or mode == "area" else {"align_corners": False}
        large = F.interpolate(picture, size=covered, mode=mode, **smooth)
        height, width = self.image_size
        beyond = (0, max(width - covered[1], 0), 0, max(height - covered[0], 0))
        if any(beyond):
            large = F.pad(large, beyond, mode="replicate")
        return large[:, 0, :height, :width].contiguous()

    def _mask_invisible(self, per_pixel: Tensor) -> Tensor:
        """Set (B, H, W) to 0 outside `visible_part`."""
        rows, columns = self.visible_part
        visible = torch.zeros_like(per_pixel, memory_format=torch.contiguous_format)
        visible[:, rows, columns] = per_pixel[:, rows, columns]
        return visible

    def pool(self, per_pixel: Tensor) -> Tensor:
        """Average (B, H, W) over each patch: (B, P). Pixels outside all patches are ignored."""
        check_values("per-pixel values", per_pixel)
        if per_pixel.ndim != 3 or tuple(per_pixel.shape[-2:]) != self.image_size:
            raise ShapeError(
                f"per-pixel values: expected (B, {self.image_size[0]}, {self.image_size[1]}), "
                f"got {tuple(per_pixel.shape)} — give them at the size of the model's input"
            )
        height, width = self.image_size
        y, x = torch.meshgrid(
            torch.arange(height, device="cpu"), torch.arange(width, device="cpu"), indexing="ij"
        )
        index = self.patch_of(torch.stack([x.flatten(), y.flatten()], dim=-1))
        inside = (index >= 0).to(per_pixel.device)
        index = index.to(per_pixel.device)[inside]
        values = per_pixel.flatten(1)[:, inside]
        total = per_pixel.new_zeros(len(per_pixel), self.patches).index_add_(1, index, values)
        count = torch.bincount(index, minlength=self.patches).clamp(min=1)
        return total / count.to(total.dtype)


def sample(values: Tensor, coordinates: Tensor, dim: int, cell: float, mode: str) -> Tensor:
    """Interpolate values of patches along one axis; beyond the ends, the last value repeats.

    Parameters
    ----------
    values : (…, h, …) with h patches along `dim`
    coordinates : (H,) float64, coordinates in patches from the outer edge of the first patch
    cell : length of a patch, pixels; the width of a pixel is 1 / cell for mode "area"
    mode : one of `MODES`; "nearest" and "nearest-exact" use the patch that contains the coordinate

    Examples
    --------
    >>> sample(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.75, 1.5]), 0, 4, "bilinear").tolist()
    [0.0, 0.25, 1.0]
    """
    if mode.startswith("nearest"):
        first, weights = coordinates.floor(), torch.ones_like(coordinates)[:, None]
    elif mode == "area":
        low, high = coordinates - 0.5 / cell, coordinates + 0.5 / cell
        first = low.floor()
        max_patches = math.ceil(1 / cell) + 1  # patches that a pixel can touch
        edge = first[:, None] + torch.arange(max_patches, dtype=torch.float64, device="cpu")
        weights = torch.minimum(high[:, None], edge + 1) - torch.maximum(low[:, None], edge)
        weights = weights.clamp(min=0) * cell
    else:
        taps = 2 if mode == "bilinear" else 4
        first = (coordinates - 0.5).floor() - (taps // 2 - 1)
        tap = torch.arange(taps, dtype=torch.float64, device="cpu")
        distance = (coordinates - 0.5 - first)[:, None] - tap
        weights = 1 - distance.abs() if mode == "bilinear" else _cubic_weights(distance.abs())
    index = first[:, None].long() + torch.arange(weights.shape[1], device="cpu")
    index = index.clamp(0, values.shape[dim] - 1).to(values.device)
    weights = weights.to(values.dtype).to(values.device)
    shape = [1] * values.ndim
    shape[dim] = len(coordinates)
    total = values.index_select(dim, index[:, 0]) * weights[:, 0].reshape(shape)
    for number in range(1, weights.shape[1]):
        part = values.index_select(dim, index[:, number])
        total = total + part * weights[:, number].reshape(shape)
    return total


def _cubic_weights(distance: Tensor) -> Tensor:
    """Return weights of cubic convolution at distances 0 to 2, with PyTorch's a = -0.75."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance <= 1, near, far)
