"""Positions of the elements of a tensor, and the operations on them that the position rules use.

`PositionStorage` holds the positions of tensors that are written in parts, `Origin` the
dependencies of the values of a tensor. This module must not depend on the calls of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Positions of the elements of a tensor, three planes of its shape: image number, and position down
# and across as fractions of the image's height and width. Image -1 is padding. Image NaN has no
# position (a class token); "down" is then NaN or a negative number that identifies the token.
Planes = tuple[Tensor, ...]

_EQUAL_WITHIN = 1e-6  # positions that differ by less are equal
_MIN_GAP = 1e-5  # between the positions of neighbours
_MIN_DISTANCE = 0.015  # fraction of the image's side above which two tokens differ
# Part of the distance between neighbours by which the operands of a sum may differ: in a residual
# block with a stride and one-sided padding, the two paths differ by half of a token.
_MAX_SHIFT = 0.6


def without_copies(plane: Tensor) -> Tensor:
    """Return a view of the plane in which expanded axes (of stride 0) have length 1."""
    return plane[tuple(slice(0, 1) if step == 0 else slice(None) for step in plane.stride())]


def are_equal(first: Planes, second: Planes) -> bool:
    """Return whether positions that broadcast to each other are equal."""
    return len(first) == len(second) and all(
        bool(((plane - other).abs() < _EQUAL_WITHIN).all())
        for plane, other in zip(
            (plane.nan_to_num(-9.0) for plane in first),
            (plane.nan_to_num(-9.0) for plane in second),
            strict=True,
        )
    )


def are_same_planes(first: Planes | None, second: Planes) -> bool:
    """Return whether positions have the same values, and the same expanded axes."""
    if first is None or len(first) != len(second):
        return False
    return all(
        plane.shape == other.shape
        and without_copies(plane).shape == without_copies(other).shape
        and torch.equal(
            without_copies(plane).nan_to_num(-9.0), without_copies(other).nan_to_num(-9.0)
        )
        for plane, other in zip(first, second, strict=True)
    )


def varies_along(planes: Iterable[Tensor], axis: int, tolerance: float = _EQUAL_WITHIN) -> bool:
    """Return whether positions differ by `tolerance` or more along an axis.

    NaN, no position, differs from every position.
    """
    for plane in planes:
        values = without_copies(plane).nan_to_num(-9.0)
        if bool(((values - values.narrow(axis, 0, 1)).abs() >= tolerance).any()):
            return True
    return False


def are_of_one_token(left: Planes, right: Planes) -> bool:
    """Return whether two matrices hold channels of one and the same token."""
    if len(left) != 3 or len(right) != 3 or left[0].shape[-2] * right[0].shape[-1] == 1:
        return False
    planes = [plane.nan_to_num(-9.0) for plane in (*left, *right)]
    corners = [plane[..., :1, :1] for plane in planes]
    return all(
        bool(((plane - corner).abs() < _EQUAL_WITHIN).all())
        for plane, corner in zip(planes, corners, strict=True)
    ) and all(
        bool(((corner - other).abs() < _EQUAL_WITHIN).all())
        for corner, other in zip(corners[:3], corners[3:], strict=True)
    )


def are_at_different_positions(first: Planes, second: Planes) -> bool:
    """Return whether two tensors hold several tokens each, at different positions."""
    first, second = (tuple(map(without_copies, planes)) for planes in (first, second))
    if not (_has_several_positions(first) and _has_several_positions(second)):
        return False
    real = (first[0] >= 0) & (second[0] >= 0)
    if bool((real & (first[0] != second[0])).any()):
        return True
    pairs = list(zip(first[1:3], second[1:3], strict=True))
    distances = [(plane - other).abs() for plane, other in pairs]
    if not any(bool((real & (distance > _MIN_DISTANCE)).any()) for distance in distances):
        return False
    limits = [max(_MIN_DISTANCE, _MAX_SHIFT * min(map(_spacing, pair))) for pair in pairs]
    far = [distance > limit for distance, limit in zip(distances, limits, strict=True)]
    return any(bool((real & is_far).any()) for is_far in far)


def _has_several_positions(planes: Planes) -> bool:
    real = planes[0] >= 0
    least = [torch.where(real, plane, torch.inf).amin() for plane in planes[1:3]]
    most = [torch.where(real, plane, -torch.inf).amax() for plane in planes[1:3]]
    return any(bool(high - low > _MIN_DISTANCE) for low, high in zip(least, most, strict=True))


def _spacing(plane: Tensor) -> float:
    """Return the smallest distance between two positions on one axis; 0 if there is only one."""
    values = plane[~plane.isnan()].unique()
    gaps = values.diff()
    gaps = gaps[gaps > _MIN_GAP]
    return float(gaps.amin()) if len(gaps) else 0.0


def fill_missing(planes: Planes, other: Planes) -> Planes:
    """Fill missing positions with those of another operand, as in a sum of padded parts."""
    if planes[0].shape != other[0].shape or not bool(without_copies(planes[0]).isnan().any()):
        return planes
    missing = planes[0].isnan() & ~other[0].isnan()
    if bool(missing.any()):
        return tuple(torch.where(missing, *pair) for pair in zip(other, planes, strict=True))
    return planes


def reshape_plane(plane: Tensor, shape: torch.Size) -> Tensor:
    """Reshape a plane without copying values that are equal in all channels."""
    if plane.stride(-1) == 0 and plane.ndim and plane.shape[-1] == shape[-1]:
        return plane[..., :1].reshape(*shape[:-1], 1).expand(shape)
    return plane.reshape(shape)


def mean_positions(planes: Planes, dims: Any, keepdim: bool) -> Planes:
    """Return the image number and the mean position over some axes."""
    shape = list(planes[0].shape)
    for axis in dims:
        shape[axis] = 1
    reduced = [
        (
            without_copies(plane).amax(dims, True)
            if number % 3 == 0
            else without_copies(plane).mean(dims, True)
        )
        for number, plane in enumerate(planes)
    ]
    reduced_axes = [axis % len(shape) for axis in dims]
    index = [
        slice(None) if keepdim or axis not in reduced_axes else 0 for axis in range(len(shape))
    ]
    return tuple(plane.expand(shape)[tuple(index)] for plane in reduced)


def select_tokens(planes: Sequence[Tensor], matrix: Tensor) -> Planes:
    """Return the positions of matrix (…, n, N) x tokens (…, N, D): (…, n, D).

    A matrix with at most N / 2 non-zero elements in every row selects or averages a few tokens;
    any other matrix mixes all tokens.
    """
    is_used = matrix != 0
    if bool((2 * is_used.sum(dim=-1) > matrix.shape[-1]).any()):
        return mean_positions(tuple(planes), [-2], True)
    weights = matrix.abs().to(torch.float32)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    image, down, across = (_weighted_mean(weights, plane) for plane in planes)
    return image.round(), down, across


def _weighted_mean(weights: Tensor, plane: Tensor) -> Tensor:
    """Return the weighted mean of positions; NaN if one with a positive weight is NaN."""
    unknown = (weights > 0).float() @ plane.isnan().float() > 0
    return torch.where(unknown, torch.nan, weights @ plane.nan_to_num(0.0))


def window_centers(
    image: Tensor, axis: int, count: int, kernel: int, stride: int, padding: int
) -> Tensor:
    """Return the positions of the `count` outputs of a sliding window along an axis.

    Windows without overlap are at their centers. Overlapping windows whose padding makes them cover
    the axis exactly once, `stride` elements each, are at the centers of those elements, so that
    positions do not depend on the padding, which differs between libraries.
    """
    steps = torch.arange(count, device=image.device, dtype=torch.float32) * stride
    if kernel > stride:
        for first, size in (_real_extent(image, axis), (0, image.shape[axis])):
            if abs(count * stride - size) < stride:
                return steps + first + (stride - 1) / 2
    return steps - padding + (kernel - 1) / 2


def _real_extent(image: Tensor, axis: int) -> tuple[int, int]:
    """Return the index of the first element along an axis that is not padding, and their number."""
    size = image.shape[axis]
    image = without_copies(image)
    if image.shape[axis] == 1:
        return 0, size
    other_axes = [other for other in range(image.ndim) if other != axis]
    real = (image >= 0).any(dim=other_axes) if other_axes else image >= 0
    numbers = real.nonzero().flatten()
    if not len(numbers):
        return 0, size
    return int(numbers[0]), int(numbers[-1] - numbers[0]) + 1


def sample_planes(planes: Planes, samples: list[Tensor], result: Tensor) -> Planes:
    """Sample planes (B, C, …) at indices along each of their last axes, equal in all channels."""
    sampled = []
    for number, plane in enumerate(planes):
        axes = range(plane.ndim - len(samples), plane.ndim)
        channel = plane.ndim - len(samples) - 1
        values = without_copies(plane)
        if number % 3 == 0 and not bool(values.isnan().any()):  # image numbers ignore padding
            values = values.amax(dim=(channel, *axes), keepdim=True)
        else:
            values = values.mean(dim=channel, keepdim=True)
            for axis, indices in zip(axes, samples, strict=True):
                indices = indices.round() if number % 3 == 0 else indices
                values = interpolate(values, axis, indices.float())
        sampled.append(values.expand(result.shape))
    return tuple(sampled)


def interpolate(plane: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Interpolate a plane linearly at fractional indices along an axis; extrapolate at the ends."""
    shape = list(plane.shape)
    shape[axis] = len(positions)
    plane = without_copies(plane)
    size = plane.shape[axis]
    if size == 1:
        return plane.expand(shape)
    positions = positions.to(plane.device)
    low = positions.floor().clamp(0, size - 2)
    part = positions - low
    part = part.reshape([-1 if dim == axis % plane.ndim else 1 for dim in range(plane.ndim)])
    first = plane.index_select(axis, low.long())
    second = plane.index_select(axis, low.long() + 1)
    between = first + part * (second - first)
    # A neighbor with weight 0 does not count, even if it has no position.
    between = torch.where(part == 0, first, torch.where(part == 1, second, between))
    return between.expand(shape)


