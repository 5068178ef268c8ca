"""Calls of a model: their arguments, the device and dtype of the images, snapshots of attributes.

The arguments of a call and the attributes of the model are the cache key of its token layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ShapeError, UnsupportedModelError


@dataclass(frozen=True)
class ModelCall:
    """Arguments of one call of a model; `where` is the position or keyword of the images."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    where: int | str

    @classmethod
    def of(cls, inputs: Tensor, additional_forward_args: Any = None) -> ModelCall:
        """Return the call on `inputs` and additional arguments: a tuple, a single one or None."""
        return cls((inputs, *as_arguments(additional_forward_args)), {}, 0)

    @property
    def images(self) -> Tensor:
        """Images (B, C, H, W)."""
        images = self.args[self.where] if isinstance(self.where, int) else self.kwargs[self.where]
        assert isinstance(images, Tensor)
        return images

    @property
    def has_only_images(self) -> bool:
        """Return whether the images are the only tensor, so that a smaller batch is possible."""
        arguments = (*self.args, *self.kwargs.values())
        return sum(isinstance(argument, Tensor) for argument in arguments) == 1

    @property
    def key(self) -> tuple[Any, ...]:
        """Cache key of the token layout: shapes, devices, dtype and the other arguments."""
        others = [
            (tuple(item.shape), str(item.device)) if isinstance(item, Tensor) else repr(item)
            for item in (*self.args, *self.kwargs, *self.kwargs.values())
            if item is not self.images
        ]
        images = self.images
        batch = min(len(images), 2) if self.has_only_images else len(images)
        return (images.shape[1:], batch, images.device, images.dtype, *others)

    def with_images(self, images: Tensor) -> ModelCall:
        """Return the same call with other images."""
        if isinstance(self.where, str):
            return ModelCall(self.args, self.kwargs | {self.where: images}, self.where)
        args = (*self.args[: self.where], images, *self.args[self.where + 1 :])
        return ModelCall(args, self.kwargs, self.where)

    def with_variable_images(self) -> ModelCall:
        """Return the same call with images that require gradients; other tensors are constants.

        The images are a copy, which the model may change in place.
        """

        def constant(value: Any) -> Any:
            return value.detach() if isinstance(value, Tensor) else value

        call = ModelCall(
            pytree.tree_map(constant, self.args), pytree.tree_map(constant, self.kwargs), self.where
        )
        is_real = call.images.is_floating_point()
        return call.with_images(call.images.requires_grad_().clone()) if is_real else call

    def few(self) -> ModelCall:
        """Return a call with at most two images, or with all if there are other tensors.

        Two images are needed to tell the batch axis from the head axis. A call with a single image
        does not need the distinction.
        """
        images = self.images.detach()
        return self.with_images((images[:2] if self.has_only_images else images).clone())

    def other_tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments except the images, including those in lists."""
        tensors = _tensors((*self.args, *self.kwargs.values()))
        return [tensor for tensor in tensors if tensor is not self.images]

    def run(self, model: nn.Module) -> Any:
        """Call the model.

        Raises
        ------
        ShapeError
            For images whose number of channels does not fit the first convolution.
        """
        try:
            return model(*self.args, **self.kwargs)
        except RuntimeError as error:
            if channel_error := self._channel_error(str(error)):
                raise channel_error from error
            raise
        except AssertionError as error:
            if "NestedTensor" not in str(error):
                raise
            raise UnsupportedModelError(
                f"{type(model).__name__}: expected tokens in a dense tensor, got a nested tensor, "
                "which nn.TransformerEncoder creates for a padding mask — build it with "
                "enable_nested_tensor=False"
            ) from error

    def _channel_error(self, message: str) -> ShapeError | None:
        """Return the error for images with the wrong number of channels; None for other errors."""
        shape = list(self.images.shape)
        match = _WRONG_CHANNELS.search(message)
        if match is None or match[1] != str(shape):
            return None
        channels, expected = shape[1], int(match[2])
        advice = {
            (3, 1): "pass the picture, or x.mean(dim=1, keepdim=True)",
            (1, 3): "pass the picture, or x.expand(-1, 3, -1, -1)",
        }.get((channels, expected), "pass images like those that it was trained on")
        return ShapeError(f"inputs: expected {expected} channels, got {channels} — {advice}")


# Message of PyTorch for a convolution whose input has the wrong number of channels.
_WRONG_CHANNELS = re.compile(r"expected input(\[[\d, ]+\]) to have (\d+) channels")


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from _tensors(value)


def as_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """Return additional arguments, given as a tuple, as a single one or as None, as a tuple."""
    if additional_forward_args is None:
        return ()
    is_tuple = isinstance(additional_forward_args, tuple)
    return additional_forward_args if is_tuple else (additional_forward_args,)


def read_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
    """Find the images among the arguments: the first non-empty dense tensor with four axes.

    Raises
    ------
    ShapeError
        If there is none.
    """
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for where, value in arguments:
        is_dense = isinstance(value, Tensor) and value.layout == torch.strided
        if is_dense and value.ndim == 4 and value.numel():
            return ModelCall(args, kwargs, where)
    got = [
        f"{name}{tuple(value.shape)}" if isinstance(value, Tensor) else name + type(value).__name__
        for name, value in [*(("", v) for v in args), *((f"{k}=", v) for k, v in kwargs.items())]
    ]
    raise ShapeError(
        f"inputs: expected a batch of images (B, C, H, W), got {', '.join(got) or 'nothing'} — "
        "pass a dense tensor; for a single image, x[None]"
    )


_FIRST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def move_to_model(model: nn.Module, inputs: Tensor, *, prepared: bool = False) -> Tensor:
    """Return `inputs` on the device and in the dtype that `model` expects.

    Models may mix dtypes (norm layers in float32 among bfloat16 blocks) and devices (layers that
    are offloaded to the CPU or to the meta device), so a single parameter is not enough to decide.
    If all floating-point parameters share a device, the inputs are moved to it; if they share a
    dtype, the inputs are cast to it. In a model that mixes devices or dtypes, a tensor of the
    caller keeps its own, and inputs that semattn prepared from images follow the first convolution
    or linear layer, which is the patch embedding.

    Parameters
    ----------
    model : a vision transformer
    inputs : (B, C, H, W)
    prepared : whether semattn prepared `inputs` from images (`Images.prepared`)

    Examples
    --------
    >>> mixed = nn.Sequential(nn.Linear(2, 2).half(), nn.LayerNorm(2))
    >>> x = torch.zeros(1, 2)
    >>> move_to_model(mixed, x).dtype, move_to_model(mixed, x, prepared=True).dtype
    (torch.float32, torch.float16)
    """
    weights = [weight for weight in model.parameters() if _is_input_dtype(weight)]
    devices = {weight.device for weight in weights if not weight.is_meta}
    dtypes = {weight.dtype for weight in weights}
    first = _first_weight(model) if prepared and max(len(devices), len(dtypes)) > 1 else None
    device, dtype = inputs.device, inputs.dtype
    if len(devices) == 1:
        (device,) = devices
    elif first is not None and not first.is_meta:
        device = first.device
    if len(dtypes) == 1:
        (dtype,) = dtypes
    elif first is not None:
        dtype = first.dtype
    return inputs.to(device=device, dtype=dtype)


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the first convolution or linear layer; the CPU without any weights."""
    weights = [_first_weight(model), *model.parameters()]
    devices = [weight.device for weight in weights if weight is not None and not weight.is_meta]
    return devices[0] if devices else torch.device("cpu")


