"""Command-line interface: `semattn COMMAND`.

Wrong input prints one line on standard error and exits with status 2. A defect of semattn prints
one line and exits with status 1. `--debug` shows the traceback of both. To add a command, write a
function in `semattn.cli` and register it here.
"""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import Interrupted, SemattnError, plain
from ..version import __version__
from . import bench
from .analyze import analyze
from .audit import audit
from .check import check
from .compare import compare
from .config import config
from .defaults import (
    PREFIX,
    Default,
    default_in_use,
    default_map,
    option_name,
    options_of,
    read_defaults,
)
from .demo import demo
from .doctor import doctor
from .explain import explain
from .marks import marks
from .models import models
from .pretrain import pretrain
from .prompt import prompt
from .spurious import spurious
from .terminal import InterruptedRunError, text_output
from .verbosity import with_verbosity

HELP_WIDTH = 80  # columns that a help page needs; a narrower terminal breaks its lines


class _Strict:
    """Mixin that refuses a repeated option, unless the option takes several values."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page in at least `HELP_WIDTH` columns; in fewer, names would be cut."""
        before = os.environ.get("COLUMNS")
        if shutil.get_terminal_size().columns < HELP_WIDTH:
            os.environ["COLUMNS"] = str(HELP_WIDTH)
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        finally:
            os.environ.pop("COLUMNS", None)
            if before is not None:
                os.environ["COLUMNS"] = before

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a repeated option, then parse the arguments as click does."""
        for parameter, count in Counter(self._order(ctx, list(args))).items():
            takes_many = getattr(parameter, "multiple", False) or getattr(parameter, "count", False)
            if parameter.param_type_name == "option" and count > 1 and not takes_many:
                name = max(parameter.opts, key=len)
                raise typer.BadParameter(
                    f"{name}: expected once, got {count} times — keep one of them", ctx=ctx
                )
        remaining: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return remaining

    def _order(self, ctx: Any, args: list[str]) -> list[Any]:
        """Return each option and argument once per occurrence; click keeps only the last."""
        misused: Any = typer.BadParameter.__bases__[0]  # click's UsageError
        try:
            _, _, order = self.make_parser(ctx).parse_args(args=args)  # type: ignore[attr-defined]
        except misused:  # `parse_args` raises it again
            return []
        return list(order)


class Command(_Strict, TyperCommand):
    """Command that refuses repeated options, and reports defaults of files."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a note lists the defaults that a file or, with `-v`, a variable sets."""
        in_use = defaults_in_use(ctx)
        if not ctx.params.get("verbose"):
            in_use = [default for default in in_use if not default.source.startswith(PREFIX)]
        if in_use and not ctx.params.get("quiet"):
            listed = ", ".join(
                f"--{default.option.replace('_', '-')} {default.value} ({default.source})"
                for default in in_use
            )
            typer.echo(f"defaults: {plain(listed)}", err=True)
        return super().invoke(ctx)


class CommandGroup(_Strict, TyperGroup):
    """Group of commands that refuses repeated options."""


