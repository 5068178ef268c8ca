"""Weights of a model in a file of any common wrapping.

Training scripts wrap a state dict in others (``state_dict``, ``model``, ``state_dict_ema``), and
its keys in prefixes (``module.``, ``_orig_mod.``, ``backbone.``). The keys of the model decide
which tensors of the file are its weights. This module builds no model.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .unpickling import read_file
from .weights import WeightsError

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of keys
PLAIN_ENTRIES = ("", "state_dict", "model")  # where weights are expected
WHOLE_FILE = "."  # label of weights that no dict and no prefix holds
DEPTH = 3  # of dicts in dicts
SHOWN = 3  # keys that a note lists

# First parts of keys that are no weights of a classifier or backbone, where the model has none.
OTHER_PARTS = re.compile(
    r"(decoder|mask_token|projector|projection_head|predictor|prototypes|queue|criterion|loss|"
    r"model_ema|ema|teacher|momentum|optimizer|aux_|metrics?|(train|val|test)_acc|n_averaged)"
)
State: TypeAlias = tuple[str, dict[str, Tensor]]  # keys of the dicts that it lies in, tensors
_EMA = re.compile(r"(^|[._])ema([._]|$)")


@dataclass(frozen=True)
class Weights:
    """One set of tensors in a file that has every key of a model, but for its classifier.

    Parameters
    ----------
    entry : keys of the dicts that hold the set, joined by dots; "" for the file itself
    prefix : of the keys in the file
    tensors : by the keys of the model
    ignored : other keys of the entry
    unknown : other keys with that prefix that no known part of a training run explains
    chosen_by : label of this set, as in FILE#LABEL
    also : labels of the other sets in the file
    outside : keys of the classifier in the file, where they lie outside `prefix`
    """

    entry: str
    prefix: str
    tensors: dict[str, Tensor] = field(repr=False)
    ignored: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    chosen_by: str = ""
    also: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The whole place of this set in the file."""
        return ".".join(part for part in (self.entry, self.prefix.rstrip(".")) if part)

    def note(self, has_classifier: bool) -> str:
        """Return what was assumed, in one line; "" for a plain state dict."""
        said = []
        is_ema = _EMA.search(self.label) is not None
        if self.also or is_ema or self.entry not in PLAIN_ENTRIES:
            others = " and ".join(map(repr, self.also))
            more = [*["EMA"] * is_ema, *[f"the file also holds {others}"] * bool(others)]
            said.append(f"weights of {self.chosen_by!r}" + f" ({'; '.join(more)})" * bool(more))
        if self.prefix:
            said.append(f"prefix {self.prefix!r} removed")
        if self.outside:
            said.append(f"{' and '.join(self.outside)} taken as the classifier")
        if self.ignored:
            some = ", ".join(self.ignored[:SHOWN]) + ", …" * (len(self.ignored) > SHOWN)
            many = f"{len(self.ignored)} other tensor{'s' * (len(self.ignored) > 1)}"
            said.append(f"{many} ignored ({some})")
        if not has_classifier:
            said.append("it has no classifier: the model gives features (num_classes=0)")
        return f"checkpoint: {', '.join(said)}" if said else ""


def split_choice(given: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the path and the label of ``FILE#LABEL``; a file that has this whole name comes first.

    Examples
    --------
    >>> split_choice("last.pth#state_dict_ema")
    (PosixPath('last.pth'), 'state_dict_ema')
    """
    path, text = Path(given), os.fspath(given)
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
    body = {key: tuple(shape) for key, shape in shapes.items() if not _is_in(key, classifiers)}
    complete = [one for state in states for one in _complete(*state, body, shapes, classifiers)]
    if not complete:
        raise _differs(path, name, "lacks", _fewest_missing(states, body))
    explained = [one for one in complete if not one.unknown] or complete
    fitting = [one for one in explained if _first_misfit(one.tensors, body) is None] or explained
    chosen = _choose(_distinct(fitting), label, path, name)
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
    said, advice = "", "name the architecture it was saved from"
    if key.rpartition(".")[2] == "pos_embed" and len(expected) == len(got) == 3:
        sides = [round(max(0, size[1] - prefix_tokens) ** 0.5) for size in (expected, got)]
        if expected[2] == got[2] and got[1] == sides[1] ** 2 + prefix_tokens:
            said = f", so {sides[1]}x{sides[1]} patches in place of {sides[0]}x{sides[0]},"
            advice = "name the architecture of that image size"
    raise WeightsError(
        f"checkpoint: expected {key} {expected} for {name!r}, got {got}{said} in {path} — {advice}"
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


def _without_wrappers(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return each key of a state dict by the key without the parts that wrappers of torch add."""
    unwrapped = {_without_wrappers(key): key for key in state}
    return unwrapped if len(unwrapped) == len(state) else {key: key for key in state}


def _prefixes(keys: Mapping[str, str], body: Mapping[str, Any]) -> Counter[str]:
    """Count the keys of the model behind each prefix."""
    counts: Counter[str] = Counter()
    for key in keys:
        start = 0
        while True:
            if key[start:] in body:
                counts[key[:start]] += 1
            start = key.find(".", start) + 1
            if not start:
                break
    return counts


def _complete(
    entry: str, state: Mapping[str, Tensor], body: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]], classifiers: Sequence[str],
) -> list[Weights]:  # fmt: skip
    """Return the sets of tensors of a state dict that have every key of the model's body."""
    keys = _unwrapped(state)
    counts = _prefixes(keys, body)
    sets: dict[str, dict[str, str]] = {}  # prefix -> key of the model -> key without wrappers
    for prefix in (one for one, count in counts.items() if count == len(body)):
        sets[prefix] = {key: prefix + key for key in body}
        outer = _classifier_prefix(prefix, keys, state, shapes, classifiers)
        for key in _classifier_keys(classifiers):
            if outer is not None and outer + key in keys:
                sets[prefix][key] = outer + key
    unused = keys.keys() - {key for used in sets.values() for key in used.values()}
    weights = []
    for prefix, used in sets.items():
        nested = tuple(one for one in sets if one != prefix and one.startswith(prefix))
        unknown = [
            keys[key]
            for key in sorted(unused)
            if key.startswith(prefix) and not (nested and key.startswith(nested))
            and not _is_other_part(key.removeprefix(prefix), body, classifiers)
        ]  # fmt: skip
        outside = [key for key, own in used.items() if own != prefix + key]
        first, original = next((key, keys[own]) for key, own in used.items())
        wrapped = original.endswith(first)  # else a wrapper is inside the key
        weights.append(
            Weights(
                entry, original.removesuffix(first) if wrapped else prefix,
                {key: state[keys[own]] for key, own in used.items()},
                tuple(sorted(keys[key] for key in unused)), tuple(unknown),
                outside=tuple(keys[used[key]] for key in outside),
            )
        )  # fmt: skip
    return weights


