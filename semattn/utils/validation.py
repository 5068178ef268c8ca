"""Validation of numbers, tensors and labels.

Each check raises an error with a one-line message, as described in `semattn.errors`.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import LabelError, ShapeError


def check_number(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    integer: bool = False,
) -> None:
    """Raise unless `value` is a finite number from `minimum` to `maximum`.

    Parameters
    ----------
    name : name of the argument, for messages
    integer : accept integers only

    Raises
    ------
    TypeError
        For a value that is not a number, or not an integer if `integer`.
    ValueError
        For a number out of range.

    Examples
    --------
    >>> check_number("epochs", 0, minimum=1, integer=True)
    Traceback (most recent call last):
    ValueError: epochs: expected a whole number >= 1, got 0
    """
    expected = "a whole number" if integer else "a finite number"
    if math.isfinite(minimum):
        expected += f" >= {minimum:g}"
    if math.isfinite(maximum):
        expected += f" and <= {maximum:g}" if math.isfinite(minimum) else f" <= {maximum:g}"
    if not isinstance(value, numbers.Integral if integer else numbers.Real):
        raise TypeError(f"{name}: expected {expected}, got {_describe(value)}")
    # Integers can exceed the range of floats.
    comparable: Any = value
    if not (integer or math.isfinite(_float(value))) or not minimum <= comparable <= maximum:
        raise ValueError(f"{name}: expected {expected}, got {_describe(value)}")


def check_values(name: str, values: Any) -> None:
    """Raise unless `values` is a dense tensor of real numbers with at least one axis.

    Raises
    ------
    TypeError
        For a value that is not a tensor.
    ShapeError
        For a tensor without axes.
    ValueError
        For complex, sparse, quantized and meta tensors.
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

    A tensor is returned unchanged, on its device. Other values become a tensor on the CPU, also
    under another `torch.set_default_device`.

    Examples
    --------
    >>> as_tensor([1, 2])
    tensor([1, 2])
    """
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def check_labels(labels: Any, batch: int, classes: int, name: str = "labels") -> Tensor:
    """Check class numbers and return them as a long tensor (B,) on the CPU.

    Parameters
    ----------
    labels : class numbers as a list, an array, a series or a tensor of integers, (B,); a column
        (B, 1) is read as (B,)
    batch : B, the number of images
    classes : the number of classes; labels must be smaller
    name : name of the argument, for messages

    Raises
    ------
    LabelError
        For labels that are not integers, are out of range, or are not one for each image.

    Examples
    --------
    >>> check_labels([[2], [0]], batch=2, classes=3).tolist()
    [2, 0]
    """
    class_numbers = as_integers(labels, name)
    if tuple(class_numbers.shape) == (batch, 1):
        class_numbers = class_numbers[:, 0]
    if tuple(class_numbers.shape) != (batch,):
        raise LabelError(
            f"{name}: expected one class number for each of {batch} images, ({batch},), got shape "
            f"{tuple(class_numbers.shape)} — give class numbers, not one-hot or multi-label rows"
        )
    outside = class_numbers[(class_numbers < 0) | (class_numbers >= classes)]
    if len(outside):
        raise LabelError(
            f"{name}: expected class numbers from 0 to {classes - 1}, got {int(outside[0])} — "
            "give the numbers of the model's own classes"
        )
    return class_numbers


def as_integers(values: Any, name: str) -> Tensor:
    """Return integers or booleans in any container as a long tensor on the CPU; refuse floats."""
    if isinstance(values, (list, tuple)) and any(isinstance(value, Tensor) for value in values):
        values = [value.tolist() if isinstance(value, Tensor) else value for value in values]
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values)
        except ValueError:  # rows of different lengths
            array = np.empty(0, dtype=object)
        if array.dtype == object and array.size:
            array = _from_objects(array)
        elif not array.size and array.dtype != object:
            array = array.astype(np.int64)
        if array.dtype.kind not in "biu":
            raise LabelError(
                f"{name}: expected integers, got {array.dtype if array.size else 'none'} "
                f"({type(values).__name__}) — convert them to class numbers first"
            )
        return torch.from_numpy(array.astype(np.int64))
    if values.is_floating_point() or values.is_complex() or values.is_quantized:
        raise LabelError(
            f"{name}: expected integers, got {values.dtype} {tuple(values.shape)} — "
            "convert them to class numbers first"
        )
    # Copied because tensors of torch.inference_mode cannot be used in a pass with gradients.
    with torch.inference_mode(False):
        return values.detach().to("cpu").to(torch.int64).clone()


def _from_objects(array: np.ndarray) -> np.ndarray:
    """Convert an object array of Python integers, as of a pandas series, to int64."""
    if all(isinstance(value, (numbers.Integral, np.bool_)) for value in array.flat):
        return array.astype(np.int64)
    return array


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _describe(value: Any) -> str:
    """Return a value as one line for an error message: the number, or the name of its type."""
    text = " ".join(repr(value).split()) if isinstance(value, numbers.Real) else ""
    return text[:40] if text else f"{type(value).__name__}"