def joined_lines(docstring: str | None) -> str:
    r"""Return a docstring with each paragraph on one line, so that the terminal can wrap it.

    Examples
    --------
    >>> joined_lines("Compare\n    methods.\n\n    On\n    images.")
    'Compare methods.\n\nOn images.'
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def defaults_in_use(ctx: Any) -> list[Default]:
    """Return the defaults of files and variables that the parsed command uses."""
    defaults = ctx.find_root().meta.get(DEFAULTS, [])
    words = _words(ctx)
    return [
        default
        for parameter in ctx.command.params
        if getattr(ctx.get_parameter_source(parameter.name), "name", "") == "DEFAULT_MAP"
        and (default := default_in_use(defaults, words, parameter)) is not None
    ]


def _words(ctx: Any) -> tuple[str, ...]:
    """Return the words that call a command, without the name of the program."""
    words: tuple[str, ...] = ()
    while ctx.parent is not None:
        words, ctx = (ctx.info_name, *words), ctx.parent
    return words


DEFAULTS = "semattn.defaults"  # entry of the root context
INTERRUPTED = 130  # exit status of shells for Control-C

app = typer.Typer(
    name="semattn",
    cls=CommandGroup,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    explain, compare, analyze, prompt, spurious, marks, audit, check, pretrain, demo, models,
    doctor, config,
):  # fmt: skip
    app.command(cls=Command, help=joined_lines(command.__doc__))(with_verbosity(command))
bench_app = typer.Typer(cls=CommandGroup, rich_markup_mode="rich", invoke_without_command=True)
bench_app.command(cls=Command, help=joined_lines(bench.explain.__doc__))(
    with_verbosity(bench.explain)
)


@bench_app.callback()
def _show_bench_help(context: typer.Context) -> None:
    """Reproducible benchmarks."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    if arguments is None:  # called as a program, which exits next
        try:
            return main(sys.argv[1:])
        finally:
            gc.freeze()  # saves a second of garbage collection at exit
    argv = list(arguments)
    if sys.platform == "darwin":  # before torch is imported; a note names each such operator
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with text_output() as (output, _), _infrequent_gc():
        status = _run(argv)
        output.flush()
        if output.failure is not None and not status:
            return _fail(
                f"standard output: expected a writable stream, got {output.failure.strerror} — "
                "redirect it elsewhere; result files are not affected",
                2,
            )
    return status


def _run(argv: list[str]) -> int:
    """Run the command line, and print errors as one line on standard error."""
    # Read here, because it also applies to errors while options are parsed.
    debug = "--debug" in argv
    # click's UsageError: some versions of typer bundle click under another name.
    usage_error: Any = typer.BadParameter.__bases__[0]
    try:
        status = app(argv or ["--help"], prog_name="semattn", standalone_mode=False)
    except usage_error as error:
        return _fail(_usage_message(error), 2)
    except Interrupted as error:
        return _fail(f"interrupted — {error}", INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except InterruptedRunError as error:
        return _fail(str(error), INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, (SemattnError, ValueError, OSError)):
            return _fail(str(error), 2)
        return _fail(
            f"{type(error).__name__}: {error} — an internal error; --debug shows the traceback", 1
        )
    if status == INTERRUPTED:  # returned by newer versions of typer, raised by older ones
        return _fail("interrupted — no result was written", INTERRUPTED)
    return status if isinstance(status, int) else 0


def _usage_message(error: Any) -> str:
    """Return the message of a usage error, with the help command."""
    message = error.format_message().rstrip(".")
    if " — " in message:
        return message.removeprefix("Invalid value: ")
    command = error.ctx.command_path if error.ctx else "semattn"
    origin = ""
    if error.ctx and (parameter := getattr(error, "param", None)) is not None:
        sources = [entry.source for entry in defaults_in_use(error.ctx)
                   if entry.option == option_name(parameter)]  # fmt: skip
        origin = f" (a default of {sources[0]})" if sources else ""
    return f"{message}{origin} — see {command} --help"


def _fail(message: str, status: int) -> int:
    """Print a message as one line on standard error, and return the exit status."""
    typer.echo(f"error: {plain(' '.join(message.split()))}", err=True)
    return status


@contextmanager
def _infrequent_gc() -> Iterator[None]:
    """Run the garbage collector less often: imports create many objects, few of them in cycles."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"semattn {__version__}")
        raise typer.Exit


@app.callback()
def semattn(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_print_version,
            is_eager=True,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Explain the attention of vision transformers through the keypoints of the image."""
    if context.invoked_subcommand not in (None, "config"):  # which lists them, with their errors
        commands = options_of(context.command)
        defaults = read_defaults(commands)
        context.meta[DEFAULTS] = defaults
        context.default_map = default_map(defaults, commands)
