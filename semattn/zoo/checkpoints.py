"""Weights of a model in checkpoint files of common formats.

Training scripts nest state dicts (``state_dict``, ``model``, ``state_dict_ema``) and add prefixes
to the keys (``module.``, ``_orig_mod.``, ``backbone.``). The weights are found by the keys of the
model. No code in a file is run: the few classes that are accepted besides tensors and plain values
are replaced by inert classes that ignore their arguments. This module builds no models.
"""

from __future__ import annotations

import os
import re
import shlex
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .weight_sets import State, Weights, complete_sets, fewest_missing, is_in
from .weights import WeightsError

WHOLE_FILE = "."  # label of weights without entry and prefix
DEPTH = 3  # maximum depth of nested dicts

PLAIN_CLASSES = (
    "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath", "numpy.dtype", "numpy.ndarray",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "torch.torch_version.TorchVersion",
)  # fmt: skip
_UNSUPPORTED_CLASS = re.compile(r"GLOBAL ([\w.]+)")  # in torch's error
_LOCK = threading.Lock()  # torch's list of safe classes is global

# Program that keeps the tensors, and the dicts and modules with tensors: FILE NEW_FILE
CONVERSION = (
    "import sys, torch as t; c = t.load(sys.argv[1], 'cpu', weights_only=False); "
    "c = c if isinstance(c, dict) else {'model': c}; "
    "c = {k: v.state_dict() if isinstance(v, t.nn.Module) else v for k, v in c.items()}; "
    "t.save({k: v for k, v in c.items() if t.is_tensor(v) or isinstance(v, dict) "
    "and any(map(t.is_tensor, v.values()))}, sys.argv[2])"
)


