"""From what a model returns to one number for each image, which is explained.

A target is what Captum takes: a class number, one for each sample (list, 1-D tensor, array or
series), a tuple of indices into an output of more axes, or a list of such tuples. It may also be a
function of the output, or a list of functions, one for each image. None is the predicted class; of
one logit it is the logit with the sign of the predicted answer, of a regression the value, and of
features their own direction. Target 0 of one logit is the logit itself, as in Captum.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LabelError, TargetError, UnsupportedModelError
from ..targets import OutputKind, OutputMeaning
from ..utils.captum_library import select_targets
from ..utils.validation import as_integers
from .output_meaning import part_of, read_output

Target = (
    int
    | tuple[int, ...]
    | list[int]
    | list[tuple[int, ...]]
    | Tensor
    | Callable[[Any], Tensor]
    | list[Callable[[Tensor], Tensor]]
    | None
)


class Score(NamedTuple):
    """What is differentiated.

    Parameters
    ----------
    values : (B,)
    classes : (B,), the class numbers; None where it is not a class that is explained
    explains : what is, in that case, in a few words; "" for a class
    """

    values: Tensor
    classes: Tensor | None
    explains: str = ""


def output_tensor(output: Any) -> Tensor:
    """The tensor (B, …) of a model's output: itself, its logits, its features, or its first.

    Inside `watch_output` it is the one that the model's classifier made, see `output_meaning`.
    """
    return read_output(output)[0]


def score(output: Any, target: Target, model: nn.Module) -> Score:
    """What is explained of each image, given all that the model returned.

    A function as target is called with `output` as it is, and gives (B,), each number of its own
    image's output alone; one of a list is called with its image's part of `output_tensor`, and
    gives a single number.

    Raises
    ------
    TargetError
        For a target that the output does not have, or a function that gives no such numbers.

    Examples
    --------
    >>> embeds = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> text = torch.tensor([0.0, 1.0])
    >>> score({"image_embeds": embeds}, lambda output: output["image_embeds"] @ text, nn.Identity())
    Score(values=tensor([4.], grad_fn=...), classes=None, explains='<lambda> of the output')
    """
    tensor, meaning = read_output(output, model)
    if not tensor.is_floating_point():
        raise UnsupportedModelError(
            f"model output: expected real numbers that have a gradient, got {tensor.dtype} — "
            "wrap the model so that it returns its logits"
        )
    if callable(target):
        values = _answered(target(output), tensor.shape[:1], "one number an image")
        return Score(values, None, f"{_called(target)} of the output")
    if isinstance(target, list) and target and all(map(callable, target)):
        return Score(_each_answered(tensor, target), None, "a function of each image's output")
    if meaning.refusal:
        raise UnsupportedModelError(meaning.refusal)
    if target is None:
        return _own_score(tensor, meaning)
    target = _converted(target)
    _check(tensor, target)
    chosen = select_targets(tensor, _on_device(target, tensor))
    if chosen.shape != tensor.shape[:1]:
        raise TargetError(
            f"target: expected one number an image, got {reprlib.repr(target)} which selects "
            f"{tuple(chosen.shape)} of {tuple(tensor.shape)} — give an index for every axis"
        )
    classes = _classes(tensor, target)
    explains = f"the output at {reprlib.repr(target)}" if classes is None else ""
    return Score(chosen, classes, explains)


def fixed_target(logits: Tensor, meaning: OutputMeaning) -> Callable[[Any], Tensor]:
    """Return what target None explains of these outputs, as a function for other versions.

    Of one logit it is the predicted answer, of features their direction; neither is chosen again.
    """
    weights = _own_weights(logits.detach(), meaning)

    def explained(output: Any) -> Tensor:
        tensor = part_of(output, meaning).reshape(len(weights), -1)
        return (tensor * weights.to(tensor)).sum(dim=1)

    return explained


def answer_target(answer: int, meaning: OutputMeaning, outputs: int) -> Target:
    """The target that explains an answer: a class number, or the signed output of a binary model.

    Parameters
    ----------
    answer : as `OutputMeaning.predicted` gives it
    outputs : the number of outputs of the model
    """
    if not meaning.is_binary(outputs):
        return answer
    sign = 1 if answer else -1

    def signed_output(output: Any) -> Tensor:
        tensor = part_of(output, meaning)
        return sign * tensor.reshape(len(tensor))

    return signed_output


def _own_score(tensor: Tensor, meaning: OutputMeaning) -> Score:
    """Return what target None explains: the predicted class, or what stands for it."""
    if meaning.kind is OutputKind.DENSE:
        raise TargetError(
            f"target: expected one for an output of shape {tuple(tensor.shape)}, got None — "
            "only an output (B, classes) has a predicted class; give an index for every axis, "
            "or a function of the output"
        )
    if not tensor.numel():
        raise TargetError(
            f"target: expected an output of one class at least, got {tuple(tensor.shape)}"
        )
    flat = tensor.reshape(len(tensor), -1)
    part = f" ({meaning.part})" if isinstance(meaning.part, str) else ""
    if meaning.kind is OutputKind.FEATURES:
        values = (flat * _own_weights(flat.detach(), meaning)).sum(dim=1)
        return Score(values, None, f"the model's own feature direction{part}")
    if meaning.is_binary(flat.shape[1]):
        values = (flat * _own_weights(flat.detach(), meaning)).sum(dim=1)
        return Score(values, None, f"the model's one {meaning.unit}, towards the predicted answer")
    if meaning.kind is OutputKind.REGRESSION:
        if flat.shape[1] > 1:
            raise TargetError(
                f"target: expected the number of an output, 0 to {flat.shape[1] - 1}, got None — "
                "a regression has no predicted class"
            )
        return Score(flat[:, 0], None, "the model's one output")
    classes = flat.detach().argmax(dim=1)
    return Score(flat.gather(1, classes[:, None])[:, 0], classes)


def _own_weights(tensor: Tensor, meaning: OutputMeaning) -> Tensor:
    """Weights (B, K) of the output whose sum target None explains."""
    flat = tensor.reshape(len(tensor), -1)
    if meaning.kind is OutputKind.FEATURES:
        return _own_direction(flat)
    if meaning.is_binary(flat.shape[1]):
        predicted = meaning.predicted(flat)
        assert predicted is not None
        return (2 * predicted[:, None] - 1).to(flat)
    return torch.ones_like(flat) / flat.shape[1]


def _converted(target: Any) -> Any:
    """A target with plain integers: arrays, series, 0-d tensors and NumPy integers are read."""
    if isinstance(target, tuple):
        return tuple(_plain_integer(one) for one in target)
    if isinstance(target, list):
        return [
            _converted(one) if isinstance(one, tuple) else _plain_integer(one) for one in target
        ]
    if isinstance(target, Tensor) or hasattr(target, "__array__"):
        if getattr(target, "dtype", None) in (torch.bool, np.dtype(bool)):
            raise TargetError("target: expected class numbers, got booleans")
        shape = tuple(np.shape(target) if not isinstance(target, Tensor) else target.shape)
        if len(shape) > 1:
            raise TargetError(f"target: expected whole numbers (B,), got shape {shape}")
        try:
            found = as_integers(target, "target")
        except LabelError as error:
            got = getattr(target, "dtype", type(target).__name__)
            raise TargetError(f"target: expected whole numbers (B,), got {got} {shape}") from error
        return found
    return target


def _plain_integer(value: Any) -> Any:
    """An integer of NumPy, or of a tensor or array without axes, as one of Python."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        number = value.item()
        return number if isinstance(number, int) else value
    return value


