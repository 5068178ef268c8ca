"""The command line: `semattn COMMAND`.

Wrong input ends in one line on standard error and exit status 2; a defect of semattn in one line
and exit status 1; `--debug` shows where either arose. A further command is a function in
`semattn.commands`, entered here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from .commands import bench
from .commands.analyze import analyze
from .commands.audit import audit
from .commands.compare import compare
from .commands.doctor import doctor
from .commands.explain import explain
from .commands.interruption import InterruptedRunError
from .commands.models import models
from .commands.parsing import Command, Group, joined_lines
from .commands.pretrain import pretrain
from .commands.prompt import prompt
from .commands.spurious import spurious
from .commands.terminal import text_output
from .errors import Interrupted, SemattnError, plain
from .version import __version__

INTERRUPTED = 130  # the shell's exit status for control-C

app = typer.Typer(
    name="semattn",
    cls=Group,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (explain, compare, analyze, prompt, spurious, audit, pretrain, models, doctor):
    app.command(cls=Command, help=joined_lines(command.__doc__))(command)
benches = typer.Typer(cls=Group, rich_markup_mode="rich", invoke_without_command=True)
benches.command(cls=Command, help=joined_lines(bench.explain.__doc__))(bench.explain)


@benches.callback()
def _benches(context: typer.Context) -> None:
    """Comparisons that anyone can repeat."""
    if context.invoked_subcommand is None:  # as `semattn` alone does
        typer.echo(context.get_help())


app.add_typer(benches, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    if arguments is None:  # the program itself, which ends next
        try:
            return main(sys.argv[1:])
        finally:
            gc.freeze()  # Python would visit each object of torch before it ends, for a second
    given = list(arguments)
    with text_output() as (output, _), _rare_collections():
        status = _run(given)
        output.flush()
        if output.failure is not None and not status:
            return _fail(
                f"standard output: expected room for the text, got {output.failure.strerror} — "
                "send it elsewhere; result files are not affected",
                2,
            )
    return status


def _run(given: list[str]) -> int:
    """Run the command line, with one line on standard error for what goes wrong."""
    # Looked for here, because it must hold for what goes wrong while options are read, too.
    debug = "--debug" in given
    # click's UsageError, wherever typer keeps click.
    misused: Any = typer.BadParameter.__bases__[0]
    try:
        status = app(given or ["--help"], prog_name="semattn", standalone_mode=False)
    except misused as error:
        return _fail(_usage(error), 2)
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
        return _fail(f"{type(error).__name__}: {error} — a defect; --debug shows where", 1)
    if status == INTERRUPTED:  # newer typer returns it, older ones raise
        return _fail("interrupted — no result was written", INTERRUPTED)
    return status if isinstance(status, int) else 0


def _usage(error: Any) -> str:
    """Return what is wrong with the arguments, and the command that lists them."""
    message = error.format_message().rstrip(".")
    if " — " in message:
        return message.removeprefix("Invalid value: ")
    command = error.ctx.command_path if error.ctx else "semattn"
    return f"{message} — {command} --help lists what there is"


def _fail(message: str, status: int) -> int:
    """One line on standard error, whatever the message was."""
    typer.echo(f"error: {plain(' '.join(message.split()))}", err=True)
    return status


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage more rarely: imports make many objects, and hardly any of them in cycles."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"semattn {__version__}")
        raise typer.Exit


@app.callback()
def semattn(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Explain the attention of vision transformers through the keypoints of the image."""
