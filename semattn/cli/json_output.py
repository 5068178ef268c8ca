"""`--json`: one JSON object on standard output, and everything else on standard error."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ParamSpec

import typer

from ..utils.text import to_json_value

Parameters = ParamSpec("Parameters")
Content = dict[str, Any]


def json_output(
    command: Callable[Parameters, Content | None],
) -> Callable[Parameters, None]:
    """Decorate a command so that it prints the dict that it returns, if `as_json` is true.

    All other output of the command then goes to standard error. Nothing is printed if the command
    fails or returns None, as processes other than the first do.
    """

    @functools.wraps(command)
    def run(*args: Parameters.args, **options: Parameters.kwargs) -> None:
        if not options.get("as_json"):
            command(*args, **options)
            return
        with redirect_stdout(sys.stderr):
            content = command(*args, **options)
        if content is not None:
            emit(content)

    return run


def emit(content: Content) -> None:
    """Print one JSON object in ASCII."""
    typer.echo(json.dumps(to_json_value(content), indent=1, ensure_ascii=True, allow_nan=False))


def result_content(
    result: Path | None,
    files: Mapping[str, Path],
    notes: Iterable[str],
    skipped: Iterable[Any] = (),
) -> Content:
    """Return the content of a result file with the paths of all files, the notes, the skipped.

    Parameters
    ----------
    result : the JSON file that the command wrote; None where there is none yet
    files : path of each file, by name
    notes : added to those in the result
    skipped : pairs of a name and a reason; those in the result if empty
    """
    content: Content = {} if result is None else json.loads(result.read_text(encoding="utf-8"))
    pairs = [tuple(pair) for pair in skipped]
    if not pairs and isinstance(content.get("skipped"), list):  # audit.json has their number
        pairs = [
            tuple(entry.values()) if isinstance(entry, dict) else tuple(entry)
            for entry in content["skipped"]
        ]
    return content | {
        "files": dict(files),
        "skipped": [{"name": str(name), "reason": str(reason)} for name, reason in pairs],
        "notes": list(dict.fromkeys([*content.get("notes", []), *notes])),
    }
