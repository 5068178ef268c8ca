"""What an explanation is, once it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..grid import PatchGrid
from ..images import Images
from ..keypoints import Keypoints


@dataclass(frozen=True)
class Explanation:
    """A map of a batch of images, with all that it was made from.

    `heat` (B,H,W) is the map on pixels and `patch_map` (B,h,w) the same on patches, both
    non-negative and unnormalised; `concentration` (B,P) is the density p, float64 on the CPU,
    rows summing to 1;
    `target` (B,) holds the explained classes, None where it is no class that was explained;
    `explains` then says what, in a few words. `notes` are sentences that a reader must know.
    `attribution` (B,C,H,W) is set by methods that tell the channels apart, and sums to `heat`;
    those of Captum may be negative.
    """

    heat: Tensor
    patch_map: Tensor
    images: Images
    keypoints: list[Keypoints]
    concentration: Tensor
    grid: PatchGrid
    logits: Tensor
    target: Tensor | None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    attribution: Tensor | None = None
    explains: str = ""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.heat)

    def label(self, number: int) -> str:
        """The name of class `number`, or the number where the model names no classes."""
        if self.classes is not None and 0 <= number < len(self.classes):
            return self.classes[number]
        return f"class {number}"
