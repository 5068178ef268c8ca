"""Rules for the places of elements in one call of PyTorch, for every call that `trace` knows.

A call that moves elements moves their places; one that mixes elements has the mean of their places;
one that works on each element leaves them. No model family is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Of one tensor, each of its shape: the image's number, and the fractions of height and width of the
# image. Image -1 is padding. Image NaN is no place in the image (a class token); "down" is then a
# negative number by which the token is known in other layers, or NaN.
Planes = tuple[Tensor, ...]

# Of scores or attention: the planes of the queries and those of the keys, one after the other.
_PAIR = 6

_AS_IT_IS = {
    "alias", "clone", "contiguous", "detach", "lift_fresh", "_to_copy", "to", "type_as",
    "native_layer_norm", "layer_norm", "native_batch_norm", "batch_norm", "cudnn_batch_norm",
    "_native_batch_norm_legit_no_training", "native_group_norm", "group_norm", "instance_norm",
    "rms_norm", "_fused_rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax",
    "_safe_softmax", "hardswish", "hardsigmoid", "hardtanh", "relu6", "silu", "mish", "dropout",
    "native_dropout", "feature_dropout", "alpha_dropout", "bernoulli",
}  # fmt: skip
_RESHAPED = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_MOVED = {
    "permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T",
    "adjoint", "mT", "roll", "flip", "rot90", "slice", "select", "narrow", "unbind", "split",
    "split_with_sizes", "chunk", "tensor_split", "expand", "expand_as", "broadcast_to", "repeat",
    "tile", "repeat_interleave", "unsqueeze", "squeeze", "flatten", "unflatten", "unfold", "index",
    "index_select", "gather", "take_along_dim", "im2col", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "reflection_pad2d", "replication_pad2d", "reflection_pad1d",
    "replication_pad1d",
}  # fmt: skip
REDUCED = {"mean", "sum", "amax", "amin", "max", "min", "logsumexp", "linalg_vector_norm", "norm"}
_POOLED = {"max_pool2d_with_indices", "avg_pool2d", "max_pool1d", "avg_pool1d", "max_pool2d"}
_RESIZED = {
    "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d",
}  # fmt: skip
_SUMS = {"add", "sub", "rsub", "lerp"}
_APART = 0.015  # of the image's side: places of tokens that are not the same
# Windows that slide over a picture.
WINDOWS = {"convolution", "im2col"}
PRODUCTS = {"bmm", "baddbmm", "matmul"}
MULTIPLIED = {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm"}
# Writes of some elements into a copy of a tensor.
SCATTERED = {
    "slice_scatter", "select_scatter", "index_put", "index_copy", "scatter", "masked_scatter",
}  # fmt: skip
JOINED = {"cat", "stack", "concat", "concatenate"}


Lookup = Callable[[Any], "Planes | None"]
Rule = Callable[..., "list[Planes] | None"]


def tensors_in(args: Any) -> Iterator[Tensor]:
    """All tensors in arguments, also those in lists."""
    for one in args:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from tensors_in(one)


@cache
def rule_of(func: Any) -> Rule | None:
    """The rule for the places in a call; None for what is not known (yet: it may decompose)."""
    name = func._schema.name.rpartition("::")[2]
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    for names, rule in _RULES:
        if name in names:
            return rule
    return _kept if torch.Tag.pointwise in func.tags else None


def _complex(of: Lookup, _func: Any, args: Any, _kwargs: Any, _made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    return None if planes is None else [tuple(plane[..., 0] for plane in planes)]


def _real(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    return None if planes is None else [tuple(p[..., None].expand(made.shape) for p in planes)]


def _kept(of: Lookup, func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    """Element by element: the places of the largest operand that has any.

    Sums of tokens at different places have none.
    """
    known = [(one, of(one)) for one in tensors_in(args)]
    placed = [(one, planes) for one, planes in known if planes is not None]
    whole = [planes for one, planes in placed if one.shape == made.shape]
    if not whole and placed:
        whole = [max(placed, key=lambda one: one[0].numel())[1]]
    pairs = [planes for planes in whole if len(planes) == _PAIR]
    if not whole:
        return None
    chosen, *others = pairs or whole
    if not pairs and others:
        name = func._schema.name.rpartition("::")[2].removesuffix("_")
        if name in _SUMS and _are_apart(chosen, others[0]):
            return None
        chosen = _filled(chosen, others[0])
    return [tuple(plane.expand(made.shape) for plane in chosen)]


def _are_apart(first: Planes, second: Planes) -> bool:
    """Return whether two tensors hold tokens of different places, and neither holds one summary."""
    first, second = (tuple(map(once, planes)) for planes in (first, second))
    if not (_has_several_places(first) and _has_several_places(second)):
        return False
    real = (first[0] >= 0) & (second[0] >= 0)
    far = (first[0] != second[0]) | ((first[1] - second[1]).abs() > _APART)
    return bool((real & (far | ((first[2] - second[2]).abs() > _APART))).any())


def _has_several_places(planes: Planes) -> bool:
    real = planes[0] >= 0
    least = [torch.where(real, plane, torch.inf).amin() for plane in planes[1:3]]
    most = [torch.where(real, plane, -torch.inf).amax() for plane in planes[1:3]]
    return any(bool(high - low > _APART) for low, high in zip(least, most, strict=True))


def _of_choice(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    """`torch.where`: the places of what is chosen."""
    first, second = (of(one) for one in args[1:3]) if len(args) > 2 else (None, None)
    if first is None or second is None or len(first) != len(second):
        return _kept(of, func, args, kwargs, made)
    pairs = zip(first, second, strict=True)
    return [tuple(torch.where(args[0], *pair).expand(made.shape) for pair in pairs)]


def agree(first: Planes, second: Planes) -> bool:
    """Return whether places that broadcast to each other are equal."""
    return len(first) == len(second) and all(
        bool(((one - other).abs() < 1e-6).all())
        for one, other in zip(
            (plane.nan_to_num(-9.0) for plane in first),
            (plane.nan_to_num(-9.0) for plane in second),
            strict=True,
        )
    )


def _filled(planes: Planes, other: Planes) -> Planes:
    """The planes, and those of another operand where they are nowhere: padded parts are added."""
    if planes[0].shape != other[0].shape or not bool(once(planes[0]).isnan().any()):
        return planes
    empty = planes[0].isnan() & ~other[0].isnan()
    if bool(empty.any()):
        return tuple(torch.where(empty, *pair) for pair in zip(other, planes, strict=True))
    return planes


def _reshaped(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    return [tuple(_as_shape(plane, made.shape) for plane in planes)]


def _as_shape(plane: Tensor, shape: torch.Size) -> Tensor:
    """Reshaped; what is the same in all channels is not copied for each of them."""
    if plane.stride(-1) == 0 and plane.ndim and plane.shape[-1] == shape[-1]:
        return plane[..., :1].reshape(*shape[:-1], 1).expand(shape)
    return plane.reshape(shape)


def _moved(of: Lookup, func: Any, args: Any, kwargs: Any, made: Any) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    moved = [func(p, *args[1:], **kwargs) for p in planes]
    return list(zip(*moved, strict=True)) if isinstance(moved[0], (list, tuple)) else [tuple(moved)]


def _copied(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    return [tuple(p.expand(made.shape) for p in planes)] if (planes := of(args[1])) else None


def _joined(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    parts = [of(one) for one in args[0]]
    count = max(len(one) for one in parts if one is not None)
    nowhere = torch.tensor(torch.nan, device=made.device)

    def part(number: int, one: Tensor, planes: Planes | None) -> Tensor:
        return nowhere.expand(one.shape) if planes is None else planes[number % len(planes)]

    pieces = list(zip(args[0], parts, strict=True))
    return [
        tuple(
            func([part(number, *piece) for piece in pieces], *args[1:], **kwargs)
            for number in range(count)
        )
    ]


def _scattered(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    """Repeat the write on the planes; what is not from the image is nowhere."""
    nowhere = torch.full((), torch.nan, device=made.device)
    source = next((n for n, one in enumerate(args[1:], 1) if is_values(one)), None)
    if source is None:
        return None
    planes = []
    for number in range(3):
        parts = list(args)
        for place in (0, source):
            known = of(args[place])
            parts[place] = (
                nowhere.expand(args[place].shape).clone() if known is None else known[number]
            )
        planes.append(func(*parts, **kwargs))
    return [tuple(planes)]


def is_values(argument: Any) -> bool:
    """Return whether an argument holds numbers that are written, and not indices."""
    return isinstance(argument, Tensor) and argument.is_floating_point()


def padded(of: Lookup, func: Any, args: Any, _kwargs: Any, _made: Tensor) -> list[Planes] | None:
    """Padding of features: image -1, at the places that the grid continues to."""
    planes = of(args[0])
    if planes is None:
        return None
    pad = args[1]
    if _pads_tokens(planes, pad):  # tokens put before or behind the patches, still zero
        return [tuple(func(plane, pad, torch.nan) for plane in planes)]
    return [
        tuple(
            func(plane, pad, -1.0) if number % 3 == 0 else _continued(plane, pad)
            for number, plane in enumerate(planes)
        )
    ]


def picture_padded(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, _made: Tensor
) -> list[Planes] | None:
    """Patches of a picture's padding are patches all the same, beside the picture."""
    planes = of(args[0])
    return None if planes is None else [tuple(_continued(plane, args[1]) for plane in planes)]