def _classifier_keys(classifiers: Sequence[str]) -> list[str]:
    return [f"{name}.{part}" for name in classifiers for part in ("weight", "bias")]


def _classifier_prefix(
    prefix: str, keys: Mapping[str, str], state: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]], classifiers: Sequence[str],
) -> str | None:  # fmt: skip
    """Return the prefix of the classifier: the body's own, or a shorter one; None without any."""
    if not classifiers:
        return None
    weight = f"{classifiers[0]}.weight"
    if prefix + weight in keys:
        return prefix
    parts = prefix.split(".")[:-1]
    for length in range(len(parts) - 1, -1, -1):
        outer = "".join(f"{part}." for part in parts[:length])
        if outer + weight in keys:
            shape, expected = state[keys[outer + weight]].shape, shapes.get(weight)
            fits = len(shape) == 2 and (expected is None or shape[1] == expected[1])
            return outer if fits else None
    return None


def _is_in(key: str, modules: Sequence[str]) -> bool:
    return any(key.startswith(f"{name}.") for name in modules)


def _is_other_part(key: str, body: Mapping[str, Any], classifiers: Sequence[str]) -> bool:
    """Return whether a key, without its prefix, is of a part that the model does not use."""
    first = key.partition(".")[0]
    if _is_in(key, classifiers):  # a projector in place of the classifier
        return key not in _classifier_keys(classifiers)
    if any(own.partition(".")[0] == first for own in body):
        return False
    return OTHER_PARTS.match(key) is not None


def _first_misfit(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return the first key whose tensor is not of the model's shape."""
    for key, shape in shapes.items():
        if key in tensors and tuple(tensors[key].shape) != tuple(shape):
            return key
    return None


def _distinct(sets: Sequence[Weights]) -> list[Weights]:
    """Return the sets whose tensors differ from those of every earlier one."""
    distinct: list[Weights] = []
    for one in sets:
        if not any(_are_equal(one.tensors, other.tensors) for other in distinct):
            distinct.append(one)
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
    counts = Counter(one.entry for one in sets)
    return [
        (one.entry if one.entry and counts[one.entry] == 1 else one.label) or WHOLE_FILE
        for one in sets
    ]


def _choose(sets: list[Weights], label: str, path: Path, name: str) -> Weights:
    """Return the set with that label; without one, the only set."""
    labels = _labels(sets)
    numbers = list(range(len(sets)))
    if label:
        numbers = [one for one in numbers if label in (labels[one], sets[one].label)] or [
            one for one in numbers if f".{label}." in f".{sets[one].label}."
        ]
    if len(numbers) == 1:
        number = numbers[0]
        also = tuple(labels[:number] + labels[number + 1 :])
        return replace(sets[number], chosen_by=labels[number], also=also)
    choices = " or ".join(f"{path}#{one}" for one in labels)
    if label and not numbers:
        raise WeightsError(
            f"checkpoint: expected weights of {name!r} in {str(path)!r}, got none called "
            f"{label!r} — give {choices}"
        )
    raise WeightsError(
        f"checkpoint: expected one set of weights of {name!r}, got {len(numbers)} in "
        f"{str(path)!r} — give {choices}"
    )


def _fewest_missing(states: Sequence[State], body: Mapping[str, Any]) -> list[str]:
    """Return the keys of the model that the nearest state dict lacks."""
    nearest, missing = 0, set(body)
    for _, state in states:
        keys = _unwrapped(state)
        for prefix, count in _prefixes(keys, body).items():
            if count > nearest:
                nearest, missing = count, {key for key in body if prefix + key not in keys}
    return sorted(missing)


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
