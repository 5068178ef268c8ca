"""Sets of weights in a state dict: the keys that a model has, behind one prefix.

This module knows nothing of files and builds no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of keys
PLAIN_ENTRIES = ("", "state_dict", "model")  # where weights are expected
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
        parts = []
        is_ema = _EMA.search(self.label) is not None
        if self.also or is_ema or self.entry not in PLAIN_ENTRIES:
            others = " and ".join(map(repr, self.also))
            more = [*["EMA"] * is_ema, *[f"the file also holds {others}"] * bool(others)]
            parts.append(f"weights of {self.chosen_by!r}" + f" ({'; '.join(more)})" * bool(more))
        if self.prefix:
            parts.append(f"prefix {self.prefix!r} removed")
        if self.outside:
            parts.append(f"{' and '.join(self.outside)} taken as the classifier")
        if self.ignored:
            some = ", ".join(self.ignored[:SHOWN]) + ", …" * (len(self.ignored) > SHOWN)
            many = f"{len(self.ignored)} other tensor{'s' * (len(self.ignored) > 1)}"
            parts.append(f"{many} ignored ({some})")
        if not has_classifier:
            parts.append("it has no classifier: the model gives features (num_classes=0)")
        return f"checkpoint: {', '.join(parts)}" if parts else ""


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


def complete_sets(
    entry: str, state: Mapping[str, Tensor], body: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]], classifiers: Sequence[str],
) -> list[Weights]:  # fmt: skip
    """Return the sets of tensors of a state dict that have every key of the model's body."""
    keys = _unwrapped(state)
    counts = _prefixes(keys, body)
    sets: dict[str, dict[str, str]] = {}  # prefix -> key of the model -> key without wrappers
    for prefix in (start for start, count in counts.items() if count == len(body)):
        sets[prefix] = {key: prefix + key for key in body}
        outer = _classifier_prefix(prefix, keys, state, shapes, classifiers)
        for key in _classifier_keys(classifiers):
            if outer is not None and outer + key in keys:
                sets[prefix][key] = outer + key
    unused = keys.keys() - {key for used in sets.values() for key in used.values()}
    weights = []
    for prefix, used in sets.items():
        nested = tuple(other for other in sets if other != prefix and other.startswith(prefix))
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


def is_in(key: str, modules: Sequence[str]) -> bool:
    """Return whether a key belongs to one of the modules."""
    return any(key.startswith(f"{name}.") for name in modules)


def _is_other_part(key: str, body: Mapping[str, Any], classifiers: Sequence[str]) -> bool:
    """Return whether a key, without its prefix, is of a part that the model does not use."""
    first = key.partition(".")[0]
    if is_in(key, classifiers):  # a projector in place of the classifier
        return key not in _classifier_keys(classifiers)
    if any(own.partition(".")[0] == first for own in body):
        return False
    return OTHER_PARTS.match(key) is not None


def fewest_missing(states: Sequence[State], body: Mapping[str, Any]) -> list[str]:
    """Return the keys of the model that the nearest state dict lacks."""
    nearest, missing = 0, set(body)
    for _, state in states:
        keys = _unwrapped(state)
        for prefix, count in _prefixes(keys, body).items():
            if count > nearest:
                nearest, missing = count, {key for key in body if prefix + key not in keys}
    return sorted(missing)
