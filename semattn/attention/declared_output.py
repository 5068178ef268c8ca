"""Output properties that a model declares: classes, problem type, parts without a classifier."""

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
    """Return whether the model, or the part that returns the output, declares no classifier."""
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
        and any(module is layer for module in part.modules())
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
    """Return whether a layer is inside the attribute that a part of a model names as its head."""
    heads = [getattr(part, name, None) for name in ("head", "fc", "classifier", "heads")]
    return any(
        isinstance(head, nn.Module) and any(module is layer for module in head.modules())
        for head in heads
    )


def declared_classes(model: nn.Module | None) -> int | None:
    """Return the number of classes that a model or its config declares."""
    if model is None:
        return None
    names = class_names(model)
    for holder, name in ((model, "num_classes"), (getattr(model, "config", None), "num_labels")):
        count = getattr(holder, name, None)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    return None if names is None else len(names)


def stated_problem(model: nn.Module | None) -> OutputKind | None:
    """Return the output kind of the `problem_type` of the model or of a part of it."""
    if model is None:
        return None
    for part in model.modules():
        for holder in (part, getattr(part, "config", None)):
            problem = getattr(holder, "problem_type", None)
            if problem in _PROBLEMS:
                return _PROBLEMS[problem]
    return None


def is_projection(model: nn.Module | None, layer: nn.Module) -> bool:
    """Return whether the name of a layer contains "proj" or "embed", as in CLIP."""
    modules = () if model is None else model.named_modules()
    names = [name.rpartition(".")[2] for name, module in modules if module is layer]
    return any("proj" in name or "embed" in name for name in names)
