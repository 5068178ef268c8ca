"""Models that code of the user builds: ``FILE.py:function`` and ``torch-hub-dir:FOLDER:entry``.

The code is run, with all that it does: give only code that you trust.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UnsupportedModelError
from ..images import Preprocessing
from .hub_cache import first_line
from .specifications import LoadedModel, ModelRequest, check_no_checkpoint, check_no_labels, sources

ORIGIN = "local code"


@sources.register("code")
def load_from_file(request: ModelRequest) -> LoadedModel:
    """Call a function of a Python file that returns a model, or a model and its preprocessing."""
    file, _, name = request.address.rpartition(":") if ".py:" in request.address else (
        request.address, "", "")  # fmt: skip
    if not Path(file).is_file() or not name:
        got = "no function" if Path(file).is_file() else f"{file!r}, which does not exist"
        raise ValueError(
            f"model: expected FILE.py:function, got {got} — give a function that returns the model"
        )
    path = Path(file).resolve()
    with _importable(path.parent):
        function = getattr(_import_file(path), name, None)
        if not callable(function):
            raise ValueError(
                f"model: expected a function {name!r} in {file}, got none — define it, without "
                "required arguments"
            )
        return _call(request, function)


@sources.register("torch-hub-dir")
def load_from_hub_folder(request: ModelRequest) -> LoadedModel:
    """Call an entry of the hubconf.py in a folder."""
    folder, _, entry = request.address.rpartition(":")
    if not (Path(folder) / "hubconf.py").is_file() or not entry:
        raise ValueError(
            f"model: expected torch-hub-dir:FOLDER:entry with hubconf.py in the folder, got "
            f"{request.specification!r} — clone the repository first"
        )
    with _importable(Path(folder).resolve()):
        function = getattr(_import_file(Path(folder).resolve() / "hubconf.py"), entry, None)
        if not callable(function):
            raise ValueError(
                f"model: expected an entry {entry!r} in {folder}/hubconf.py, got none — "
                f"torch.hub.list({folder!r}, source='local') lists the entries"
            )
        return _call(request, function, assumes_preprocessing=True)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put a folder first in the module search path, as Python does for a script in it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _import_file(path: Path) -> Any:
    name = f"semattn_model_{path.parent.name}_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles of the file look it up
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise _failed(f"{path.name} fails when it is imported", error) from error
    return module


def _call(
    request: ModelRequest, function: Callable[..., Any], *, assumes_preprocessing: bool = False
) -> LoadedModel:
    """Return the model of a function, with its preprocessing and class names."""
    check_no_labels(request)
    check_no_checkpoint(request)
    options = {}
    if "pretrained" in inspect.signature(function).parameters:
        options["pretrained"] = request.pretrained
    elif not request.pretrained:
        raise ValueError(
            f"model: expected a function with an argument pretrained in {request.specification!r}, "
            "got one without — leave out --random-weights"
        )
    try:
        model = function(**options)
    except Exception as error:
        raise _failed(f"{request.specification} fails", error) from error
    model, source = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"model: expected a torch.nn.Module from {request.specification!r}, got "
            f"{type(model).__name__} — return the model, or the model and its preprocessing"
        )
    preprocessing = _preprocessing(request, model, source, assumes_preprocessing)
    return LoadedModel(model, preprocessing, origin=ORIGIN)


def _preprocessing(
    request: ModelRequest, model: nn.Module, source: Any, is_assumed: bool
) -> Preprocessing:
    """Return the preprocessing that the function returned, or that of the model."""
    if isinstance(source, Preprocessing):
        return source
    if source is not None:
        return Preprocessing.of(source)
    try:
        return Preprocessing.of(model)
    except UnsupportedModelError as error:
        if not is_assumed:
            raise UnsupportedModelError(
                f"model: expected the preprocessing of the model of {request.specification!r}, got "
                "none — return model, semattn.Preprocessing(size=(224, 224), mean=(…), std=(…)), "
                "or model, processor"
            ) from error
    warnings.warn(
        "model: its preprocessing is unknown; pictures are resized to 256, cropped to 224 x 224 "
        "pixels and normalised with ImageNet's mean and std — give FILE.py:function for another",
        stacklevel=2,
    )
    return Preprocessing(
        (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_pct=224 / 256
    )


def _failed(subject: str, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model: expected code that builds a model, but {subject} with {type(error).__name__}: "
        f"{first_line(error)} — correct the code"
    )
