"""What numbers and tensors are looked at for, before anything is computed from them.

Each check raises one line, as `semattn.errors` has it. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from .errors import ShapeError


def check_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, whole: bool = False
) -> None:
    """Raise unless `value` is a finite number, from `least` to `most`, a whole one where asked.

    Raises
    ------
    TypeError
        For what is no number.
    ValueError
        For a number that is out of range.

    Examples
    --------
    >>> check_number("epochs", 0, least=1, whole=True)
    Traceback (most recent call last):
    ValueError: epochs: expected a whole number >= 1, got 0
    """
    wanted = "a whole number" if whole else "a finite number"
    if math.isfinite(least):
        wanted += f" >= {least:g}"
    if math.isfinite(most):
        wanted += f" and <= {most:g}" if math.isfinite(least) else f" <= {most:g}"
    if not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise TypeError(f"{name}: expected {wanted}, got {_told(value)}")
    # A whole number may be greater than any float is.
    compared: Any = value
    if not (whole or math.isfinite(_float(value))) or not least <= compared <= most:
        raise ValueError(f"{name}: expected {wanted}, got {_told(value)}")


def check_values(name: str, values: Any) -> None:
    """Raise unless `values` is a tensor of real numbers that lie in memory, one beside the other.

    Raises
    ------
    TypeError
        For what is no tensor.
    ShapeError
        For a tensor without axes.
    ValueError
        For complex numbers, and for sparse, quantized and meta tensors.
    """
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{name}: expected a tensor, got {type(values).__name__} — torch.as_tensor makes one"
        )
    if values.ndim == 0:
        raise ShapeError(f"{name}: expected values along an axis, got a single number")
    odd = values.is_complex() or values.layout != torch.strided or values.is_quantized
    if odd or values.device.type == "meta":
        kind = "a meta tensor" if values.device.type == "meta" else f"{values.layout}"
        raise ValueError(
            f"{name}: expected real numbers in a dense tensor, got {values.dtype}, {kind} — "
            "convert it first"
        )


def as_tensor(values: Any) -> Tensor:
    """Return `values` as a tensor.

    A tensor is returned as it is, on its own device. Everything else becomes a tensor on the CPU,
    also under another `torch.set_default_device`.

    Examples
    --------
    >>> as_tensor([1, 2])
    tensor([1, 2])
    """
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _told(value: Any) -> str:
    """A value as an error shows it, on one line."""
    said = " ".join(repr(value).split()) if isinstance(value, numbers.Real) else ""
    return said[:40] if said else f"{type(value).__name__}"
