"""Selection of the score to explain from the output of a model, and the gradients of the score.

The score is one number per image.

Targets are those of Captum: a class number, one per image (list, 1-D tensor, array or series), a
tuple of indices into an output with more axes, or a list of such tuples. A target may also be a
class name, or a list of names, one per image, as `semattn.utils.class_names` reads them; or a
function of the output, or a list of functions, one per image. None is the predicted class; for one
logit, the logit with the sign of the predicted answer; for a regression, the value; for features,
their projection on their own direction. Target 0 of one logit is the logit itself, as in Captum.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LabelError, TargetError, UnsupportedModelError
from ..targets import OutputKind, OutputMeaning
from ..utils.class_names import binary_names, check_names, class_names, is_number, resolve_class
from ..utils.library_imports import select_targets
from ..utils.validation import as_integers
from .output_meaning import part_of, read_output

TargetLike = (
    int
    | tuple[int, ...]
    | list[int]
    | list[tuple[int, ...]]
    | str
    | list[str]
    | Tensor
    | Callable[[Any], Tensor]
    | list[Callable[[Tensor], Tensor]]
    | None
)


PREDICTED_ANSWER = "the model's one {unit}, towards the predicted answer"  # target None if binary
# Scales of a float16 score against underflow and overflow of its gradients; exact powers of two.
_FLOAT16_SCALES = (2.0**10, 1.0, 2.0**-10)


class Score(NamedTuple):
    """Score of each image that is differentiated.

    Parameters
    ----------
    values : (B,)
    classes : (B,), the class numbers; None if the score is not the output of a class
    target_description : short description of the score if it is not a class; "" for a class
    """

    values: Tensor
    classes: Tensor | None
    target_description: str = ""


@dataclass(frozen=True)
class Prediction:
    """Output of a model for a batch, and the score of it that is explained.

    Parameters
    ----------
    logits : the output (B, …)
    target : (B,) class numbers; None if the score is not the output of a class
    score : (B,), the differentiated score; None without gradients
    target_description : short description of the score if it is not a class; "" for a class
    """

    logits: Tensor
    target: Tensor | None = None
    score: Tensor | None = None
    target_description: str = ""

    @classmethod
    def of(cls, logits: Tensor, score: Score | None) -> Prediction:
        """Return the prediction without its graph; without a score if there are no gradients."""
        if score is None:
            return cls(logits.detach())
        description = score.target_description
        return cls(logits.detach(), score.classes, score.values.detach(), description)


def output_tensor(output: Any) -> Tensor:
    """Return the tensor (B, …) of a model's output: itself, its logits, features, or first tensor.

    Inside `watch_output` it is the tensor that the classifier returned, see `output_meaning`.
    """
    return read_output(output)[0]


def score(output: Any, target: TargetLike, model: nn.Module) -> Score:
    """Return the score of each image for the complete output of the model.

    A function as target is called with `output` unchanged and returns (B,), where each number
    depends only on the output of its own image. A function from a list is called with its image's
    part of `output_tensor` and returns a single number.

    Raises
    ------
    TargetError
        For a target that the output does not have, or a function that returns anything else.

    Examples
    --------
    >>> embeds = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> text = torch.tensor([0.0, 1.0])
    >>> score({"image_embeds": embeds}, lambda output: output["image_embeds"] @ text, nn.Identity())
    Score(values=tensor([4.], ...), classes=None, target_description='<lambda> of the output')
    """
    tensor, meaning = read_output(output, model)
    if not tensor.is_floating_point():
        raise UnsupportedModelError(
            f"model output: expected real numbers that have a gradient, got {tensor.dtype} — "
            "wrap the model so that it returns its logits"
        )
    if callable(target):
        values = _check_values(target(output), tensor.shape[:1], "one number per image")
        return Score(values, None, f"{_function_name(target)} of the output")
    if isinstance(target, list) and target and all(map(callable, target)):
        return Score(_call_per_image(tensor, target), None, "a function of each image's output")
    if meaning.refusal:
        raise UnsupportedModelError(meaning.refusal)
    if target is None:
        return _default_score(tensor, meaning)
    if is_named(target):
        outputs = 1 if tensor.ndim == 1 else tensor.shape[1]
        if meaning.is_binary(outputs):
            return _named_answer_score(tensor, target, meaning, model)
        target = _class_numbers(target, outputs, meaning, model)
    target = _with_plain_integers(target)
    _check_target(tensor, target)
    values = select_targets(tensor, _on_device(target, tensor))
    if values.shape != tensor.shape[:1]:
        raise TargetError(
            f"target: expected one number per image, got {reprlib.repr(target)} which selects "
            f"{tuple(values.shape)} of {tuple(tensor.shape)} — give an index for every axis"
        )
    classes = _classes(tensor, target)
    target_description = f"the output at {reprlib.repr(target)}" if classes is None else ""
    return Score(values, classes, target_description)


def is_named(target: Any) -> TypeGuard[str | list[str]]:
    """Return whether a target is a class name, or a list of names."""
    if isinstance(target, list):
        return bool(target) and all(isinstance(item, str) for item in target)
    return isinstance(target, str)


def gradients_of(
    scores: Tensor,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    name: str,
    *,
    retain_graph: bool = False,
) -> list[Tensor | None]:
    """Return the gradients of the sum of `scores`; None for a tensor that it does not depend on.

    Parameters
    ----------
    dtype : dtype of the model's output; float16 scores are scaled, and their gradients are float32
    name : name of what is differentiated, for the error

    Raises
    ------
    UnsupportedModelError
        For NaN or infinity in a gradient.
    """
    scales = _FLOAT16_SCALES if dtype == torch.float16 else (1.0,)
    for scale in scales:
        gradients = torch.autograd.grad(
            scores.sum() * scale,
            tensors,
            allow_unused=True,
            retain_graph=retain_graph or scale != scales[-1],
        )
        if _are_finite([gradient for gradient in gradients if gradient is not None]):
            break
    else:
        raise UnsupportedModelError(
            f"{name}: expected finite gradients, got NaN or infinity — "
            "check the weights and the input, or run the model in float32"
        )
    return [
        gradient
        if gradient is None or scale == 1.0
        else gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / scale
        for gradient in gradients
    ]


def _are_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether all values are finite; the device is read once."""
    extremes = [extreme for tensor in tensors if tensor.numel() for extreme in tensor.aminmax()]
    if not extremes:
        return True
    dtype = reduce(torch.promote_types, (extreme.dtype for extreme in extremes))
    stacked = torch.stack([extreme.to(dtype) for extreme in extremes])  # aminmax propagates NaN
    return bool(stacked.isfinite().all())