def _pads_tokens(planes: Planes, pad: list[int]) -> bool:
    """Return whether an axis of flattened patches is padded: places vary along it both ways."""
    for number in range(len(pad) // 2):
        axis = planes[0].ndim - 1 - number
        if (pad[2 * number] > 0 or pad[2 * number + 1] > 0) and all(
            _varies(plane, axis) for plane in planes[1:3]
        ):
            return True
    return False


def _varies(plane: Tensor, axis: int) -> bool:
    plane = once(plane).nan_to_num(-9.0)
    first = plane.narrow(axis, 0, 1)
    return plane.shape[axis] > 1 and bool(((plane - first).abs() > 1e-6).any())


def _continued(plane: Tensor, pad: list[int]) -> Tensor:
    """The places go on beyond the border as they went before it."""
    for axis in range(len(pad) // 2):
        before, after = pad[2 * axis : 2 * axis + 2]
        size = plane.shape[-1 - axis]
        positions = torch.arange(-before, size + after, device=plane.device).float()
        plane = _at(plane, -1 - axis, positions)
    return plane


def _convolved(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor
) -> list[Planes] | None:
    inputs, weight, _, stride, padding, dilation, transposed = args[:7]
    planes = of(inputs)
    if planes is None or transposed:
        return None
    where = [
        _centres(
            planes[0], 2 + axis, made.shape[2 + axis],
            (weight.shape[2 + axis] - 1) * each_axis(dilation, axis) + 1,
            each_axis(stride, axis), each_axis(padding, axis),
        )
        for axis in range(inputs.ndim - 2)
    ]  # fmt: skip
    return [_sampled(planes, where, made)]


def _pooled(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    padding = args[3] if len(args) > 3 else 0
    first = made.ndim - len(kernel)
    where = [
        _centres(
            planes[0], first + axis, made.shape[first + axis],
            kernel[axis], each_axis(stride, axis), each_axis(padding, axis),
        )
        for axis in range(len(kernel))
    ]  # fmt: skip
    return [_sampled(planes, where, made)]


def _centres(
    image: Tensor, axis: int, count: int, kernel: int, stride: int, padding: int
) -> Tensor:
    """Return the positions of the `count` outputs of a sliding window along an axis.

    Windows that do not overlap: at their centres. Windows that overlap and are padded so that they
    cover the axis once, `stride` elements each: at the centres of those elements, so that the
    padding, which differs from library to library, moves nothing.
    """
    steps = torch.arange(count, device=image.device, dtype=torch.float32) * stride
    if kernel > stride:
        for first, size in (_real_extent(image, axis), (0, image.shape[axis])):
            if abs(count * stride - size) < stride:
                return steps + first + (stride - 1) / 2
    return steps - padding + (kernel - 1) / 2


def _real_extent(image: Tensor, axis: int) -> tuple[int, int]:
    """Return the first element along an axis that is no padding, and how many there are."""
    size = image.shape[axis]
    image = once(image)
    if image.shape[axis] == 1:
        return 0, size
    others = [one for one in range(image.ndim) if one != axis]
    real = (image >= 0).any(dim=others) if others else image >= 0
    numbers = real.nonzero().flatten()
    if not len(numbers):
        return 0, size
    return int(numbers[0]), int(numbers[-1] - numbers[0]) + 1


def _resized(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    names = [argument.name for argument in func._schema.arguments]
    known = dict(zip(names, args, strict=False)) | kwargs
    where = []
    for axis in (-2, -1):
        size, count = args[0].shape[axis], made.shape[axis]
        steps = torch.arange(count, device=made.device, dtype=torch.float32)
        if known.get("align_corners"):
            where.append(steps * (size - 1) / max(count - 1, 1))
            continue
        factors = known.get("scale_factors")
        scale = known.get("scales_h" if axis == -2 else "scales_w")
        if factors:
            scale = factors[axis]
        where.append((steps + 0.5) * (1 / scale if scale else size / count) - 0.5)
    return [_sampled(planes, where, made)]


def _sampled(planes: Planes, where: list[Tensor], made: Tensor) -> Planes:
    """Planes (B, C, …) at positions along each of their last axes, the same in every channel."""
    sampled = []
    for number, plane in enumerate(planes):
        axes = range(plane.ndim - len(where), plane.ndim)
        channel = plane.ndim - len(where) - 1
        one = once(plane)
        if number % 3 == 0 and not bool(one.isnan().any()):  # the image: padding stays out of it
            one = one.amax(dim=(channel, *axes), keepdim=True)
        else:
            one = one.mean(dim=channel, keepdim=True)
            for axis, positions in zip(axes, where, strict=True):
                positions = positions.round() if number % 3 == 0 else positions
                one = _at(one, axis, positions.float())
        sampled.append(one.expand(made.shape))
    return tuple(sampled)


def once(plane: Tensor) -> Tensor:
    """The plane without its copies: axes along which it is the same by construction are 1 long."""
    return plane[tuple(slice(0, 1) if step == 0 else slice(None) for step in plane.stride())]


def _at(plane: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The plane at fractional positions along an axis: linear between, and beyond the ends."""
    shape = list(plane.shape)
    shape[axis] = len(positions)
    plane = once(plane)
    size = plane.shape[axis]
    if size == 1:
        return plane.expand(shape)
    positions = positions.to(plane.device)
    low = positions.floor().clamp(0, size - 2)
    part = positions - low
    part = part.reshape([-1 if one == axis % plane.ndim else 1 for one in range(plane.ndim)])
    first = plane.index_select(axis, low.long())
    second = plane.index_select(axis, low.long() + 1)
    between = first + part * (second - first)
    # A neighbour that is nowhere does not count.
    between = torch.where(part == 0, first, torch.where(part == 1, second, between))
    return between.expand(shape)


def _reduced(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    names = [argument.name for argument in func._schema.arguments]
    if planes is None or "dim" not in names:
        return None
    dims = args[names.index("dim")] if len(args) > names.index("dim") else kwargs.get("dim")
    if dims is None:
        return None
    keep = made.ndim == args[0].ndim
    return [mixed(planes, dims if isinstance(dims, (list, tuple)) else [dims], keep)]


def mixed(planes: Planes, dims: Any, keep: bool) -> Planes:
    """The image that elements are of, and the mean of their places."""
    shape = list(planes[0].shape)
    for axis in dims:
        shape[axis] = 1
    reduced = [
        (once(plane).amax(dims, True) if number % 3 == 0 else once(plane).mean(dims, True))
        for number, plane in enumerate(planes)
    ]
    away = [axis % len(shape) for axis in dims]
    kept = [slice(None) if keep or axis not in away else 0 for axis in range(len(shape))]
    return tuple(plane.expand(shape)[tuple(kept)] for plane in reduced)


def _multiplied(
    of: Lookup, func: Any, args: Any, _kwargs: Any, made: Tensor
) -> list[Planes] | None:
    name = func._schema.name.rpartition("::")[2]
    first, second = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
    left, right = of(first), of(second)
    if first.ndim == 1 or second.ndim == 1:
        chosen = _times_vector(left, right, second.ndim == 1)
    else:
        axis = -1 if name == "linear" else -2
        if left is not None and right is None and _varies_along(left, -1):
            matrix = second if name == "linear" else second.mT
            chosen = _picked([plane.mT for plane in left], matrix)
            chosen = tuple(plane.mT for plane in chosen)
        elif right is not None and left is None and _varies_along(right, axis):
            turned = right if axis == -2 else tuple(plane.mT for plane in right)
            chosen = _picked(turned, first)
        else:
            within = left is not None and right is not None and _in_one_token(left, right)
            left = left and mixed(left, [-1], True)
            right = right and mixed(right, [axis], True)
            chosen = left if within else _product(left, right, name in PRODUCTS)
    return None if chosen is None else [tuple(plane.expand(made.shape) for plane in chosen)]


def _varies_along(planes: Planes, axis: int) -> bool:
    return len(planes) == 3 and any(_varies(plane, axis % plane.ndim) for plane in planes[1:])


def _picked(planes: Sequence[Tensor], matrix: Tensor) -> Planes:
    """The places in matrix (…, n, N) x tokens (…, N, D): (…, n, D).

    A matrix that takes at most half of the tokens in each row picks tokens or averages a few;
    another one mixes all.
    """
    taken = matrix != 0
    if bool((2 * taken.sum(dim=-1) > matrix.shape[-1]).any()):
        return mixed(tuple(planes), [-2], True)
    weights = matrix.abs().to(torch.float32)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    image, down, across = (_weighted(weights, plane) for plane in planes)
    return image.round(), down, across


def _weighted(weights: Tensor, plane: Tensor) -> Tensor:
    """The weighted mean of places; NaN where one that counts is NaN."""
    unknown = (weights > 0).float() @ plane.isnan().float() > 0
    return torch.where(unknown, torch.nan, weights @ plane.nan_to_num(0.0))


def _times_vector(left: Planes | None, right: Planes | None, behind: bool) -> Planes | None:
    """A vector of weights, behind a matrix or before it, takes one axis away."""
    planes, vector, axis = (left, right, -1) if behind else (right, left, -2)
    return None if planes is None or vector is not None else mixed(planes, [axis], False)


def _product(left: Planes | None, right: Planes | None, of_batches: bool) -> Planes | None:
    """The places in a product of rows with places and columns with places."""
    if left is None or right is None:
        if right is None or not of_batches or len(right) != 3:
            return left or right
        nowhere = torch.full((1,) * right[0].ndim, torch.nan, device=right[0].device)
        return (nowhere, nowhere, nowhere, *right)  # learned queries, and keys
    if len(left) == _PAIR:  # attention times values: where the query is
        return left[:3]
    if len(right) == _PAIR:
        return right[:3]
    return left + right


def _in_one_token(left: Planes, right: Planes) -> bool:
    """Return whether two matrices hold parts of the same token, so that no two tokens meet."""
    if len(left) != 3 or len(right) != 3 or left[0].shape[-2] * right[0].shape[-1] == 1:
        return False
    places = [plane.nan_to_num(-9.0) for plane in (*left, *right)]
    first = [plane[..., :1, :1] for plane in places]
    return all(
        bool(((plane - one).abs() < 1e-6).all()) for plane, one in zip(places, first, strict=True)
    ) and all(
        bool(((one - other).abs() < 1e-6).all())
        for one, other in zip(first[:3], first[3:], strict=True)
    )


def each_axis(value: Any, axis: int) -> int:
    """The number for one axis of an option that may be a single number."""
    if isinstance(value, (list, tuple)):
        return value[axis] if len(value) > 1 else value[0]
    return value


_RULES: tuple[tuple[set[str], Rule], ...] = (
    (_AS_IT_IS, _kept),
    (_RESHAPED, _reshaped),
    (_MOVED, _moved),
    (REDUCED, _reduced),
    (_POOLED, _pooled),
    (_RESIZED, _resized),
    (MULTIPLIED, _multiplied),
    (SCATTERED, _scattered),
    (JOINED, _joined),
    ({"where"}, _of_choice),
    ({"constant_pad_nd"}, padded),
    ({"convolution"}, _convolved),
    ({"copy"}, _copied),
    ({"view_as_complex"}, _complex),
    ({"view_as_real"}, _real),
)
