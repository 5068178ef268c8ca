"""Reading of torch files without running code.

Files may contain tensors, plain values, and a few common classes (`argparse.Namespace`, paths,
numpy numbers), which are replaced by inert classes that ignore their arguments.
"""

from __future__ import annotations

import re
import shlex
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .weights import WeightsError

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
