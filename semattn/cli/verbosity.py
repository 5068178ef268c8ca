"""The options `-q` and `-v`, which every command has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .options import OUTPUT
from .terminal import VERBOSITY

Quiet = Annotated[
    bool,
    typer.Option(
        "-q", "--quiet", metavar="", rich_help_panel=OUTPUT,
        help="Print errors only, and the object of --json.",
    ),
]  # fmt: skip
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", metavar="", rich_help_panel=OUTPUT,
        help="Also print the seconds of each stage, progress without a terminal, and where "
        "defaults come from.",
    ),
]  # fmt: skip


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options `-q` and `-v`."""

    @functools.wraps(command)
    def run(*arguments: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> None:
        token = VERBOSITY.set(verbose - quiet)
        try:
            command(*arguments, **options)
        finally:
            VERBOSITY.reset(token)

    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
