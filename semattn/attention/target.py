"""From what a model returns to one number an image that is explained.

A target is what Captum takes: a class number, one a sample (list or 1-D tensor), a tuple of
indices into an output of more axes, or a list of such tuples. It may also be a function of the
output, or a list of functions, one an image. None is the class that the model predicts; for a
model without a classifier it is the direction of its own feature vector.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from captum._utils.common import _select_targets
from torch import Tensor, nn

from ..errors import TargetError, UnsupportedModelError

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

# What libraries call the entries of their outputs; the first that is there is taken.
LOGITS = ("logits", "logits_per_image")
FEATURES = (
    "image_embeds",
    "image_features",
    "pooler_output",
    "x_norm_clstoken",
    "last_hidden_state",
    "features",
    "embeddings",
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
    """The tensor (B, …) of a model's output: itself, its logits, its features, or its first."""
    return _named_tensor(output)[1]


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
    name, tensor = _named_tensor(output)
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
    if target is None:
        if _has_no_classes(name, model):
            of = f" ({name})" if name else ""
            return Score(_own_direction(tensor), None, f"the model's own feature direction{of}")
        if tensor.ndim == 1:
            return Score(tensor, None, "the model's one output")
        if tensor.ndim != 2:
            raise TargetError(
                f"target: expected one for an output of shape {tuple(tensor.shape)}, got None — "
                "only an output (B, classes) has a predicted class; give an index for every axis, "
                "or a function of the output"
            )
        if not tensor.shape[1]:
            raise TargetError(
                f"target: expected an output of one class at least, got {tuple(tensor.shape)}"
            )
        target = tensor.detach().argmax(dim=1)
    _check(tensor, target)
    chosen = _select_targets(tensor, target)
    if chosen.shape != tensor.shape[:1]:
        raise TargetError(
            f"target: expected one number an image, got {reprlib.repr(target)} which selects "
            f"{tuple(chosen.shape)} of {tuple(tensor.shape)} — give an index for every axis"
        )
    classes = _classes(tensor, target)
    explains = f"the output at {reprlib.repr(target)}" if classes is None else ""
    return Score(chosen, classes, explains)


def check_batch(tensor: Tensor, batch: int) -> None:
    """Raise UnsupportedModelError unless an output has a row for each of the images."""
    if len(tensor) != batch:
        raise UnsupportedModelError(
            f"model output: expected a row for each of {batch} images, got {tuple(tensor.shape)} — "
            "wrap the model so that it returns its logits (B, …)"
        )


def _named_tensor(output: Any) -> tuple[str, Tensor]:
    """The tensor (B, …) that targets point into, and its name where the output gives it one."""
    values: list[Any] = []
    if isinstance(output, Tensor):
        values = [output]
    elif isinstance(output, Mapping):
        values = list(output.values())
    elif isinstance(output, list | tuple):
        values = list(output)
    for name in (*LOGITS, *FEATURES):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor) and value.ndim:
            return name, value
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            return "", value
    raise UnsupportedModelError(
        f"model output: expected a tensor (B, …) or a result that holds one, "
        f"got {type(output).__name__} — wrap the model so that it returns its logits"
    )


def _has_no_classes(name: str, model: nn.Module) -> bool:
    """Whether the output is features: by its name, else by what the model says of itself."""
    if name:
        return name in FEATURES
    if getattr(model, "num_classes", None) == 0:
        return True
    # CLIP's image towers project to the space of the text; OpenCLIP's whole models return that.
    tower = hasattr(model, "output_dim") and hasattr(model, "proj")
    return tower or type(model).__module__.startswith("open_clip.")


def _own_direction(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    length = flat.detach().float().norm(dim=1)
    rounding = min(max(8 * torch.finfo(flat.dtype).eps, 1e-6), 0.01)
    if bool(((length - 1).abs() < rounding).all()):
        raise TargetError(
            "target: expected one for features that are all of length 1, got None — along their "
            "own direction they never change; give a function of the output, such as the "
            "similarity to a text embedding"
        )
    direction = torch.nn.functional.normalize(flat.detach(), dim=1)
    return (flat * direction).sum(dim=1)


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
