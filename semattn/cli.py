"""The command line: `semattn COMMAND`.

Wrong input ends in one line on standard error and exit status 2; a defect of semattn in one line
and exit status 1; `--debug` shows where either arose. A further command is a function in
`semattn.commands`, entered here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
from .commands.pretrain import pretrain
from .commands.prompt import prompt
from .commands.spurious import spurious
from .errors import SemattnError, plain
from .version import __version__

INTERRUPTED = 130  # the shell's exit status for control-C

app = typer.Typer(
    name="semattn",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (explain, compare, analyze, prompt, spurious, audit, pretrain, models, doctor):
    app.command()(command)
benches = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)
benches.command()(bench.explain)


@benches.callback()
def _benches() -> None:
    """Comparisons that anyone can repeat."""


app.add_typer(benches, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Looked for here, because it must hold for what goes wrong while options are read, too.
    debug = "--debug" in given
    # click's UsageError, wherever typer keeps click.
    misused: Any = typer.BadParameter.__bases__[0]
    try:
        status = app(given or ["--help"], prog_name="semattn", standalone_mode=False)
    except misused as error:
        told = error.format_message().rstrip(".")
        return _fail(f"{told} — semattn COMMAND --help lists what there is", 2)
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


def _fail(message: str, status: int) -> int:
    """One line on standard error, whatever the message was."""
    typer.echo(f"error: {plain(' '.join(message.split()))}", err=True)
    return status


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"semattn {__version__}")
        raise typer.Exit


@app.callback()
def semattn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Explain the attention of vision transformers through the keypoints of the image."""