def fixed_target(logits: Tensor, meaning: OutputMeaning) -> Callable[[Any], Tensor]:
    """Return the score of target None for these outputs, as a function of other outputs.

    The predicted answer of one logit, and the direction of features, stay those of `logits`.
    """
    weights = _default_weights(logits.detach(), meaning)

    def fixed_score(output: Any) -> Tensor:
        tensor = part_of(output, meaning).reshape(len(weights), -1)
        return (tensor * weights.to(tensor)).sum(dim=1)

    return fixed_score


def answer_target(answer: int, meaning: OutputMeaning, outputs: int) -> TargetLike:
    """Return the target of an answer: a class number, or the signed output of a binary model.

    Parameters
    ----------
    answer : as returned by `OutputMeaning.predicted`
    outputs : the number of outputs of the model
    """
    if not meaning.is_binary(outputs):
        return answer
    sign = 1 if answer else -1

    def signed_output(output: Any) -> Tensor:
        tensor = part_of(output, meaning)
        return sign * tensor.reshape(len(tensor))

    return signed_output


def _default_score(tensor: Tensor, meaning: OutputMeaning) -> Score:
    """Return the score of target None: the predicted class, or its equivalent without classes."""
    if meaning.kind is OutputKind.DENSE:
        raise TargetError(
            f"target: expected a target for an output of shape {tuple(tensor.shape)}, got None — "
            "only an output (B, classes) has a predicted class; give an index for every axis, "
            "or a function of the output"
        )
    if not tensor.numel():
        raise TargetError(
            f"target: expected an output with at least one class, got {tuple(tensor.shape)}"
        )
    flat = tensor.reshape(len(tensor), -1)
    part = f" ({meaning.part})" if isinstance(meaning.part, str) else ""
    if meaning.kind is OutputKind.FEATURES:
        values = (flat * _default_weights(flat.detach(), meaning)).sum(dim=1)
        return Score(values, None, f"the model's own feature direction{part}")
    if meaning.is_binary(flat.shape[1]):
        values = (flat * _default_weights(flat.detach(), meaning)).sum(dim=1)
        return Score(values, None, PREDICTED_ANSWER.format(unit=meaning.unit))
    if meaning.kind is OutputKind.REGRESSION:
        if flat.shape[1] > 1:
            raise TargetError(
                f"target: expected the number of an output, 0 to {flat.shape[1] - 1}, got None — "
                "a regression has no predicted class"
            )
        return Score(flat[:, 0], None, "the model's one output")
    classes = flat.detach().argmax(dim=1)
    return Score(flat.gather(1, classes[:, None])[:, 0], classes)


