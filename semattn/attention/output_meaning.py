"""Kind of a model's output: class logits, one logit, probabilities, features, and so on.

The decision uses the names in the output, the declarations of the model, the last layer that ran in
the pass (see `model_pass`), and the values. If these do not determine the kind, the meaning has a
note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..targets import OutputKind, OutputMeaning
from ..utils.class_names import class_names
from .model_pass import (
    LINEAR,
    LayerCall,
    OutputWatch,
    current_watch,
    note_meaning,
    watch_output,
    width,
)

_PROBLEMS = {
    "multi_label_classification": OutputKind.MULTI_LABEL_LOGITS,
    "regression": OutputKind.REGRESSION,
    "single_label_classification": OutputKind.CLASS_LOGITS,
}


def declares_features(
    model: nn.Module | None, last: LayerCall | None, outputs: int, raw: bool
) -> bool:
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


# Names of entries in the outputs of libraries; the first that is present is the output.
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
_ADVICE = (
    "set model.problem_type, or give a function of the output as target, if it is something else"
)


def predict(model: nn.Module, *args: Any) -> tuple[Tensor, OutputMeaning]:
    """Call a model once and return its output tensor and the meaning of the output."""
    with watch_output(model):
        return read_output(model(*args), model)


def read_output(output: Any, model: nn.Module | None = None) -> tuple[Tensor, OutputMeaning]:
    """Return the tensor (B, …) in the output of a model, and its meaning.

    Inside `watch_output` the meaning is decided once, from the first output.

    Raises
    ------
    UnsupportedModelError
        For an output without a tensor, or with several tensors that may be the logits.
    """
    watch = current_watch(model)
    model = model if model is not None or watch is None else watch.model
    if watch is not None and watch.meaning is not None:
        return part_of(output, watch.meaning), watch.meaning
    part, tensor, refusal = _choose(output, model, watch)
    meaning = replace(_decide(part, tensor, model, watch), part=part, refusal=refusal)
    if watch is not None:
        watch.decide(meaning)
        note_meaning(model, meaning)
    return tensor, meaning


def part_of(output: Any, meaning: OutputMeaning) -> Tensor:
    """Return the tensor of another output of the same model."""
    part = output
    if isinstance(output, Tensor):
        return output
    if isinstance(meaning.part, str):
        part = _entry(output, meaning.part)
    elif meaning.part is not None:
        part = _values(output)[meaning.part]
    if not isinstance(part, Tensor):
        raise _no_tensor(output)
    return part


def _choose(
    output: Any, model: nn.Module | None, watch: OutputWatch | None
) -> tuple[str | int | None, Tensor, str]:
    """Return the part of an output to explain, its tensor, and a refusal if it is ambiguous."""
    if isinstance(output, Tensor):
        if not output.ndim:
            raise _no_tensor(output)
        return None, output, ""
    for name in (*LOGITS, *FEATURES):
        value = _entry(output, name)
        if isinstance(value, Tensor) and value.ndim:
            return name, value, ""
    tensors = [
        (place, value)
        for place, value in enumerate(_values(output))
        if isinstance(value, Tensor) and value.ndim
    ]
    if not tensors:
        raise _no_tensor(output)
    if len(tensors) == 1 or watch is None or is_tower(model):
        return *tensors[0], ""
    return _choose_unnamed(tensors, model, watch)


def _choose_unnamed(
    tensors: list[tuple[int, Tensor]], model: nn.Module | None, watch: OutputWatch
) -> tuple[int, Tensor, str]:
    """Return the only one of several unnamed tensors that a classifier returned; else the first."""
    matrices = [
        (place, tensor)
        for place, tensor in tensors
        if tensor.is_floating_point() and tensor.ndim == 2
    ]
    from_head = [
        (place, tensor)
        for place, tensor in matrices
        if any(_same(tensor, result) for _, result in watch.heads)
    ]
    candidates = from_head or matrices
    if len(candidates) > 1:
        classes = declared_classes(model)
        fitting = [(place, tensor) for place, tensor in candidates if tensor.shape[1] == classes]
        candidates = fitting if len(fitting) == 1 else candidates
    if len(candidates) == 1 and (from_head or len(matrices) > 1):
        return *candidates[0], ""
    if len(candidates) < 2 or all(_same(tensor, candidates[0][1]) for _, tensor in candidates):
        return *(candidates[0] if from_head else tensors[0]), ""
    shapes = " and ".join(str(tuple(tensor.shape)) for _, tensor in candidates)
    refusal = (
        f"model output: expected one tensor of logits, got {shapes} — wrap the model so that it "
        "returns one of them, or give a function of the output as target"
    )
    return *candidates[0], refusal


def _decide(
    part: str | int | None, tensor: Tensor, model: nn.Module | None, watch: OutputWatch | None
) -> OutputMeaning:
    """Return the meaning of the output `tensor`."""
    if part in FEATURES:
        return OutputMeaning(OutputKind.FEATURES)
    if tensor.ndim > 2:
        return OutputMeaning(OutputKind.DENSE)
    outputs, is_named = width(tensor), part in LOGITS
    last, raw = _last_layer(part, tensor, watch)
    problem = stated_problem(model)
    if problem is OutputKind.REGRESSION:
        return OutputMeaning(problem)
    if not is_named and declares_features(model, last, outputs, raw):
        return OutputMeaning(OutputKind.FEATURES)
    from_features = not is_named and _comes_from_features(tensor, model, watch, last, raw)
    in_unit = not raw and _in_unit_interval(tensor)
    bounded = _bounded(tensor, last, from_features) if in_unit else None
    if bounded is not None:
        return bounded
    if problem is not None and outputs > 1:
        return OutputMeaning(problem)
    if from_features:
        return OutputMeaning(
            OutputKind.FEATURES,
            f"The output of {outputs} numbers is treated as features: no classifier produced it.",
        )
    is_known = is_named or outputs == declared_classes(model)
    return _logits(outputs, is_known or _is_classifier(last, in_unit))


def _logits(outputs: int, is_known: bool) -> OutputMeaning:
    """Return the meaning of an output of logits, with a note if that is an assumption."""
    if outputs == 1:
        return OutputMeaning(
            OutputKind.ONE_LOGIT,
            "The output is treated as the logit of a binary model: the head has 1 output. "
            "For a regression, set model.problem_type = 'regression'.",
        )
    if is_known:
        return OutputMeaning(OutputKind.CLASS_LOGITS)
    return OutputMeaning(
        OutputKind.CLASS_LOGITS,
        f"The output is treated as the logits of {outputs} classes: neither its last layer nor the "
        f"model declares its kind; {_ADVICE}.",
    )


def _last_layer(
    part: str | int | None, tensor: Tensor, watch: OutputWatch | None
) -> tuple[LayerCall | None, bool]:
    """Return the layer that returned the output, if known, and whether it is linear and last."""
    if watch is None or not watch.calls:
        return None, False
    if isinstance(part, int):  # in a tuple, layers of the other parts may have run later
        calls = [call for call in watch.heads if _same(tensor, call[1])]
        if calls:
            return calls[-1], True
    last = watch.calls[-1]
    return last, isinstance(last[0], LINEAR) and (
        _same(tensor, last[1]) or _is_mean_of_heads(tensor, watch)
    )


def _is_mean_of_heads(tensor: Tensor, watch: OutputWatch) -> bool:
    """Return whether an output is the mean of several classifiers, as in distilled DeiT."""
    results = [result for _, result in watch.heads if result.numel() == tensor.numel()]
    if len(results) < 2:
        return False
    flat = [result.detach().reshape(-1).to(tensor) for result in results[-2:]]
    mean = torch.stack(flat).mean(dim=0)
    return torch.allclose(tensor.detach().reshape(-1), mean, rtol=1e-2, atol=1e-3)


def _is_classifier(last: LayerCall | None, in_unit: bool) -> bool:
    """Return whether the last layer is linear with a bias; True without a layer."""
    if last is None:
        return True
    return isinstance(last[0], LINEAR) and last[0].bias is not None and not in_unit


def _in_unit_interval(tensor: Tensor) -> bool:
    """Return whether all values lie between 0 and 1, and some differ from 0."""
    return bool(((tensor >= 0) & (tensor <= 1)).all()) and bool(tensor.any())


def _bounded(tensor: Tensor, last: LayerCall | None, from_features: bool) -> OutputMeaning | None:
    """Return the meaning of values between 0 and 1; None if they are not probabilities."""
    values = tensor.detach().double()
    tolerance = 0.01 if tensor.dtype in (torch.float16, torch.bfloat16) else 1e-3
    sums = values.reshape(len(values), -1).sum(dim=1)
    if width(values) > 1 and bool(((sums - 1).abs() < tolerance).all()):
        return OutputMeaning(
            OutputKind.PROBABILITIES,
            "The output is treated as probabilities: each row sums to 1, as after a softmax.",
        )
    if last is None or from_features:
        return None
    layer, result = last
    # Results of a linear layer outside the interval were mapped into it.
    unmapped = isinstance(layer, LINEAR) and _in_unit_interval(result)
    if unmapped and not _is_sigmoid_of(values, result):
        return None
    return OutputMeaning(
        OutputKind.INDEPENDENT_PROBABILITIES,
        "The output is treated as independent probabilities, as after a sigmoid: "
        "each value is between 0 and 1.",
    )


def _is_sigmoid_of(values: Tensor, result: Tensor) -> bool:
    """Return whether values are the sigmoid of the result of the last linear layer."""
    if result.numel() != values.numel():
        return False
    expected = result.detach().double().sigmoid().reshape(-1)
    return bool(((expected - values.reshape(-1)).abs() < 0.01).all())


def _comes_from_features(
    tensor: Tensor,
    model: nn.Module | None,
    watch: OutputWatch | None,
    last: LayerCall | None,
    raw: bool,
) -> bool:
    """Return whether the last layer is not a classifier and has the width of the output."""
    outputs = width(tensor)
    if watch is None or last is None or outputs in (1, declared_classes(model)):
        return False
    layer, result = last
    if isinstance(layer, LINEAR):
        if raw or result.numel() == len(result) * width(result):
            return raw and layer.bias is None and is_projection(model, layer)
        return result.shape[-1] == outputs and not _pooled(tensor, result)
    if not _keeps_width(layer) or _follows_head(watch, result):
        return False
    return outputs == (result.shape[1] if result.ndim == 4 else result.shape[-1])


def _keeps_width(layer: nn.Module) -> bool:
    """Return whether a layer is a norm, a pool or an activation."""
    if "Linear" in type(layer).__name__ or isinstance(
        layer, nn.Softmax | nn.LogSoftmax | nn.Sigmoid
    ):
        return False
    return all(parameter.ndim < 2 for parameter in layer.parameters(recurse=False))


def _follows_head(watch: OutputWatch, result: Tensor) -> bool:
    """Return whether the last layer is an activation of the result of a classifier."""
    if len(watch.calls) < 2 or not watch.heads or watch.heads[-1] is not watch.calls[-2]:
        return False
    return watch.heads[-1][1].shape == result.shape


def _pooled(tensor: Tensor, result: Tensor) -> bool:
    """Return whether an output (B, K) is one token or the mean of logits (B, N, K)."""
    if tensor.ndim != 2 or result.ndim != 3 or len(result) != len(tensor):
        return False
    if bool((result == tensor[:, None]).all(dim=2).any()):
        return True
    means = [result[:, start:].mean(dim=1) for start in range(min(result.shape[1], 6))]
    return any(torch.allclose(tensor.to(mean), mean, rtol=1e-3, atol=1e-4) for mean in means)


def _same(tensor: Tensor, result: Tensor) -> bool:
    """Return whether two tensors hold the same numbers, up to axes of length 1."""
    if tensor is result:
        return True
    if tensor.numel() != result.numel() or not result.ndim or len(tensor) != len(result):
        return False
    return torch.equal(tensor.detach().reshape(-1), result.detach().reshape(-1).to(tensor))


def _entry(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _values(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, list | tuple) else []


def _no_tensor(output: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        "model output: expected a tensor (B, …) or a result that holds one, "
        f"got {type(output).__name__} — wrap the model so that it returns its logits"
    )
