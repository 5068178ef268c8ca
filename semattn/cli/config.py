"""`semattn config`: the defaults of options and where they come from."""

from __future__ import annotations

import os
from dataclasses import asdict

import typer

from . import options
from .defaults import OTHER_VARIABLES, config_files, default_in_use, options_of, read_defaults
from .json_output import Content, json_output
from .printing import verbatim
from .terminal import new_table, open_console, print_table


@json_output
def config(
    context: typer.Context,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> Content:
    r"""List the defaults of options that a file or an environment variable sets.

    Files named [bold]semattn.toml[/] in the current folder and in the user's configuration folder
    set options of all commands, such as [bold]device = "cuda"[/], or of one command below a line
    such as [bold]\[explain][/]. Variables such as SEMATTN_DEVICE or SEMATTN_EXPLAIN_METHOD
    do the same. The command line is stronger than variables, and variables than files.
    """
    commands = options_of(context.find_root().command)
    defaults = read_defaults(commands)
    used = {
        id(default_in_use(defaults, words, parameter))
        for words, parameters in commands.items()
        for parameter in parameters.values()
    }
    files = [{"file": str(file.resolve()), "exists": file.is_file()} for file in config_files()]
    variables = {name: os.environ[name] for name in OTHER_VARIABLES if name in os.environ}
    console = open_console()
    table = new_table(2)
    for title in ("option", "commands", "value", "from"):
        table.add_column(title)
    for default in defaults:
        table.add_row(
            f"--{default.option.replace('_', '-')}",
            " ".join(default.command) or "all that have it",
            verbatim(default.value),
            verbatim(default.source) + ("" if id(default) in used else ", not used: replaced"),
        )
    if defaults:
        print_table(console, table)
    else:
        console.print("all options have their built-in defaults")
    for name, value in variables.items():
        console.print(f"{name} is {verbatim(value)}: {OTHER_VARIABLES[name]}", soft_wrap=True)
    for file in files:
        state = "read" if file["exists"] else "not there"
        console.print(f"[dim]{verbatim(str(file['file']))}: {state}[/]", soft_wrap=True)
    return {
        "defaults": [asdict(default) | {"is_used": id(default) in used} for default in defaults],
        "variables": variables,
        "files": files,
    }
