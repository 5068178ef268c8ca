"""Weights of a model in a file of any common wrapping.

Training scripts wrap a state dict in others (``state_dict``, ``model``, ``state_dict_ema``), and
its keys in prefixes (``module.``, ``_orig_mod.``, ``backbone.``). The keys of the model decide
which tensors of the file are its weights. This module builds no model.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .unpickling import read_file
from .weight_sets import State, Weights, complete_sets, fewest_missing, is_in
from .weights import WeightsError

WHOLE_FILE = "."  # label of weights that no dict and no prefix holds
DEPTH = 3  # of dicts in dicts


def split_choice(checkpoint: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the path and the label of ``FILE#LABEL``; a file that has this whole name comes first.

    Examples
    --------
    >>> split_choice("last.pth#state_dict_ema")
    (PosixPath('last.pth'), 'state_dict_ema')
    """
    path, text = Path(checkpoint), os.fspath(checkpoint)
    if "#" not in text or path.exists():
        return path, ""
    file, _, label = text.rpartition("#")
    return Path(file), label


def read_states(path: Path) -> list[State]:
    """Return every dict of tensors in a file, with the keys of the dicts that it lies in.

    Raises
    ------
    WeightsError
        For a file that cannot be read, see `read_file`, and one without such a dict.
    """
    content = read_file(path)
    states = list(_states(content))
    if not states:
        raise WeightsError(
            f"checkpoint: expected a dict of tensors, got {type(content).__name__} in "
            f"{str(path)!r} — save model.state_dict()"
        )
    return states


def find_weights(
    states: Sequence[State], path: Path, label: str, name: str,
    shapes: Mapping[str, Sequence[int]], classifiers: Sequence[str],
) -> Weights:  # fmt: skip
    """Find the weights of a model in the dicts of a file.

    Parameters
    ----------
    states, path : the dicts of a file, see `read_states`, and the file
    label : of the set of weights, where the file holds several; "" for none
    name : of the model, for messages
    shapes : of each weight of the model, by its key
    classifiers : keys of the modules that give the classes; the file may lack them

    Raises
    ------
    WeightsError
        For a file with no set of weights of the model, and with several where none is chosen.
    """
    body = {key: tuple(shape) for key, shape in shapes.items() if not is_in(key, classifiers)}
    complete = [
        weights for state in states for weights in complete_sets(*state, body, shapes, classifiers)
    ]
    if not complete:
        raise _differs(path, name, "lacks", fewest_missing(states, body))
    explained = [weights for weights in complete if not weights.unknown] or complete
    fitting = [
        weights for weights in explained if _first_misfit(weights.tensors, body) is None
    ] or explained
    chosen = _choose(fitting, label, path, name)
    if chosen.unknown:
        raise _differs(path, name, "has unknown", chosen.unknown)
    for key, tensor in chosen.tensors.items():
        if not _is_whole(tensor):
            raise WeightsError(
                f"checkpoint: expected real numbers for each place of {key!r}, got {tensor.dtype} "
                f"{tuple(tensor.shape)} without in {str(path)!r} — save model.state_dict()"
            )
    return chosen


def check_weights(
    weights: Weights, path: Path, name: str, shapes: Mapping[str, Sequence[int]], prefix_tokens: int
) -> None:
    """Raise WeightsError unless the weights are those of the model, key by key, of its shapes.

    Parameters
    ----------
    weights, path, name, shapes : as for `find_weights`
    prefix_tokens : of the model, before the patches in `pos_embed`
    """
    for kind, keys in (
        ("lacks", shapes.keys() - weights.tensors.keys()),
        ("has unknown", weights.tensors.keys() - shapes.keys()),
    ):
        if keys:
            raise _differs(path, name, kind, sorted(keys))
    key = _first_misfit(weights.tensors, shapes)
    if key is None:
        return
    expected, got = tuple(shapes[key]), tuple(weights.tensors[key].shape)
    sizes, advice = "", "name the architecture it was saved from"
    if key.rpartition(".")[2] == "pos_embed" and len(expected) == len(got) == 3:
        sides = [round(max(0, size[1] - prefix_tokens) ** 0.5) for size in (expected, got)]
        if expected[2] == got[2] and got[1] == sides[1] ** 2 + prefix_tokens:
            sizes = f", so {sides[1]}x{sides[1]} patches in place of {sides[0]}x{sides[0]},"
            advice = "name the architecture of that image size"
    raise WeightsError(
        f"checkpoint: expected {key} {expected} for {name!r}, got {got}{sizes} in {path} — {advice}"
    )


