"""Position rules: image positions of the result of one PyTorch call, for the calls of a tracer.

A call that moves elements moves their positions; a call that mixes elements averages them; an
elementwise call keeps them. The rules do not depend on any model family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .position_planes import (
    Planes,
    are_at_different_positions,
    are_of_one_token,
    extrapolate,
    fill_missing,
    mean_positions,
    reshape_plane,
    sample_planes,
    select_tokens,
    varies_along,
    window_centers,
)

# Scores and attention have the planes of their queries followed by those of their keys.
_N_PAIR_PLANES = 6

_UNCHANGED = {
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
# Windows that slide over an image.
WINDOWS = {"convolution", "im2col"}
PRODUCTS = {"bmm", "baddbmm", "matmul"}
MULTIPLIED = {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm"}
# Writes of some elements into a copy of a tensor.
SCATTERED = {
    "slice_scatter", "select_scatter", "index_put", "index_copy", "scatter", "masked_scatter",
}  # fmt: skip
JOINED = {"cat", "stack", "concat", "concatenate"}


Lookup = Callable[[Any], "Planes | None"]
PositionRule = Callable[..., "list[Planes] | None"]


def tensors_in(args: Any) -> Iterator[Tensor]:
    """Yield all tensors in arguments, including those in lists."""
    for argument in args:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from tensors_in(argument)


@cache
def rule_of(func: Any) -> PositionRule | None:
    """Return the position rule of a call; None if it is unknown (the call may still decompose)."""
    name = func._schema.name.rpartition("::")[2]
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    for names, rule in _RULES:
        if name in names:
            return rule
    return _keep_positions if torch.Tag.pointwise in func.tags else None


def _view_as_complex(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, _result: Tensor
) -> list[Planes] | None:
    planes = of(args[0])
    return None if planes is None else [tuple(plane[..., 0] for plane in planes)]


def _view_as_real(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, result: Tensor
) -> list[Planes] | None:
    planes = of(args[0])
    return None if planes is None else [tuple(p[..., None].expand(result.shape) for p in planes)]


def _keep_positions(
    of: Lookup, func: Any, args: Any, _kwargs: Any, result: Tensor
) -> list[Planes] | None:
    """Elementwise call: use the positions of the largest operand that has positions.

    Sums of tokens at different positions have none.
    """
    operands = [(tensor, of(tensor)) for tensor in tensors_in(args)]
    placed = [(tensor, planes) for tensor, planes in operands if planes is not None]
    candidates = [planes for tensor, planes in placed if tensor.shape == result.shape]
    if not candidates and placed:
        candidates = [max(placed, key=lambda operand: operand[0].numel())[1]]
    pairs = [planes for planes in candidates if len(planes) == _N_PAIR_PLANES]
    if not candidates:
        return None
    first, *others = pairs or candidates
    if not pairs and others:
        name = func._schema.name.rpartition("::")[2].removesuffix("_")
        if name in _SUMS and are_at_different_positions(first, others[0]):
            return None
        first = fill_missing(first, others[0])
    return [tuple(plane.expand(result.shape) for plane in first)]


def _where(of: Lookup, func: Any, args: Any, kwargs: Any, result: Tensor) -> list[Planes] | None:
    """`torch.where`: select positions by the same condition."""
    first, second = map(of, args[1:3]) if len(args) > 2 else (None, None)
    if first is None or second is None or len(first) != len(second):
        return _keep_positions(of, func, args, kwargs, result)
    pairs = zip(first, second, strict=True)
    return [tuple(torch.where(args[0], *pair).expand(result.shape) for pair in pairs)]


def _reshape(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, result: Tensor
) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    return [tuple(reshape_plane(plane, result.shape) for plane in planes)]


def _move(of: Lookup, func: Any, args: Any, kwargs: Any, result: Any) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    moved = [func(p, *args[1:], **kwargs) for p in planes]
    return list(zip(*moved, strict=True)) if isinstance(moved[0], (list, tuple)) else [tuple(moved)]


def _copy(of: Lookup, _func: Any, args: Any, _kwargs: Any, result: Tensor) -> list[Planes] | None:
    return [tuple(p.expand(result.shape) for p in planes)] if (planes := of(args[1])) else None


def _join(of: Lookup, func: Any, args: Any, kwargs: Any, result: Tensor) -> list[Planes] | None:
    positions = [of(tensor) for tensor in args[0]]
    count = max(len(planes) for planes in positions if planes is not None)
    missing = torch.tensor(torch.nan, device=result.device)

    def plane_of(number: int, tensor: Tensor, planes: Planes | None) -> Tensor:
        return missing.expand(tensor.shape) if planes is None else planes[number % len(planes)]

    parts = list(zip(args[0], positions, strict=True))
    return [
        tuple(
            func([plane_of(number, *part) for part in parts], *args[1:], **kwargs)
            for number in range(count)
        )
    ]


def _scatter(of: Lookup, func: Any, args: Any, kwargs: Any, result: Tensor) -> list[Planes] | None:
    """Repeat the write on the planes; values that are not from the image have no position."""
    missing = torch.full((), torch.nan, device=result.device)
    source = next((n for n, value in enumerate(args[1:], 1) if is_float_tensor(value)), None)
    if source is None:
        return None
    planes = []
    for number in range(3):
        plane_args = list(args)
        for index in (0, source):
            positions = of(args[index])
            plane_args[index] = (
                missing.expand(args[index].shape).clone()
                if positions is None
                else positions[number]
            )
        planes.append(func(*plane_args, **kwargs))
    return [tuple(planes)]


def is_float_tensor(argument: Any) -> bool:
    """Return whether an argument is a tensor of values to write, not of indices."""
    return isinstance(argument, Tensor) and argument.is_floating_point()


def pad_features(
    of: Lookup, func: Any, args: Any, _kwargs: Any, _result: Tensor
) -> list[Planes] | None:
    """Pad features: image -1, at the positions that continue the grid."""
    planes = of(args[0])
    if planes is None:
        return None
    pad = args[1]
    if _pads_tokens(planes, pad):  # additional tokens before or after the patches, still zero
        return [tuple(func(plane, pad, torch.nan) for plane in planes)]
    return [
        tuple(
            func(plane, pad, -1.0) if number % 3 == 0 else extrapolate(plane, pad)
            for number, plane in enumerate(planes)
        )
    ]


def pad_image(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, _result: Tensor
) -> list[Planes] | None:
    """Pad an image: padding belongs to the image, at positions outside its borders."""
    planes = of(args[0])
    return None if planes is None else [tuple(extrapolate(plane, args[1]) for plane in planes)]


def _pads_tokens(planes: Planes, pad: list[int]) -> bool:
    """Return whether the padded axis is one of flattened patches, with several rows and columns."""
    for number in range(len(pad) // 2):
        axis = planes[0].ndim - 1 - number
        if (pad[2 * number] > 0 or pad[2 * number + 1] > 0) and all(
            varies_along([plane], axis) for plane in planes[1:3]
        ):
            return True
    return False


def _convolve(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, result: Tensor
) -> list[Planes] | None:
    inputs, weight, _, stride, padding, dilation, transposed = args[:7]
    planes = of(inputs)
    if planes is None or transposed:
        return None
    samples = [
        window_centers(
            planes[0], 2 + axis, result.shape[2 + axis],
            (weight.shape[2 + axis] - 1) * option_of_axis(dilation, axis) + 1,
            option_of_axis(stride, axis), option_of_axis(padding, axis),
        )
        for axis in range(inputs.ndim - 2)
    ]  # fmt: skip
    return [sample_planes(planes, samples, result)]


def _pool(of: Lookup, _func: Any, args: Any, _kwargs: Any, result: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    padding = args[3] if len(args) > 3 else 0
    first = result.ndim - len(kernel)
    samples = [
        window_centers(
            planes[0], first + axis, result.shape[first + axis],
            kernel[axis], option_of_axis(stride, axis), option_of_axis(padding, axis),
        )
        for axis in range(len(kernel))
    ]  # fmt: skip
    return [sample_planes(planes, samples, result)]


def _resize(of: Lookup, func: Any, args: Any, kwargs: Any, result: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    names = [argument.name for argument in func._schema.arguments]
    options = dict(zip(names, args, strict=False)) | kwargs
    samples = []
    for axis in (-2, -1):
        size, count = args[0].shape[axis], result.shape[axis]
        steps = torch.arange(count, device=result.device, dtype=torch.float32)
        if options.get("align_corners"):
            samples.append(steps * (size - 1) / max(count - 1, 1))
            continue
        factors = options.get("scale_factors")
        scale = options.get("scales_h" if axis == -2 else "scales_w")
        if factors:
            scale = factors[axis]
        samples.append((steps + 0.5) * (1 / scale if scale else size / count) - 0.5)
    return [sample_planes(planes, samples, result)]


def _reduce(of: Lookup, func: Any, args: Any, kwargs: Any, result: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    names = [argument.name for argument in func._schema.arguments]
    if planes is None or "dim" not in names:
        return None
    dims = args[names.index("dim")] if len(args) > names.index("dim") else kwargs.get("dim")
    if dims is None:
        return None
    keepdim = result.ndim == args[0].ndim
    return [mean_positions(planes, dims if isinstance(dims, (list, tuple)) else [dims], keepdim)]


def _multiply(
    of: Lookup, func: Any, args: Any, _kwargs: Any, result: Tensor
) -> list[Planes] | None:
    name = func._schema.name.rpartition("::")[2]
    first, second = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
    left, right = of(first), of(second)
    if first.ndim == 1 or second.ndim == 1:
        planes = _reduce_by_vector(left, right, second.ndim == 1)
    else:
        axis = -1 if name == "linear" else -2
        if left is not None and right is None and len(left) == 3 and varies_along(left[1:], -1):
            matrix = second if name == "linear" else second.mT
            planes = select_tokens([plane.mT for plane in left], matrix)
            planes = tuple(plane.mT for plane in planes)
        elif (
            right is not None and left is None and len(right) == 3 and varies_along(right[1:], axis)
        ):
            tokens = right if axis == -2 else tuple(plane.mT for plane in right)
            planes = select_tokens(tokens, first)
        else:
            is_one_token = left is not None and right is not None and are_of_one_token(left, right)
            left = left and mean_positions(left, [-1], True)
            right = right and mean_positions(right, [axis], True)
            planes = left if is_one_token else _pair(left, right, name in PRODUCTS)
    return None if planes is None else [tuple(plane.expand(result.shape) for plane in planes)]


def _reduce_by_vector(left: Planes | None, right: Planes | None, is_right: bool) -> Planes | None:
    """Reduce one axis by a product with a vector of weights on the left or right."""
    planes, vector, axis = (left, right, -1) if is_right else (right, left, -2)
    return None if planes is None or vector is not None else mean_positions(planes, [axis], False)


def _pair(left: Planes | None, right: Planes | None, is_batched: bool) -> Planes | None:
    """Return the positions of a product of rows and columns that both have positions."""
    if left is None or right is None:
        if right is None or not is_batched or len(right) != 3:
            return left or right
        missing = torch.full((1,) * right[0].ndim, torch.nan, device=right[0].device)
        return (missing, missing, missing, *right)  # learned queries, and keys
    if len(left) == _N_PAIR_PLANES:  # attention times values: the position of the query
        return left[:3]
    if len(right) == _N_PAIR_PLANES:
        return right[:3]
    return left + right


def option_of_axis(value: Any, axis: int) -> int:
    """Return the value for one axis of an option that may be a single number."""
    if isinstance(value, (list, tuple)):
        return value[axis] if len(value) > 1 else value[0]
    return value


_RULES: tuple[tuple[set[str], PositionRule], ...] = (
    (_UNCHANGED, _keep_positions),
    (_RESHAPED, _reshape),
    (_MOVED, _move),
    (REDUCED, _reduce),
    (_POOLED, _pool),
    (_RESIZED, _resize),
    (MULTIPLIED, _multiply),
    (SCATTERED, _scatter),
    (JOINED, _join),
    ({"where"}, _where),
    ({"constant_pad_nd"}, pad_features),
    ({"convolution"}, _convolve),
    ({"copy"}, _copy),
    ({"view_as_complex"}, _view_as_complex),
    ({"view_as_real"}, _view_as_real),
)
