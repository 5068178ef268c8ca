"""Provenance of results: the model, the SHA-256 of its weights, and the versions of the packages.

Equal digests mean equal weights. Quantised tensors, packed parameters and tensor subclasses are
split into their component tensors. Values that cannot be read raise an error, because an incomplete
digest would be misleading.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import io
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Leaf: TypeAlias = tuple[str, Tensor | bytes]
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
# Attributes of a model that `about_model` reads
WEIGHTS_SOURCE, SPECIFICATION = "weights_source", "specification"
_PLAIN_TYPES = (type(None), bool, int, float, complex, str)
_TORCH_TYPES = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.qscheme)


class UnreadableError(ValueError):
    """Error for a value without a digest; the message names the value and the reason."""


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, shapes, types and numbers, in alphabetical order of the names.

    Parameters
    ----------
    values : tensors, plain values, and lists, tuples and dicts of those, as of a `state_dict`

    Raises
    ------
    UnreadableError
        For tensors without values (meta device), parts of sharded tensors, and unknown objects.

    Examples
    --------
    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(1, 2)})
    False
    """
    total = hashlib.sha256()
    for name in sorted(values):
        for full_name, leaf in sorted(_leaves(name, values[name]), key=lambda entry: entry[0]):
            if isinstance(leaf, bytes):
                total.update(f"{full_name} = {len(leaf)} bytes\n".encode() + leaf)
                continue
            total.update(f"{full_name} {tuple(leaf.shape)} {leaf.dtype}\n".encode())
            total.update(leaf.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _leaves(name: str, value: Any) -> Iterator[Leaf]:
    """Split a value into plain tensors on the CPU and bytes, each with a unique name."""
    if isinstance(value, Tensor):
        yield from _tensor_leaves(name, value)
    elif isinstance(value, Mapping):
        yield f"{name}:keys", repr(sorted(map(repr, value))).encode()
        for key in value:
            yield from _leaves(f"{name}[{key!r}]", value[key])
    elif isinstance(value, (list, tuple)):
        yield f"{name}:length", str(len(value)).encode()
        for number, item in enumerate(value):
            yield from _leaves(f"{name}[{number}]", item)
    elif (plain := _plain_bytes(value)) is not None:
        yield name, plain
    elif isinstance(value, torch.ScriptObject):
        yield from _leaves(name, _unpacked(name, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"{name}:type", type(value).__qualname__.encode()
        for field in dataclasses.fields(value):
            yield from _leaves(f"{name}.{field.name}", getattr(value, field.name))
    else:
        raise UnreadableError(f"{name} holds a {type(value).__qualname__}, which cannot be read")


def _plain_bytes(value: Any) -> bytes | None:
    """Return type and value of a plain value or array as bytes; None for other objects."""
    kind = type(value).__name__
    if isinstance(value, io.BytesIO):
        value = value.getvalue()
    if isinstance(value, (bytes, bytearray)):
        return f"{kind} ".encode() + bytes(value)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "biufcSU":  # an array of objects
            return None
        return f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    if isinstance(value, (*_PLAIN_TYPES, *_TORCH_TYPES, enum.Enum)):
        return f"{kind} {value!r}".encode()
    return None


def _tensor_leaves(name: str, tensor: Tensor) -> Iterator[Leaf]:
    kind = type(tensor)
    if kind.__module__.startswith("torch.distributed"):
        raise UnreadableError(f"{name} is a part of a sharded tensor ({kind.__name__})")
    if tensor.is_meta:
        raise UnreadableError(f"{name} is on the meta device")
    tensor = tensor.detach()
    if hasattr(tensor, "__tensor_flatten__"):
        yield from _inner_leaves(name, tensor)
    elif tensor.is_quantized:
        yield from _quantised_leaves(name, tensor)
    elif tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        yield f"{name}:shape", str(tuple(tensor.shape)).encode()
        yield from _tensor_leaves(f"{name}:indices", tensor.indices())
        yield from _tensor_leaves(f"{name}:values", tensor.values())
    else:
        yield name, _to_dense_cpu(name, tensor)


def _inner_leaves(name: str, tensor: Any) -> Iterator[Leaf]:
    """Yield the leaves of a tensor subclass that wraps other tensors, as in torchao and quanto."""
    attributes, context = tensor.__tensor_flatten__()
    description = f"{type(tensor).__qualname__} {tuple(tensor.shape)} {tensor.dtype}"
    yield f"{name}:type", description.encode()
    yield from _leaves(f"{name}:context", context)
    for attribute in attributes:
        yield from _leaves(f"{name}.{attribute}", getattr(tensor, attribute))


def _quantised_leaves(name: str, tensor: Tensor) -> Iterator[Leaf]:
    """Yield the leaves of a tensor of `torch.quantize_per_tensor` or `quantize_per_channel`."""
    yield f"{name}:qscheme", str(tensor.qscheme()).encode()
    yield from _tensor_leaves(f"{name}:int_repr", tensor.int_repr())
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        yield from _leaves(f"{name}:scale", tensor.q_scale())
        yield from _leaves(f"{name}:zero_point", tensor.q_zero_point())
        return
    yield from _leaves(f"{name}:axis", tensor.q_per_channel_axis())
    yield from _tensor_leaves(f"{name}:scales", tensor.q_per_channel_scales())
    yield from _tensor_leaves(f"{name}:zero_points", tensor.q_per_channel_zero_points())


def _unpacked(name: str, packed: Any) -> Any:
    """Return weight and bias of packed parameters, or the state of another TorchScript object."""
    for method in ("unpack", "__getstate__"):
        try:
            return getattr(packed, method)()
        except Exception:  # noqa: BLE001, S112 — any error means that the method is not supported
            continue
    raise UnreadableError(f"{name} holds packed parameters, which cannot be read")


def _to_dense_cpu(name: str, tensor: Tensor) -> Tensor:
    """Return the values as a plain, contiguous tensor on the CPU."""
    try:
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        if type(tensor) is not Tensor:
            if tensor.numel() and not tensor.untyped_storage().data_ptr():
                raise UnreadableError(f"{name} is a {type(tensor).__qualname__} without values")
            tensor = tensor.as_subclass(Tensor)
        tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
        tensor.flatten().view(torch.uint8)  # fails for values of less than a byte
        return tensor
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnreadableError(
            f"{name} is a {type(tensor).__qualname__} that cannot be read ({reason})"
        ) from error


def model_label(manifest: Mapping[str, Any]) -> str:
    """Return the display name of the model of a result.

    Examples
    --------
    >>> model_label({"architecture": "vit_tiny", "weights": "random, seed 0"})
    'vit_tiny (weights: random, seed 0)'
    """
    names = (manifest.get(key) for key in ("architecture", "specification", "model"))
    name = str(next(filter(None, names), ""))
    weights = manifest.get("weights")
    return f"{name} (weights: {weights})" if weights else name


def about_model(model: nn.Module) -> dict[str, Any]:
    """Return the identity of a model, ready for JSON.

    `specification` is the text that selected the model, see `semattn.load`. `weights` is the source
    of the weights, if they are not the standard ones of the architecture.
    `weights_sha256` is None if the weights have no digest; `weights_note` then gives the reason.
    """
    config = getattr(model, "pretrained_cfg", None)
    about: dict[str, Any] = {
        "model": type(model).__name__,
        "architecture": config.get("architecture") if isinstance(config, dict) else None,
    }
    if specification := getattr(model, SPECIFICATION, None):
        about["specification"] = str(specification)
    if source := getattr(model, WEIGHTS_SOURCE, None):
        about["weights"] = str(source)
    try:
        return about | {"weights_sha256": weights_digest(model)}
    except UnreadableError as error:
        note = f"weights_sha256 is null: {error}"
        return about | {"weights_sha256": None, "weights_note": note}


def weights_digest(model: nn.Module) -> str:
    """Return the `digest` of everything in the model's `state_dict`.

    Raises
    ------
    UnreadableError
        For weights that are offloaded, sharded, or of an unknown kind.
    """
    try:
        state = model.state_dict()
    except Exception as error:  # of the model's own code
        reason = " ".join(str(error).split())[:120]
        raise UnreadableError(
            f"the model's state_dict fails ({type(error).__name__}: {reason})"
        ) from error
    return digest(state)


def unconfirmed(manifest: Mapping[str, Any]) -> str:
    """Return why the weights of a run cannot be compared with others; "" if they can."""
    if manifest.get("weights_sha256", "") is not None:
        return ""
    return str(manifest.get("weights_note", "weights_sha256 is null"))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a result depends on."""
    installed = {package: installed_version(package) for package in _PACKAGES}
    present = {package: number for package, number in installed.items() if number is not None}
    return {"python": platform.python_version()} | present


def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed.

    Examples
    --------
    >>> installed_version("no-such-package") is None
    True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