class _Inert:
    """Base of the inert classes, which ignore the content of a file."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _inert_class(path: str) -> type[_Inert]:
    """Return an inert class that replaces the class with this path in the unpickler."""
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__module__": module, "__qualname__": name})


_INERT_CLASSES: list[Any] = [_inert_class(path) for path in PLAIN_CLASSES]


def read_file(path: Path) -> Any:
    """Read a weights file without running code in it.

    Parameters
    ----------
    path : ``.safetensors``, or a file of `torch.save`

    Raises
    ------
    WeightsError
        For a missing or damaged file, and for objects other than tensors, plain values and
        `PLAIN_CLASSES`; the message names the first such class and how to convert the file.
    """
    if not path.is_file():
        raise WeightsError(f"checkpoint: expected a file, got {str(path)!r} — check the path")
    try:
        with warnings.catch_warnings():  # of torch, on the format of the file
            warnings.simplefilter("ignore")
            if path.suffix == ".safetensors":
                return load_file(path)
            with _LOCK, torch.serialization.safe_globals(_INERT_CLASSES):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers raise any error on damaged files
        unsupported = _UNSUPPORTED_CLASS.search(str(error))
        if unsupported is None:
            raise WeightsError(
                f"checkpoint: expected tensors only, got {str(path)!r}, which is damaged or holds "
                "other objects — save model.state_dict() as .safetensors"
            ) from error
        raise WeightsError(
            f"checkpoint: expected tensors and plain values, got {unsupported[1]} in "
            f"{str(path)!r} — save model.state_dict() as .safetensors, or, if you trust the file, "
            f"convert it: {conversion(path)}"
        ) from error


def conversion(path: Path) -> str:
    """Return a command that copies the weights of a file, without other objects, to a new file."""
    new = path.with_name(f"{path.stem}-weights.pt")
    return f'python -c "{CONVERSION}" {shlex.quote(str(path))} {shlex.quote(str(new))}'


def split_choice(checkpoint: str | os.PathLike[str]) -> tuple[Path, str]:
    """Split ``FILE#LABEL`` into path and label, unless a file with the full name exists.

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
    """Return all dicts of tensors in a file, with the keys of the enclosing dicts.

    Raises
    ------
    WeightsError
        For a file that cannot be read (see `read_file`) or has no dict of tensors.
    """
    content = read_file(path)
    states = list(_iterate_states(content))
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
    states, path : the dicts of a file (see `read_states`), and the file
    label : label of the set of weights, if the file has several; "" for none
    name : name of the model, for messages
    shapes : shapes of the model's weights, by key
    classifiers : names of the classifier modules, which may be missing in the file

    Raises
    ------
    WeightsError
        For a file without weights of the model, or with several sets if `label` selects none.
    """
    body = {key: tuple(shape) for key, shape in shapes.items() if not is_in(key, classifiers)}
    complete = [
        weights for state in states for weights in complete_sets(*state, body, shapes, classifiers)
    ]
    if not complete:
        raise _mismatch_error(path, name, "lacks", fewest_missing(states, body))
    explained = [weights for weights in complete if not weights.unknown] or complete
    fitting = [
        weights for weights in explained if _first_shape_mismatch(weights.tensors, body) is None
    ] or explained
    selected = _select_set(fitting, label, path, name)
    if selected.unknown:
        raise _mismatch_error(path, name, "has unknown", selected.unknown)
    for key, tensor in selected.tensors.items():
        if not _is_readable(tensor):
            raise WeightsError(
                f"checkpoint: expected {key!r} as a dense tensor of real numbers, got "
                f"{tensor.dtype} {tuple(tensor.shape)} with other or missing values in "
                f"{str(path)!r} — save model.state_dict()"
            )
    return selected


def check_weights(
    weights: Weights, path: Path, name: str, shapes: Mapping[str, Sequence[int]], prefix_tokens: int
) -> None:
    """Raise WeightsError unless the weights have the keys and shapes of the model.

    Parameters
    ----------
    weights, path, name, shapes : as for `find_weights`
    prefix_tokens : number of prefix tokens in the `pos_embed` of the model
    """
    for kind, keys in (
        ("lacks", shapes.keys() - weights.tensors.keys()),
        ("has unknown", weights.tensors.keys() - shapes.keys()),
    ):
        if keys:
            raise _mismatch_error(path, name, kind, sorted(keys))
    key = _first_shape_mismatch(weights.tensors, shapes)
    if key is None:
        return
    expected, got = tuple(shapes[key]), tuple(weights.tensors[key].shape)
    sizes, advice = "", "give the architecture that it was saved from"
    if key.rpartition(".")[2] == "pos_embed" and len(expected) == len(got) == 3:
        sides = [round(max(0, size[1] - prefix_tokens) ** 0.5) for size in (expected, got)]
        if expected[2] == got[2] and got[1] == sides[1] ** 2 + prefix_tokens:
            sizes = f" ({sides[1]}x{sides[1]} patches in place of {sides[0]}x{sides[0]})"
            advice = "give the architecture for that image size"
    raise WeightsError(
        f"checkpoint: expected {key} {expected} for {name!r}, got {got}{sizes} in {path} — {advice}"
    )


def _iterate_states(content: Any, entry: str = "", depth: int = 0) -> Iterator[State]:
    """Yield all dicts of tensors by name in a file."""
    if not isinstance(content, dict) or depth > DEPTH:
        return
    named = {key: item for key, item in content.items() if isinstance(key, str)}
    tensors = {key: item for key, item in named.items() if isinstance(item, Tensor)}
    if tensors:
        yield entry, tensors
    for key, item in named.items():
        yield from _iterate_states(item, f"{entry}.{key}" if entry else key, depth + 1)


def _first_shape_mismatch(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> str | None:
    """Return the first key whose tensor has another shape than in the model."""
    for key, shape in shapes.items():
        if key in tensors and tuple(tensors[key].shape) != tuple(shape):
            return key
    return None


def _unique_sets(sets: Sequence[Weights]) -> list[Weights]:
    """Return the sets without duplicates of equal tensors."""
    unique: list[Weights] = []
    for weights in sets:
        if not any(_are_equal(weights.tensors, other.tensors) for other in unique):
            unique.append(weights)
    return unique


def _are_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    if first.keys() != second.keys():
        return False
    return all(
        tensor is second[key]
        or (
            _is_readable(tensor) and _is_readable(second[key])
            and tensor.dtype == second[key].dtype and torch.equal(tensor, second[key])
        )
        for key, tensor in first.items()
    )  # fmt: skip


def _choice_labels(sets: Sequence[Weights]) -> list[str]:
    """Return the label of each set: its entry if that is unique, otherwise its full path."""
    counts = Counter(weights.entry for weights in sets)
    return [
        (weights.entry if weights.entry and counts[weights.entry] == 1 else weights.label)
        or WHOLE_FILE
        for weights in sets
    ]


def _select_set(sets: list[Weights], label: str, path: Path, name: str) -> Weights:
    """Return the set with the label; without a label, the only set."""
    if not label:
        sets = _unique_sets(sets)
    labels = _choice_labels(sets)
    matching = [
        weights
        for weights, shown in zip(sets, labels, strict=True)
        if label in (shown, weights.label)
    ]
    if label and not matching:
        matching = [weights for weights in sets if f".{label}." in f".{weights.label}."]
    matching = _unique_sets(matching) if label else sets
    if len(matching) == 1:
        number = next(n for n, weights in enumerate(sets) if weights is matching[0])
        also = tuple(labels[:number] + labels[number + 1 :])
        return replace(matching[0], chosen_by=labels[number], also=also)
    choices = " or ".join(f"{path}#{choice}" for choice in labels)
    if not matching:
        raise WeightsError(
            f"checkpoint: expected weights of {name!r} in {str(path)!r}, got none called "
            f"{label!r} — give {choices}"
        )
    raise WeightsError(
        f"checkpoint: expected one set of weights of {name!r}, got {len(matching)} in "
        f"{str(path)!r} — give {choices}"
    )


def _mismatch_error(path: Path, name: str, kind: str, keys: Sequence[str]) -> WeightsError:
    return WeightsError(
        f"checkpoint: expected the weights of {name!r}, got {path}, which {kind} "
        f"{min(keys)!r} (and {len(keys) - 1} more) — give the architecture that it was saved from"
    )


def _is_readable(tensor: Tensor) -> bool:
    """Return whether a tensor is dense and real, with values for all elements."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    storage_bytes = tensor.untyped_storage().nbytes()
    return not tensor.is_complex() and tensor.numel() * tensor.element_size() <= storage_bytes