def _class_numbers(
    target: str | list[str], outputs: int, meaning: OutputMeaning, model: nn.Module
) -> int | list[int]:
    """Return the class number of each name."""
    texts = [target] if isinstance(target, str) else target
    model_names = class_names(model) or ()
    names = model_names if len(model_names) == outputs else ()
    words = [text for text in texts if not is_number(text, names)]
    if words and meaning.kind in (OutputKind.FEATURES, OutputKind.DENSE):
        raise TargetError(
            f"target: expected a number, indices or a function of the output, got {words[0]!r} — "
            f"the model returns {meaning.kind.value}, which has no class names"
        )
    if words:
        check_names(model_names, outputs)
    numbers = [resolve_class(text, names, outputs) for text in texts]
    return numbers[0] if isinstance(target, str) else numbers


def _named_answer_score(
    tensor: Tensor, target: str | list[str], meaning: OutputMeaning, model: nn.Module
) -> Score:
    """Return the output of a binary model, towards the answer with the name of each image.

    A number is that of the output, 0, as in Captum; it is not the number of the answer.
    """
    texts = [target] * len(tensor) if isinstance(target, str) else target
    _check_count(len(texts), len(tensor))
    model_names = class_names(model)
    check_names(model_names, 1, binary=True)
    names = binary_names(model_names)
    answers = [
        1 + resolve_class(text, (), 1) if is_number(text, names) else resolve_class(text, names)
        for text in texts
    ]
    flat = tensor.reshape(len(tensor))
    numbers = torch.tensor(answers, device=flat.device)
    if all(answers) and tensor.ndim == 2:
        return Score(flat, torch.zeros_like(numbers))
    predicted = meaning.predicted(tensor.detach())
    if predicted is not None and torch.equal(numbers, predicted):
        return _default_score(tensor, meaning)
    label = names[answers[0]] if len(set(answers)) == 1 else "the named answers"
    description = f"the model's one {meaning.unit}, towards {label}"
    return Score(flat * (2 * numbers - 1).to(flat), None, description)


def _default_weights(tensor: Tensor, meaning: OutputMeaning) -> Tensor:
    """Return the weights (B, K) of the outputs whose weighted sum is the score of target None."""
    flat = tensor.reshape(len(tensor), -1)
    if meaning.kind is OutputKind.FEATURES:
        return _unit_direction(flat)
    if meaning.is_binary(flat.shape[1]):
        predicted = meaning.predicted(flat)
        assert predicted is not None
        return (2 * predicted[:, None] - 1).to(flat)
    return torch.ones_like(flat) / flat.shape[1]


def _with_plain_integers(target: Any) -> Any:
    """Convert the arrays, series, 0-d tensors and NumPy integers of a target to plain integers."""
    if isinstance(target, tuple):
        return tuple(_plain_integer(index) for index in target)
    if isinstance(target, list):
        return [
            _with_plain_integers(item) if isinstance(item, tuple) else _plain_integer(item)
            for item in target
        ]
    if isinstance(target, Tensor) or hasattr(target, "__array__"):
        if getattr(target, "dtype", None) in (torch.bool, np.dtype(bool)):
            raise TargetError("target: expected class numbers, got booleans")
        shape = tuple(np.shape(target) if not isinstance(target, Tensor) else target.shape)
        if len(shape) > 1:
            raise TargetError(f"target: expected whole numbers (B,), got shape {shape}")
        try:
            return as_integers(target, "target")
        except LabelError as error:
            got = getattr(target, "dtype", type(target).__name__)
            raise TargetError(f"target: expected whole numbers (B,), got {got} {shape}") from error
    return target