def _first_weight(model: nn.Module) -> Tensor | None:
    """Return the first floating-point weight of a convolution or linear layer, if there is one."""
    for module in model.modules():
        if isinstance(module, _FIRST_LAYERS) and _is_input_dtype(module.weight):
            return module.weight
    return None


def _is_input_dtype(weight: Tensor) -> bool:
    """Return whether inputs can have this dtype; 8-bit floats only store weights."""
    return weight.is_floating_point() and weight.dtype.itemsize > 1


_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device})
_MODULE_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_MAX_DEPTH = 3
_MAX_ELEMENTS = 4096  # of a list, a dict or an array


def attributes_of(model: nn.Module) -> tuple[Any, ...]:
    """Return a snapshot of the class, the attributes and the foreign hooks of every module.

    Two snapshots are equal if no number, list, dict, function or integer tensor among the
    attributes has changed. A snapshot does not keep the model alive.
    """
    return tuple(
        (
            type(module),
            tuple(
                (name, value if type(value) in _PLAIN else _snapshot(value))
                for name, value in vars(module).items()
                if name not in _MODULE_INTERNALS
            ),
            tuple(map(_tensor_snapshot, module._buffers.values())) if module._buffers else (),
            _foreign_hooks(module) if module._forward_hooks or module._forward_pre_hooks else (),
        )
        for module in model.modules()
    )


def changed_attributes(
    first: tuple[Any, ...], second: tuple[Any, ...]
) -> frozenset[tuple[int, str]]:
    """Return the differing attributes as (module number, name); "" is the module itself."""
    if first == second:
        return frozenset()
    if len(first) != len(second):
        return frozenset({(-1, "")})
    differences = set()
    for number, (old, new) in enumerate(zip(first, second, strict=True)):
        if (old[0], *old[2:]) != (new[0], *new[2:]):
            differences.add((number, ""))
        before, after = dict(old[1]), dict(new[1])
        differences |= {
            (number, name)
            for name in before.keys() | after.keys()
            if before.get(name, ...) != after.get(name, ...)
        }
    return frozenset(differences)


def _snapshot(value: Any, depth: int = 0) -> Any:
    """Return a comparable snapshot, equal to an earlier one if `value` has not changed."""
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and all(type(item) in _PLAIN for item in value)):
        return value
    if isinstance(value, Tensor):
        return _tensor_snapshot(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes() if value.size <= _MAX_ELEMENTS else id(value)
    if isinstance(value, nn.Module) or depth > _MAX_DEPTH:
        return None
    if isinstance(value, MethodType):
        return id(value.__func__), id(value.__self__)
    if isinstance(value, partial):
        return id(value.func), _snapshot([*value.args, *value.keywords.items()], depth + 1)
    if isinstance(value, (list, tuple)) and len(value) <= _MAX_ELEMENTS:
        return type(value), tuple(_snapshot(item, depth + 1) for item in value)
    if isinstance(value, dict) and len(value) <= _MAX_ELEMENTS:
        return dict, tuple((repr(key), _snapshot(item, depth + 1)) for key, item in value.items())
    if callable(value) or not hasattr(value, "__dict__"):
        return id(value)
    return id(value), _snapshot(vars(value), depth + 1)


def _tensor_snapshot(value: Tensor | None) -> Any:
    """Return identity, version and shape of an integer tensor, a possible index; else None."""
    if value is None or value.is_floating_point() or value.is_complex():
        return None
    version = None if value.is_inference() else value._version
    return id(value), version, tuple(value.shape)


def _foreign_hooks(module: nn.Module) -> tuple[int, ...]:
    """Return the ids of the hooks that semattn did not register."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return tuple(id(hook) for hook in hooks if not _is_semattn_hook(hook))


def _is_semattn_hook(hook: Any) -> bool:
    function = hook.func if isinstance(hook, partial) else hook
    return str(getattr(function, "__module__", "")).startswith("semattn.")
