"""Keypoints of one image: positions, response, size, angle and descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints of one image, by descending response.

    Parameters
    ----------
    xy : (K, 2) float32, pixels; pixel centres are integers
    response : (K,) float32, absolute difference of Gaussians at the keypoint, for levels in [0, 1]
    size : (K,) float32, diameter in pixels: twice the standard deviation of the scale
    angle : (K,) float32, degrees in [0, 360), from the x axis towards the y axis
    descriptor : (K, 128) float32, or None if descriptors were not computed
    image_size : (H, W), pixels
    detector : name of the detector
    """

    xy: Tensor
    response: Tensor
    size: Tensor
    angle: Tensor
    descriptor: Tensor | None
    image_size: tuple[int, int]
    detector: str

    def __post_init__(self) -> None:
        for name in ("xy", "response", "size", "angle", "descriptor"):
            value = getattr(self, name)
            if name == "descriptor" and value is None:
                continue
            if not isinstance(value, Tensor) or value.requires_grad or value.is_complex():
                raise TypeError(
                    f"keypoints: expected {name} as a tensor of numbers without a gradient, got "
                    f"{getattr(value, 'dtype', type(value).__name__)} — torch.as_tensor(…).detach()"
                )
            count = tuple(self.xy.shape[:1])
            expected = {"xy": (*count, 2), "descriptor": (*count, *value.shape[1:2])}.get(
                name, count
            )
            if not count or tuple(value.shape) != expected:
                raise ShapeError(
                    f"keypoints: expected {name} for {tuple(self.xy.shape)} positions, got "
                    f"{tuple(value.shape)} — one row per keypoint"
                )

    def __len__(self) -> int:
        return len(self.xy)


def no_keypoints(image_size: tuple[int, int]) -> Keypoints:
    """Return empty keypoints for an image (H, W) on which no detector was run."""
    empty, positions, descriptors = (
        torch.zeros(shape, device="cpu") for shape in ((0,), (0, 2), (0, 128))
    )
    return Keypoints(positions, empty, empty, empty, descriptors, image_size, detector="none")
