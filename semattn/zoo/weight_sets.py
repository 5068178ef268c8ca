"""Sets of weights in a state dict: all keys of a model, with a common prefix.

This module reads no files and builds no models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of keys
PLAIN_ENTRIES = ("", "state_dict", "model")  # standard entries of weights
SHOWN = 3  # number of keys that a note lists

# First parts of keys that do not belong to a backbone or classifier.
OTHER_PARTS = re.compile(
    r"(decoder|mask_token|projector|projection_head|predictor|prototypes|queue|criterion|loss|"
    r"model_ema|ema|teacher|momentum|optimizer|aux_|metrics?|(train|val|test)_acc|n_averaged)"
)
State: TypeAlias = tuple[str, dict[str, Tensor]]  # keys of the enclosing dicts, tensors
_EMA = re.compile(r"(^|[._])ema([._]|$)")


@dataclass(frozen=True)
class Weights:
    """Set of tensors in a file with all keys of a model; the classifier may be missing.

    Parameters
    ----------
    entry : keys of the enclosing dicts, joined by dots; "" for the file itself
    prefix : prefix of the keys in the file
    tensors : tensors by the keys of the model
    ignored : other keys of the entry
    unknown : other keys with this prefix that belong to no known part of a training run
    chosen_by : label of this set, as in FILE#LABEL
    also : labels of the other sets in the file
    outside : keys of the classifier in the file, if they are outside `prefix`
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
        """Full path of this set in the file: entry and prefix."""
        return ".".join(part for part in (self.entry, self.prefix.rstrip(".")) if part)

    def note(self, has_classifier: bool) -> str:
        """Return one line on how the weights were selected; "" for a plain state dict."""
        parts = []
        is_ema = _EMA.search(self.label) is not None
        if self.also or is_ema or self.entry not in PLAIN_ENTRIES:
            others = " and ".join(map(repr, self.also))
            details = [*["EMA"] * is_ema, *[f"the file also holds {others}"] * bool(others)]
            parts.append(
                f"weights of {self.chosen_by!r}" + f" ({'; '.join(details)})" * bool(details)
            )
        if self.prefix:
            parts.append(f"prefix {self.prefix!r} removed")
        if self.outside:
            parts.append(f"{' and '.join(self.outside)} taken as the classifier")
        if self.ignored:
            listed = ", ".join(self.ignored[:SHOWN]) + ", …" * (len(self.ignored) > SHOWN)
            count = f"{len(self.ignored)} other tensor{'s' * (len(self.ignored) > 1)}"
            parts.append(f"{count} ignored ({listed})")
        if not has_classifier:
            parts.append("no classifier in the file: the model returns features (num_classes=0)")
        return f"checkpoint: {', '.join(parts)}" if parts else ""


def _strip_wrappers(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _unwrapped_keys(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Map keys without the parts that torch wrappers add to the keys of the state dict."""
    unwrapped = {_strip_wrappers(key): key for key in state}
    return unwrapped if len(unwrapped) == len(state) else {key: key for key in state}


def _count_prefixes(keys: Mapping[str, str], body: Mapping[str, Any]) -> Counter[str]:
    """Count the keys of the model for each prefix."""
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
    """Return the sets of tensors in a state dict that have all keys of the model's body."""
    keys = _unwrapped_keys(state)
    counts = _count_prefixes(keys, body)
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
        outside = [key for key, used_key in used.items() if used_key != prefix + key]
        first, original = next((key, keys[used_key]) for key, used_key in used.items())
        has_wrapper_prefix = original.endswith(first)  # otherwise a wrapper is inside the key
        weights.append(
            Weights(
                entry, original.removesuffix(first) if has_wrapper_prefix else prefix,
                {key: state[keys[used_key]] for key, used_key in used.items()},
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
    """Return the prefix of the classifier: that of the body, or a shorter one; None without."""
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
    """Return whether a key, without its prefix, belongs to a part that the model does not use."""
    first = key.partition(".")[0]
    if is_in(key, classifiers):  # such as a projector in place of the classifier
        return key not in _classifier_keys(classifiers)
    if any(body_key.partition(".")[0] == first for body_key in body):
        return False
    return OTHER_PARTS.match(key) is not None


def fewest_missing(states: Sequence[State], body: Mapping[str, Any]) -> list[str]:
    """Return the keys of the model that are missing in the most similar state dict."""
    nearest, missing = 0, set(body)
    for _, state in states:
        keys = _unwrapped_keys(state)
        for prefix, count in _count_prefixes(keys, body).items():
            if count > nearest:
                nearest, missing = count, {key for key in body if prefix + key not in keys}
    return sorted(missing)