def _on_device(target: Any, tensor: Tensor) -> Any:
    return target.to(tensor.device) if isinstance(target, Tensor) else target


def check_batch(tensor: Tensor, batch: int) -> None:
    """Raise UnsupportedModelError unless an output has a row for each of the images."""
    if len(tensor) != batch:
        raise UnsupportedModelError(
            f"model output: expected a row for each of {batch} images, got {tuple(tensor.shape)} — "
            "wrap the model so that it returns its logits (B, …)"
        )


def _own_direction(features: Tensor) -> Tensor:
    """The direction (B, D) of each image's features, of length 1."""
    flat = features.flatten(1)
    length = flat.detach().float().norm(dim=1)
    rounding = min(max(8 * torch.finfo(flat.dtype).eps, 1e-6), 0.01)
    if bool(((length - 1).abs() < rounding).all()):
        raise TargetError(
            "target: expected one for features that are all of length 1, got None — along their "
            "own direction they never change; give a function of the output, such as the "
            "similarity to a text embedding"
        )
    return torch.nn.functional.normalize(flat.detach(), dim=1)


def _each_answered(tensor: Tensor, functions: list[Any]) -> Tensor:
    """One function an image, each called with that image's output: (B,)."""
    if len(functions) != len(tensor):
        raise TargetError(
            f"target: expected {len(tensor)} functions, one an image, got {len(functions)} — "
            "or give a single function of the whole output"
        )
    answers = []
    for function, one in zip(functions, tensor, strict=True):
        answer = function(one)
        if isinstance(answer, Tensor) and answer.numel() == 1:
            answer = answer.reshape(())
        answers.append(_answered(answer, torch.Size(), "a single number for one image"))
    return torch.stack(answers)