def extrapolate(plane: Tensor, pad: list[int]) -> Tensor:
    """Extrapolate positions linearly beyond the border."""
    for axis in range(len(pad) // 2):
        before, after = pad[2 * axis : 2 * axis + 2]
        size = plane.shape[-1 - axis]
        positions = torch.arange(-before, size + after, device=plane.device).float()
        plane = interpolate(plane, -1 - axis, positions)
    return plane


@dataclass(frozen=True)
class Origin:
    """Record of what the values of a tensor were computed from.

    Parameters
    ----------
    image, random, argument : whether the values depend on the image, on the random generator, or
        on another tensor argument of the model
    order : what the positions of its elements depend on ("the image", "random numbers"); "" if
        they are fixed
    calls : numbers of the attention calls that the values depend on
    product : for a product that may be attention scores, a pair. First, where its factors come
        from: "image", "lost" (the image, with unknown positions) or "foreign" (not the image).
        Second, the modules that computed the product, outermost first
    picture : whether the elements are pixels of the image
    overlap : (vertical, horizontal), how far a patch extends beyond its cell of the grid, as
        fractions of the image's height and width
    """

    image: bool = False
    random: bool = False
    argument: bool = False
    order: str = ""
    calls: frozenset[int] = frozenset()
    product: tuple[str, tuple[Any, ...]] | None = None
    picture: bool = False
    overlap: tuple[float, float] = (0.0, 0.0)


NO_ORIGIN = Origin()


def merge_origins(first: Origin, second: Origin) -> Origin:
    """Return the dependencies of values that come from two tensors."""
    if first is NO_ORIGIN or first == second:
        return second
    return Origin(
        image=first.image or second.image,
        random=first.random or second.random,
        argument=first.argument or second.argument,
        order=first.order or second.order,
        calls=first.calls | second.calls,
        product=first.product or second.product,
        picture=first.picture and second.picture,
        overlap=max(first.overlap, second.overlap),
    )


class PositionStorage:
    """Positions of every element of one storage, for tensors that are written in parts."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # keeps the storage alive, and so its key valid
        self.count = tensor.untyped_storage().nbytes() // tensor.element_size()
        self.planes: list[Tensor] = []
        self.is_lost = False
        self.origin = NO_ORIGIN
        self.widen(3)

    def lose(self, origin: Origin) -> None:
        """Mark the positions of the elements as unknown."""
        self.is_lost = True
        self.origin = merge_origins(self.origin, origin)

    def widen(self, planes: int) -> None:
        """Extend to at least this number of planes; new planes are NaN."""
        while len(self.planes) < planes:
            missing = torch.full((self.count,), torch.nan, device=self.tensor.device)
            self.planes.append(missing)

    def view(self, number: int, tensor: Tensor) -> Tensor:
        """Return one plane in the shape and strides of `tensor`."""
        return self.planes[number].as_strided(
            tensor.shape, tensor.stride(), tensor.storage_offset()
        )

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor has elements of the same size (a complex view has not)."""
        return tensor.element_size() == self.tensor.element_size()

    def planes_of(self, tensor: Tensor) -> Planes:
        """Return the current positions of a tensor of this storage."""
        return tuple(self.view(number, tensor).clone() for number in range(len(self.planes)))

    def write(self, tensor: Tensor, planes: Planes) -> None:
        """Set the positions of one tensor of this storage."""
        self.widen(len(planes))
        for number, plane in enumerate(planes):
            self.view(number, tensor).copy_(plane.expand(tensor.shape))
