"""Trace of `attribute`: prints the files that the data of a picture passes through, in order.

A file counts as opened if a function of it returns something that changes with the picture. Not
counted are functions of one statement, which their call describes, and data that a function returns
as it was given: guards, contexts and lookups. The model's tokens are traced before, once for each
model and size of input, which is a path of its own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PACKAGE = Path(__file__).parents[2] / "semattn"
DATA = (torch.Tensor, np.ndarray, Image.Image)
Function = tuple[str, str, int]  # file below the package, name, first line
LEVELS = 2  # of containers in a result that are compared
GIVEN_LEVELS = 4  # of containers in the arguments that are searched for data
GIVEN = "given"  # data that a function returns as it was given


@functools.cache
def one_statement_functions(file: str) -> frozenset[int]:
    """Return the first lines of the functions of a file whose body is a single statement."""
    lines = []
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if len(body) == 1 and isinstance(body[0], (ast.Return, ast.Expr)):
                lines.append(min([node.lineno, *(part.lineno for part in node.decorator_list)]))
    return frozenset(lines)


def parts(value: Any) -> list[Any]:
    """Return the items of a container, or the attributes of an object."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (tuple, list, deque)):
        return list(value)
    if isinstance(value, DATA) or inspect.ismodule(value) or isinstance(value, torch.nn.Module):
        return []
    return list(getattr(value, "__dict__", {}).values())


def data_in(value: Any, depth: int = GIVEN_LEVELS) -> Iterator[Any]:
    """Yield the tensors, arrays and pictures that a value holds."""
    if isinstance(value, DATA):
        yield value
    elif depth:
        for part in parts(value):
            yield from data_in(part, depth - 1)


def content(value: Any, known_ids: set[int], depth: int = LEVELS) -> Any:
    """Return what a value holds, as numbers and digests that two runs can be compared by."""
    if isinstance(value, DATA):
        if id(value) in known_ids:
            return GIVEN
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    if isinstance(value, (bool, int, float, str)) or not depth:
        return value if isinstance(value, (bool, int, float, str)) else None
    return [content(part, known_ids, depth - 1) for part in parts(value)]


class Tracer:
    """Contents that each function of the package returned, in the order of the first entries."""

    def __init__(self) -> None:
        self.returned: dict[Function, list[Any]] = {}
        self.given: dict[Any, set[int]] = {}  # ids of the data in the arguments of each call

    def __call__(self, frame: Any, event: str, value: Any) -> None:
        path = frame.f_code.co_filename
        if event not in ("call", "return") or not path.startswith(f"{PACKAGE}/"):
            return
        name = frame.f_code.co_name
        if name.startswith("<") or not frame.f_code.co_flags & inspect.CO_NEWLOCALS:
            return  # lambdas, comprehensions and bodies of classes belong to their functions
        file = Path(path).relative_to(PACKAGE).as_posix()
        contents = self.returned.setdefault((file, name, frame.f_code.co_firstlineno), [])
        if event == "call":
            code, variables = frame.f_code, frame.f_locals
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            arguments = [variables[name] for name in names if name in variables]
            self.given[frame] = {id(data) for data in data_in(arguments)}
        else:
            contents.append(content(value, self.given.pop(frame, set())))


def trace(explain: Callable[[], None]) -> Tracer:
    """Return the trace of one explanation."""
    tracer = Tracer()
    threading.setprofile(tracer)  # keypoints are detected in another thread
    sys.setprofile(tracer)
    try:
        explain()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return tracer


def main() -> None:
    """Print {"entered": files, "opened": files}, each in the order of the first entry."""
    import timm

    import semattn

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64).eval()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jpg"

        def explain() -> None:
            semattn.SIFTPatchInterrelation().attribute(model, str(path))

        traces = []
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(path)
            if number:
                traces.append(trace(explain).returned)
            else:
                explain()  # traces the model's tokens
    first, second = traces
    opened = [
        (file, name)
        for (file, name, line), contents in first.items()
        if line not in one_statement_functions(file) and contents != second.get((file, name, line))
    ]
    result = {
        "entered": list(dict.fromkeys(file for file, _, _ in first)),
        "opened": list(dict.fromkeys(file for file, _ in opened)),
        "functions": [f"{file}: {name}" for file, name in opened],
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