def _answered(answer: Any, shape: torch.Size, wanted: str) -> Tensor:
    """What a function gave, once it is known to be numbers that can be differentiated."""
    if not isinstance(answer, Tensor):
        raise TargetError(
            f"target: expected a function that gives a tensor, got {type(answer).__name__} — "
            "compute it with torch, without .item() or numpy"
        )
    if answer.shape != shape:
        raise TargetError(
            f"target: expected a function that gives {wanted}, {tuple(shape)}, got "
            f"{tuple(answer.shape)} — sum over the other axes; functions of one image's output "
            "go into a list"
        )
    if not answer.is_floating_point():
        raise TargetError(
            f"target: expected a function that gives real numbers, got {answer.dtype} — "
            "counts and classes have no gradient"
        )
    if torch.is_grad_enabled() and not answer.requires_grad:
        raise TargetError(
            "target: expected a function of the model's output, got numbers without a gradient — "
            "compute them from what it is called with, without detach or no_grad"
        )
    if not bool(answer.isfinite().all()):
        raise TargetError(
            "target: expected a function that gives finite numbers, got NaN or infinity — "
            "check it on the model's output"
        )
    return answer


def _called(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check(output: Tensor, target: Target) -> None:
    batch, shape = output.shape[0], tuple(output.shape)
    each: list[Any]
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.ndim > 1:
            raise TargetError(
                f"target: expected whole numbers (B,), got {target.dtype} {tuple(target.shape)}"
            )
        each = target.reshape(-1).tolist()
        alone = len(each) == 1
    elif isinstance(target, list):
        each, alone = target, False
    else:
        each, alone = [target], True
    if not alone and len(each) != batch:
        raise TargetError(
            f"target: expected {batch}, one an image, got {len(each)} — "
            "or give a single class for all images"
        )
    for one in each:
        indices = one if isinstance(one, tuple) else (one,)
        if not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
            raise TargetError(
                f"target: expected a class number, a tuple of indices, a list, a 1-D tensor or a "
                f"function, got {reprlib.repr(one)} of type {type(one).__name__}"
            )
        if len(indices) != output.ndim - 1:
            raise TargetError(
                f"target: expected {output.ndim - 1} indices for an output of shape {shape}, "
                f"got {reprlib.repr(one)}"
            )
        for index, size in zip(indices, shape[1:], strict=True):
            if not 0 <= index < size:
                raise TargetError(
                    f"target: expected 0 to {size - 1} for an output of shape {shape}, got {index}"
                )


def _classes(output: Tensor, target: Target) -> Tensor | None:
    if output.ndim != 2:
        return None
    flat = [one[0] if isinstance(one, tuple) else one for one in _listed(target)]
    return torch.tensor(flat, dtype=torch.long, device=output.device).expand(len(output)).clone()


def _listed(target: Target) -> list[Any]:
    if isinstance(target, Tensor):
        return target.reshape(-1).tolist()
    return target if isinstance(target, list) else [target]
