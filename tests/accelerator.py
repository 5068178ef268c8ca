"""A simulated accelerator: a device on which the faults of MPS and CUDA fail, on a machine without.

Tensors on `DEVICE` are a subclass that computes on the CPU and refuses what a real accelerator
refuses: float64 (as MPS), operands on two devices (as CUDA and MPS), and reading by NumPy. The
device type is PyTorch's "lazy": nothing else uses it, and autograd runs it in the calling thread.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy", 0)
_DOUBLES = (torch.float64, torch.complex128)
_aten = torch.ops.aten
# CUDA indexes its tensors by index tensors on the CPU, and masks by boolean ones; not the reverse.
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_READS = {"_local_scalar_dense", "nonzero", "equal"}  # the program waits for the device
reads: Counter[str] = Counter()  # calls that waited for the device, by name
_JOINED = {"cat", "stack"}  # these refuse even a single number on another device


class AcceleratorTensor(Tensor):
    """Tensor on `DEVICE`; `on_cpu` holds its values."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> AcceleratorTensor:
        refuse_float64(on_cpu.dtype)
        wrapper = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            layout=on_cpu.layout,
            device=DEVICE,
        )
        wrapper.on_cpu = on_cpu
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:
        return f"AcceleratorTensor({self.on_cpu!r})"

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as for any tensor that is not on the CPU."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        """Return a list; PyTorch copies the tensor to the CPU first."""
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func.decompose(*args, **(kwargs or {}))  # not decomposed below autograd
        return _compute(func, args, kwargs or {}) if result is NotImplemented else result


def refuse_float64(dtype: torch.dtype) -> None:
    """Raise for float64, as MPS does."""
    if dtype in _DOUBLES:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
            "float64. Please use float32 instead."
        )


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check a call, run it on the CPU, and wrap the result."""
    name = func._schema.name.rpartition("::")[2]
    if name in _READS:
        reads[name] += 1
    if name in ("copy_", "_copy_from"):
        return _copied(*args[:2])
    _refuse_two_devices(name, args, kwargs)
    stays = "device" not in kwargs or _is_accelerator(kwargs["device"])
    cpu_kwargs = dict(kwargs)
    if kwargs.get("device") is not None:
        cpu_kwargs["device"] = torch.device("cpu")
    if kwargs.get("dtype") is not None:  # a cast happens before the copy to another device
        refuse_float64(kwargs["dtype"])
    elif kwargs.get("device") is None:
        stays = True
    cpu_arguments = tree_map_only(
        AcceleratorTensor, lambda tensor: tensor.on_cpu, (args, cpu_kwargs)
    )
    result = func(*cpu_arguments[0], **cpu_arguments[1])
    if name == "_to_copy" and not stays:
        reads["copy to the CPU"] += 1
        return result
    # Results of in-place calls and of `out` are the input tensors themselves.
    tensors = [tensor for tensor in tree_leaves((args, kwargs)) if _on_device(tensor)]
    inputs_by_id = {id(tensor.on_cpu): tensor for tensor in tensors}
    assert all(tensor.shape == tensor.on_cpu.shape for tensor in inputs_by_id.values()), (
        f"{name}: a new shape"
    )

    def wrapped(tensor: Tensor) -> Tensor:
        if id(tensor) in inputs_by_id:
            return inputs_by_id[id(tensor)]
        return AcceleratorTensor(tensor) if stays else tensor

    # A view of a tensor from outside `torch.inference_mode` is not an inference tensor.
    outside = func.is_view and not tensors[0].is_inference()
    with torch.inference_mode(False) if outside else nullcontext():
        return tree_map_only(Tensor, wrapped, result)


def _refuse_two_devices(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
    elsewhere = [tensor for tensor in tensors if not _on_device(tensor)]
    if name in _INDEXED and _on_device(args[0]):
        elsewhere = [
            tensor for tensor in args[2:3] if isinstance(tensor, Tensor) and not _on_device(tensor)
        ]
    scalars = name not in _JOINED and _on_device(tensors[0])
    if any(tensor.ndim or not scalars for tensor in elsewhere):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and cpu! (when checking arguments of {name})"
        )


def _copied(target: Tensor, source: Tensor) -> Tensor:
    if _on_device(source):
        reads["copy to the CPU"] += not _on_device(target)
        refuse_float64(target.dtype)  # MPS casts on the device, before it copies
    destination, values = (
        tensor.on_cpu if _on_device(tensor) else tensor for tensor in (target, source)
    )
    destination.copy_(values)
    return target


def _on_device(value: Any) -> bool:
    return isinstance(value, AcceleratorTensor)


def _is_accelerator(device: Any) -> bool:
    return device is None or torch.device(device).type == DEVICE.type


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return AcceleratorTensor(torch.empty(size, dtype=dtype, device="cpu"))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return AcceleratorTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _made(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Call a factory whose result PyTorch would resize while filling it."""
    options = {"dtype": kwargs.get("dtype"), "device": "cpu"}
    return AcceleratorTensor(function(*args, **options))


def _copy_from(source: Tensor, target: Tensor, _non_blocking: bool = False) -> Tensor:
    return _copied(target, source)


# Factory functions, and copies that PyTorch makes below the subclass.
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _empty, "Lazy")
_library.impl("empty_strided", _empty_strided, "Lazy")
_library.impl("_copy_from", _copy_from, "Lazy")
for _name in ("arange", "arange.start", "arange.start_step"):
    _library.impl(_name, functools.partial(_made, torch.arange), "Lazy")
for _name in ("eye", "eye.m"):
    _library.impl(_name, functools.partial(_made, torch.eye), "Lazy")


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """Inside the ``with``, `torch.autocast` knows the device, as it knows every accelerator."""
    real = torch.autocast

    @functools.wraps(real, updated=())
    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type != DEVICE.type:
            return real(device_type, *args, **kwargs)
        return nullcontext()

    torch.autocast = autocast  # type: ignore[misc, assignment]
    try:
        yield DEVICE
    finally:
        torch.autocast = real  # type: ignore[misc]