def _states(content: Any, entry: str = "", depth: int = 0) -> Iterator[State]:
    """Yield every dict in a file that holds tensors by names."""
    if not isinstance(content, dict) or depth > DEPTH:
        return
    named = {key: item for key, item in content.items() if isinstance(key, str)}
    tensors = {key: item for key, item in named.items() if isinstance(item, Tensor)}
    if tensors:
        yield entry, tensors
    for key, item in named.items():
        yield from _states(item, f"{entry}.{key}" if entry else key, depth + 1)


def _first_misfit(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return the first key whose tensor is not of the model's shape."""
    for key, shape in shapes.items():
        if key in tensors and tuple(tensors[key].shape) != tuple(shape):
            return key
    return None


def _distinct(sets: Sequence[Weights]) -> list[Weights]:
    """Return the sets whose tensors differ from those of every earlier one."""
    distinct: list[Weights] = []
    for weights in sets:
        if not any(_are_equal(weights.tensors, other.tensors) for other in distinct):
            distinct.append(weights)
    return distinct


def _are_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    if first.keys() != second.keys():
        return False
    return all(
        tensor is second[key]
        or (
            _is_whole(tensor) and _is_whole(second[key])
            and tensor.dtype == second[key].dtype and torch.equal(tensor, second[key])
        )
        for key, tensor in first.items()
    )  # fmt: skip


def _labels(sets: Sequence[Weights]) -> list[str]:
    """Return what chooses each set: its entry, where that is enough; else its whole place."""
    counts = Counter(weights.entry for weights in sets)
    return [
        (weights.entry if weights.entry and counts[weights.entry] == 1 else weights.label)
        or WHOLE_FILE
        for weights in sets
    ]


def _choose(sets: list[Weights], label: str, path: Path, name: str) -> Weights:
    """Return the set with that label; without one, the only set."""
    if not label:
        sets = _distinct(sets)
    labels = _labels(sets)
    chosen = [
        weights
        for weights, shown in zip(sets, labels, strict=True)
        if label in (shown, weights.label)
    ]
    if label and not chosen:
        chosen = [weights for weights in sets if f".{label}." in f".{weights.label}."]
    chosen = _distinct(chosen) if label else sets
    if len(chosen) == 1:
        number = next(n for n, weights in enumerate(sets) if weights is chosen[0])
        also = tuple(labels[:number] + labels[number + 1 :])
        return replace(chosen[0], chosen_by=labels[number], also=also)
    choices = " or ".join(f"{path}#{choice}" for choice in labels)
    if not chosen:
        raise WeightsError(
            f"checkpoint: expected weights of {name!r} in {str(path)!r}, got none called "
            f"{label!r} — give {choices}"
        )
    raise WeightsError(
        f"checkpoint: expected one set of weights of {name!r}, got {len(chosen)} in "
        f"{str(path)!r} — give {choices}"
    )


def _differs(path: Path, name: str, kind: str, keys: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"checkpoint: expected the weights of {name!r}, got {path}, which {kind} "
        f"{min(keys)!r} (and {len(keys) - 1} more) — name the architecture it is from"
    )


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor holds as many real numbers as its shape says."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    held = tensor.untyped_storage().nbytes()
    return not tensor.is_complex() and tensor.numel() * tensor.element_size() <= held
