"""What numbers and tensors are looked at for, before anything is computed from them.

Each check raises one line, as `semattn.errors` has it. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import LabelError, ShapeError


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


def check_labels(labels: Any, batch: int, classes: int, name: str = "labels") -> Tensor:
    """Labels as a long tensor (B,) on the CPU, once they are known to be class numbers.

    Parameters
    ----------
    labels : class numbers as a list, an array, a series or a tensor of integers, (B,); a column
        (B, 1) is read as (B,), since a batch of B images leaves it no other meaning
    batch : B, the number of images
    classes : the number of classes; labels lie below it
    name : of the argument, for messages

    Raises
    ------
    LabelError
        For labels that are not integers, another number of labels than images, several labels for
        an image, and a label out of range.

    Examples
    --------
    >>> check_labels([[2], [0]], batch=2, classes=3).tolist()
    [2, 0]
    """
    found = as_integers(labels, name)
    if tuple(found.shape) == (batch, 1):
        found = found[:, 0]
    if tuple(found.shape) != (batch,):
        raise LabelError(
            f"{name}: expected one class number for each of {batch} images, ({batch},), got shape "
            f"{tuple(found.shape)} — give class numbers, not one-hot or multi-label rows"
        )
    outside = found[(found < 0) | (found >= classes)]
    if len(outside):
        raise LabelError(
            f"{name}: expected class numbers from 0 to {classes - 1}, got {int(outside[0])} — "
            "give the numbers of the model's own classes"
        )
    return found


def as_integers(values: Any, name: str) -> Tensor:
    """Integers or booleans of any container as a long tensor on the CPU; floats are refused."""
    if isinstance(values, (list, tuple)) and any(isinstance(one, Tensor) for one in values):
        values = [one.tolist() if isinstance(one, Tensor) else one for one in values]
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
    # A copy: tensors of torch.inference_mode cannot take part in a pass with gradients.
    with torch.inference_mode(False):
        return values.detach().to("cpu").to(torch.int64).clone()


def _from_objects(array: np.ndarray) -> np.ndarray:
    """An array of Python integers as one of int64, such as a pandas series of them may be."""
    if all(isinstance(one, (numbers.Integral, np.bool_)) for one in array.flat):
        return array.astype(np.int64)
    return array


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _told(value: Any) -> str:
    """A value as an error shows it, on one line."""
    said = " ".join(repr(value).split()) if isinstance(value, numbers.Real) else ""
    return said[:40] if said else f"{type(value).__name__}"
