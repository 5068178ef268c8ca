"""Reads what a model states of its output: classes, problem type, parts without a classifier."""

from __future__ import annotations

from torch import nn

from ..targets import OutputKind
from ..utils.class_names import class_names
from .output_watch import Call

_PROBLEMS = {
    "multi_label_classification": OutputKind.MULTI_LABEL_LOGITS,
    "regression": OutputKind.REGRESSION,
    "single_label_classification": OutputKind.CLASS_LOGITS,
}


def declares_features(model: nn.Module | None, last: Call | None, outputs: int, raw: bool) -> bool:
    """Return whether the model, or the part that makes the output, says it has no classifier."""
    if model is None:
        return False
    if is_tower(model):
        return True
    layer = None if last is None else last[0]
    if getattr(model, "num_classes", None) == 0:
        return not (raw and _is_classifier_of(model, layer))
    if last is None or not (raw or last[1].shape[-1] == outputs):
        return False
    return any(
        getattr(part, "num_classes", None) == 0
        and any(one is layer for one in part.modules())
        and not (raw and _is_classifier_of(part, layer))
        for part in model.modules()
    )


def is_tower(model: nn.Module | None) -> bool:
    """Return whether a model is an image tower of CLIP, or a whole model of OpenCLIP."""
    if model is None:
        return False
    projects = hasattr(model, "output_dim") and hasattr(model, "proj")
    return projects or type(model).__module__.startswith("open_clip.")


def _is_classifier_of(part: nn.Module, layer: nn.Module | None) -> bool:
    """Return whether a layer lies in what a part of a model calls its head."""
    heads = [getattr(part, name, None) for name in ("head", "fc", "classifier", "heads")]
    return any(
        isinstance(head, nn.Module) and any(one is layer for one in head.modules())
        for head in heads
    )


def declared_classes(model: nn.Module | None) -> int | None:
    """The number of classes that a model states, in itself or its config."""
    if model is None:
        return None
    names = class_names(model)
    for holder, name in ((model, "num_classes"), (getattr(model, "config", None), "num_labels")):
        count = getattr(holder, name, None)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    return None if names is None else len(names)


def stated_problem(model: nn.Module | None) -> OutputKind | None:
    """The kind that the `problem_type` of the model, or of a part of it, states."""
    if model is None:
        return None
    for part in model.modules():
        for holder in (part, getattr(part, "config", None)):
            stated = getattr(holder, "problem_type", None)
            if stated in _PROBLEMS:
                return _PROBLEMS[stated]
    return None


def is_projection(model: nn.Module | None, layer: nn.Module) -> bool:
    """Return whether a model calls a layer a projection or an embedding, as CLIP does."""
    modules = () if model is None else model.named_modules()
    names = [name.rpartition(".")[2] for name, module in modules if module is layer]
    return any("proj" in name or "embed" in name for name in names)
