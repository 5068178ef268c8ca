"""Where in the image each token of a model comes from, followed through the model itself.

Windows, shifts, strided grids, mask units, pooled keys: what a model does with its tokens before it
attends is rearrangement, and every rearrangement is a call of PyTorch. One forward pass is run on
the inputs, and beside every tensor its *places* go along: which image, and how far down and across.
What moves elements moves their places; what mixes elements has the mean of their places; what works
on each element leaves them. No model family is known here, and none has to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .owner import depth

# Of one tensor, each of its shape: the image's number, and the fractions of height and width of the
# image. NaN is no place in the image (a class token); image -1 is padding.
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
_REDUCED = {"mean", "sum", "amax", "amin", "max", "min", "logsumexp", "linalg_vector_norm", "norm"}
_POOLED = {"max_pool2d_with_indices", "avg_pool2d", "max_pool1d", "avg_pool1d", "max_pool2d"}
_RESIZED = {
    "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d",
}  # fmt: skip
_MULTIPLIED = {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm"}


class Trace(TorchDispatchMode):
    """Follow the places of everything that is computed from `inputs` while the mode is on.

    Must be entered below autograd, where a tensor stays the same object from the call that makes
    it to the call that takes it. (It would under `torch.inference_mode`, too; but what a model
    caches there could never be differentiated again.)
    """

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self._known = WeakTensorKeyDictionary()
        self._level = depth()
        batch, _, height, width = inputs.shape
        image = torch.arange(batch, dtype=torch.float32, device=inputs.device)
        down = (torch.arange(height, device=inputs.device) + 0.5) / height
        across = (torch.arange(width, device=inputs.device) + 0.5) / width
        self.put(
            inputs,
            tuple(
                one.expand(inputs.shape)
                for one in (image[:, None, None, None], down[:, None], across)
            ),
        )

    def of(self, tensor: Any) -> Planes | None:
        """The planes of a tensor; None where it does not come from the image."""
        return self._known.get(tensor) if isinstance(tensor, Tensor) else None

    def put(self, tensor: Tensor, planes: Planes) -> None:
        """Say where the elements of `tensor` are."""
        self._known[tensor] = planes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self._level:
            return func(*args, **kwargs)
        name = func._schema.name.rpartition("::")[2]
        rule = _rule(func, name)
        if rule is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if rule is not None and any(self.of(one) is not None for one in _tensors(args)):
            made = result[0] if isinstance(result, tuple) else result
            places = rule(self.of, func, args, kwargs, made)
            if places is not None:
                several = made if isinstance(made, list) else [made]
                for tensor, planes in zip(several, places, strict=True):
                    self.put(tensor, planes)
        return result


Lookup = Callable[[Any], "Planes | None"]


def _tensors(args: Any) -> Iterator[Tensor]:
    for one in args:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _tensors(one)


def _rule(func: Any, name: str) -> Callable[..., list[Planes] | None] | None:
    """What becomes of places in a call; None for what is not known (yet: it may decompose)."""
    rules: dict[str, Callable[..., list[Planes] | None]] = {
        "cat": _joined,
        "stack": _joined,
        "concat": _joined,
        "concatenate": _joined,
        "constant_pad_nd": _padded,
        "convolution": _convolved,
        "copy_": _copied,
        "view_as_complex": lambda of, _f, args, _k, _m: [tuple(p[..., 0] for p in of(args[0]))],
        "scaled_dot_product_attention": _attended,
    }
    for names, rule in (
        (_AS_IT_IS, _kept),
        (_RESHAPED, _reshaped),
        (_MOVED, _moved),
        (_REDUCED, _reduced),
        (_POOLED, _pooled),
        (_RESIZED, _resized),
        (_MULTIPLIED, _multiplied),
    ):
        if name in names:
            return rule
    if name in rules:
        return rules[name]
    return _kept if torch.Tag.pointwise in func.tags else None


def _kept(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    """Element by element: the places of the largest operand that has any."""
    known = [(one, of(one)) for one in _tensors(args)]
    placed = [(one, planes) for one, planes in known if planes is not None]
    whole = [planes for one, planes in placed if one.shape == made.shape]
    if not whole and placed:
        whole = [max(placed, key=lambda one: one[0].numel())[1]]
    pairs = [planes for planes in whole if len(planes) == _PAIR]
    return [tuple(p.expand(made.shape) for p in (pairs or whole)[0])] if whole else None


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


def _padded(of: Lookup, func: Any, args: Any, _kwargs: Any, _made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    pad = args[1]
    return [
        tuple(
            func(plane, pad, -1.0) if number % 3 == 0 else _continued(plane, pad)
            for number, plane in enumerate(planes)
        )
    ]


def _continued(plane: Tensor, pad: list[int]) -> Tensor:
    """The places go on beyond the border as they went before it."""
    for axis in range(len(pad) // 2):
        before, after = pad[2 * axis : 2 * axis + 2]
        size = plane.shape[-1 - axis]
        plane = _at(
            plane, -1 - axis, torch.arange(-before, size + after, device=plane.device).float()
        )
    return plane


def _convolved(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor
) -> list[Planes] | None:
    inputs, weight, _, stride, padding, dilation, transposed = args[:7]
    planes = of(inputs)
    if planes is None or transposed:
        return None
    axes = inputs.ndim - 2
    kernel = weight.shape[2:]
    where = [
        torch.arange(made.shape[2 + axis], device=made.device) * _each(stride, axis)
        - _each(padding, axis)
        + _each(dilation, axis) * (kernel[axis] - 1) / 2
        for axis in range(axes)
    ]
    return [_sampled(planes, where, made)]


def _pooled(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    padding = args[3] if len(args) > 3 else 0
    where = [
        torch.arange(made.shape[axis - len(kernel)], device=made.device) * _each(stride, axis)
        - _each(padding, axis)
        + (kernel[axis] - 1) / 2
        for axis in range(len(kernel))
    ]
    return [_sampled(planes, where, made)]


def _resized(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    given, wanted = args[0].shape[-2:], made.shape[-2:]
    where = [
        (torch.arange(m, device=made.device) + 0.5) * n / m - 0.5
        for n, m in zip(given, wanted, strict=True)
    ]
    return [_sampled(planes, where, made)]


def _sampled(planes: Planes, where: list[Tensor], made: Tensor) -> Planes:
    """Planes (B, C, …) at positions along each of their last axes, the same in every channel."""
    sampled = []
    for number, plane in enumerate(planes):
        axes = range(plane.ndim - len(where), plane.ndim)
        channel = plane.ndim - len(where) - 1
        if number % 3 == 0:  # the image: padding stays out of it
            one = _once(plane).amax(dim=(channel, *axes), keepdim=True)
        else:
            one = _once(plane).mean(dim=channel, keepdim=True)
            for axis, positions in zip(axes, where, strict=True):
                one = _at(one, axis, positions.float())
        sampled.append(one.expand(made.shape))
    return tuple(sampled)


def _once(plane: Tensor) -> Tensor:
    """The plane without its copies: axes along which it is the same by construction are 1 long."""
    return plane[tuple(slice(0, 1) if step == 0 else slice(None) for step in plane.stride())]


def _at(plane: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The plane at fractional positions along an axis: linear between, and beyond the ends."""
    shape = list(plane.shape)
    shape[axis] = len(positions)
    plane = _once(plane)
    size = plane.shape[axis]
    if size == 1:
        return plane.expand(shape)
    positions = positions.to(plane.device)
    low = positions.floor().clamp(0, size - 2)
    part = positions - low
    part = part.reshape([-1 if one == axis % plane.ndim else 1 for one in range(plane.ndim)])
    first = plane.index_select(axis, low.long())
    second = plane.index_select(axis, low.long() + 1)
    return (first + part * (second - first)).expand(shape)


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
        (_once(plane).amax(dims, True) if number % 3 == 0 else _once(plane).mean(dims, True))
        for number, plane in enumerate(planes)
    ]
    away = [axis % len(shape) for axis in dims]
    kept = [slice(None) if keep or axis not in away else 0 for axis in range(len(shape))]
    return tuple(plane.expand(shape)[tuple(kept)] for plane in reduced)


def _multiplied(
    of: Lookup, func: Any, args: Any, _kwargs: Any, made: Tensor
) -> list[Planes] | None:
    first, second = args[1:3] if func._schema.name.endswith("addmm") else args[:2]
    left, right = of(first), of(second)
    if first.ndim == 1 or second.ndim == 1:
        return None
    if left is not None:
        left = mixed(left, [-1], True)
    if right is not None:
        right = mixed(right, [-2 if not func._schema.name.endswith("linear") else -1], True)
    if left is not None and right is not None:
        if len(left) == _PAIR:  # attention times values: where the query is
            chosen = left[:3]
        elif len(right) == _PAIR:
            chosen = right[:3]
        else:
            chosen = left + right
    else:
        chosen = left if left is not None else right if right is not None else ()
    return [tuple(plane.expand(made.shape) for plane in chosen)] if chosen else None


def _attended(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    """A fused call outside of any site: where the query is."""
    planes = of(args[0])
    if planes is None:
        return None
    return [tuple(p.expand(made.shape) for p in mixed(planes[:3], [-1], True))]


def _each(value: Any, axis: int) -> int:
    if isinstance(value, (list, tuple)):
        return value[axis] if len(value) > 1 else value[0]
    return value