def _plain_integer(value: Any) -> Any:
    """Convert a NumPy integer, or a 0-d integer tensor or array, to a Python integer."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        number = value.item()
        return number if isinstance(number, int) else value
    return value


def _on_device(target: Any, tensor: Tensor) -> Any:
    return target.to(tensor.device) if isinstance(target, Tensor) else target


def check_batch(tensor: Tensor, batch: int) -> None:
    """Raise UnsupportedModelError if an output does not have one row per image."""
    if len(tensor) != batch:
        raise UnsupportedModelError(
            f"model output: expected a row for each of {batch} images, got {tuple(tensor.shape)} — "
            "wrap the model so that it returns its logits (B, …)"
        )


def _unit_direction(features: Tensor) -> Tensor:
    """Return the direction (B, D) of each image's features, with length 1."""
    flat = features.flatten(1)
    length = flat.detach().float().norm(dim=1)
    rounding = min(max(8 * torch.finfo(flat.dtype).eps, 1e-6), 0.01)
    if bool(((length - 1).abs() < rounding).all()):
        raise TargetError(
            "target: expected a target for features of length 1, got None — their length along "
            "their own direction is constant; give a function of the output, such as the "
            "similarity to a text embedding"
        )
    return torch.nn.functional.normalize(flat.detach(), dim=1)


def _call_per_image(tensor: Tensor, functions: list[Any]) -> Tensor:
    """Call one function per image with that image's output: (B,)."""
    if len(functions) != len(tensor):
        raise TargetError(
            f"target: expected {len(tensor)} functions, one per image, got {len(functions)} — "
            "or give a single function of the whole output"
        )
    values = []
    for function, output in zip(functions, tensor, strict=True):
        value = function(output)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.reshape(())
        values.append(_check_values(value, torch.Size(), "a single number for one image"))
    return torch.stack(values)


def _check_values(values: Any, shape: torch.Size, expected: str) -> Tensor:
    """Return the result of a target function; raise if it cannot be differentiated."""
    if not isinstance(values, Tensor):
        raise TargetError(
            f"target: expected a function that returns a tensor, got {type(values).__name__} — "
            "compute it with torch, without .item() or numpy"
        )
    if values.shape != shape:
        raise TargetError(
            f"target: expected a function that returns {expected}, {tuple(shape)}, got "
            f"{tuple(values.shape)} — sum over the other axes; functions of one image's output "
            "go into a list"
        )
    if not values.is_floating_point():
        raise TargetError(
            f"target: expected a function that returns real numbers, got {values.dtype} — "
            "counts and classes have no gradient"
        )
    if torch.is_grad_enabled() and not values.requires_grad:
        raise TargetError(
            "target: expected a function of the model's output, got numbers without a gradient — "
            "compute them from its argument, without detach or no_grad"
        )
    if not bool(values.isfinite().all()):
        raise TargetError(
            "target: expected a function that returns finite numbers, got NaN or infinity — "
            "check it on the model's output"
        )
    return values


def _function_name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_target(output: Tensor, target: TargetLike) -> None:
    batch, shape = output.shape[0], tuple(output.shape)
    items: list[Any]
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.ndim > 1:
            raise TargetError(
                f"target: expected whole numbers (B,), got {target.dtype} {tuple(target.shape)}"
            )
        items = target.reshape(-1).tolist()
        is_single = len(items) == 1
    elif isinstance(target, list):
        items, is_single = target, False
    else:
        items, is_single = [target], True
    if not is_single:
        _check_count(len(items), batch)
    for item in items:
        indices = item if isinstance(item, tuple) else (item,)
        if not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
            raise TargetError(
                f"target: expected a class number or name, a tuple of indices, a list, a 1-D "
                f"tensor or a function, got {reprlib.repr(item)} of type {type(item).__name__}"
            )
        if len(indices) != output.ndim - 1:
            raise TargetError(
                f"target: expected {output.ndim - 1} indices for an output of shape {shape}, "
                f"got {reprlib.repr(item)}"
            )
        for index, size in zip(indices, shape[1:], strict=True):
            if not 0 <= index < size:
                raise TargetError(
                    f"target: expected 0 to {size - 1} for an output of shape {shape}, got {index}"
                )


def _check_count(count: int, batch: int) -> None:
    if count != batch:
        raise TargetError(
            f"target: expected {batch} targets, one per image, got {count} — "
            "or give a single class for all images"
        )


def _classes(output: Tensor, target: TargetLike) -> Tensor | None:
    if output.ndim != 2:
        return None
    classes = [item[0] if isinstance(item, tuple) else item for item in _as_list(target)]
    return torch.tensor(classes, dtype=torch.long, device=output.device).expand(len(output)).clone()


def _as_list(target: TargetLike) -> list[Any]:
    if isinstance(target, Tensor):
        return target.reshape(-1).tolist()
    return target if isinstance(target, list) else [target]
