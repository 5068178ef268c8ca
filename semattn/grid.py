"""Pixel, patch and token: where each one lies.

The only place that does this arithmetic. Pixel centres are integers, as in OpenCV: the pixel
(x, y) covers [x - .5, x + .5], so that the patch column of a keypoint is
floor((x + .5) / width of a patch). Patches are counted row by row; the prefix tokens (class token,
registers) come before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_values
from .errors import ShapeError
from .registry import choices

MODES = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


@dataclass(frozen=True)
class PatchGrid:
    """A grid of patches over an image.

    Parameters
    ----------
    shape : (h, w), patches
    image_size : (H, W), pixels
    cell : (height, width) of a patch, pixels; fractional under a convolutional stem
    prefix : number of tokens before the patches

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

    @property
    def patches(self) -> int:
        """P, the number of patches."""
        return self.shape[0] * self.shape[1]

    @property
    def tokens(self) -> int:
        """N, the number of tokens: prefix and patches."""
        return self.prefix + self.patches

    def patch_of(self, xy: Tensor) -> Tensor:
        """Patch index (K,) of the positions (K, 2) in pixels; -1 outside the grid, and for NaN."""
        check_values("positions", xy)
        if xy.shape[-1] != 2:
            raise ShapeError(f"positions: expected (K, 2), x and y, got {tuple(xy.shape)}")
        # By numpy: masking asks for every image of every step, and this costs less than torch.
        places = xy.detach().cpu().double().numpy() + 0.5
        column = np.floor(places[..., 0] / self.cell[1])
        row = np.floor(places[..., 1] / self.cell[0])
        h, w = self.shape
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        return torch.from_numpy(np.where(inside, row * w + column, -1).astype(np.int64))

    def centers(self) -> Tensor:
        """Centre (P, 2) of each patch as (x, y), pixels."""
        h, w = self.shape
        y = (torch.arange(h, dtype=torch.float64, device="cpu") + 0.5) * self.cell[0] - 0.5
        x = (torch.arange(w, dtype=torch.float64, device="cpu") + 0.5) * self.cell[1] - 0.5
        return torch.stack([x.repeat(h), y.repeat_interleave(w)], dim=-1)

    def drop_prefix(self, per_token: Tensor) -> Tensor:
        """(…, N) without its prefix tokens: (…, P)."""
        check_values("per-token values", per_token)
        if per_token.shape[-1] != self.tokens:
            raise ShapeError(
                f"per-token values: expected (…, {self.tokens}) for {self}, got "
                f"{tuple(per_token.shape)} — one value a token is needed"
            )
        return per_token[..., self.prefix :]

    def add_prefix(self, per_patch: Tensor, value: float = 0.0) -> Tensor:
        """(…, P) with `value` before it for every prefix token: (…, N)."""
        self.check(per_patch, "weights")
        return F.pad(per_patch, (self.prefix, 0), value=value)

    def fold(self, per_patch: Tensor) -> Tensor:
        """(…, P) as a picture of patches (…, h, w)."""
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
            else " — one value a patch is needed"
        )
        h, w = self.shape
        raise ShapeError(
            f"{name}: expected (…, {self.patches}) for a {h}x{w} grid, "
            f"got {tuple(per_patch.shape)}{hint}"
        )

    def upsample(self, per_patch: Tensor, mode: str = "bilinear") -> Tensor:
        """(B, P) to pixels (B, H, W), each patch's value at that patch's centre.

        `mode` is one of `torch.nn.functional.interpolate`; pixels beyond the last patch repeat it.
        """
        if mode not in MODES:
            raise ValueError(choices("mode", mode, MODES))
        picture = self.fold(per_patch).unsqueeze(1)
        if per_patch.ndim != 2 or not per_patch.is_floating_point():
            raise ShapeError(
                f"per-patch values: expected floats (B, {self.patches}), got {per_patch.dtype} "
                f"{tuple(per_patch.shape)} — one row an image"
            )
        covered = (round(self.shape[0] * self.cell[0]), round(self.shape[1] * self.cell[1]))
        smooth = {} if mode.startswith("nearest") or mode == "area" else {"align_corners": False}
        large = F.interpolate(picture, size=covered, mode=mode, **smooth)
        height, width = self.image_size
        beyond = (0, max(width - covered[1], 0), 0, max(height - covered[0], 0))
        if any(beyond):
            large = F.pad(large, beyond, mode="replicate")
        return large[:, 0, :height, :width].contiguous()

    def pool(self, per_pixel: Tensor) -> Tensor:
        """Mean of (B, H, W) over each patch: (B, P). Pixels in no patch do not count."""
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
