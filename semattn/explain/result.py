"""What an explanation is, once it is made, and where it came from."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor, nn

from ..digest import digest
from ..grid import PatchGrid
from ..images import Images
from ..keypoints import Keypoints

_PACKAGES = (
    "semattn",
    "torch",
    "timm",
    "captum",
    "opencv-python",
    "opencv-python-headless",
    "scikit-image",
    "numpy",
)


@dataclass(frozen=True)
class Explanation:
    """A map of a batch of images, with all that it was made from.

    `heat` (B,H,W) is the map on pixels and `patch_map` (B,h,w) the same on patches, both
    non-negative and unnormalised; `concentration` (B,P) is the density p, rows summing to 1;
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


def weights_digest(model: nn.Module) -> str:
    """The `digest` of the model's parameters and buffers."""
    return digest(
        {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
