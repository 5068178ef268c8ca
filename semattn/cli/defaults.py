"""Defaults of options, from environment variables and from files named `semattn.toml`.

A file has options of all commands at the top, and options of one command in a table:

    device = "cuda"

    [explain]
    method = "legrad"

`SEMATTN_DEVICE` and `SEMATTN_EXPLAIN_METHOD` do the same. The order, from the strongest: the
command line; the variable of the command, then that of all commands; the file in the current
folder, then that of the user; the built-in default.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SemattnError, plain
from ..utils.registry import unknown_name_message

FILE_NAME = "semattn.toml"
PREFIX = "SEMATTN_"
OTHER_VARIABLES = {"SEMATTN_CACHE": "folder of the weights", "SEMATTN_CONFIG": "file of defaults"}
# These stay decisions of each call.
NEVER = {"force", "help", "debug", "version", "install_completion", "show_completion"}
# A file in a folder of data must not start code.
RUNS_CODE = re.compile(r"\.py(:|$)|^torch-hub-dir:")

Options = dict[tuple[str, ...], dict[str, Any]]
"""Parameters by name, for the words of each command."""


@dataclass(frozen=True)
class Default:
    """Default of one option: its value as text, and the file or variable that it comes from."""

    command: tuple[str, ...]  # () for all commands
    option: str
    value: str
    source: str


def options_of(group: Any, words: tuple[str, ...] = ()) -> Options:
    """Return the options of all commands of a group that may have other defaults."""
    commands: Options = {}
    for name, command in group.commands.items():
        command_words = (*words, name)
        if hasattr(command, "commands"):
            commands |= options_of(command, command_words)
            continue
        commands[command_words] = {
            option_name(parameter): parameter
            for parameter in command.params
            if parameter.param_type_name == "option" and parameter.name not in NEVER
        }
    return commands


def option_name(parameter: Any) -> str:
    """Return the long name of an option, with underscores."""
    return max(parameter.opts, key=len).lstrip("-").replace("-", "_")


def config_files() -> list[Path]:
    """Return the files with defaults that are looked for: the user's, then the current folder's.

    `SEMATTN_CONFIG` names one file in place of both; if it is empty, no file is read.
    """
    if (config_path := os.environ.get("SEMATTN_CONFIG")) is not None:
        return [Path(config_path).expanduser()] if config_path else []
    if sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA", "~/AppData/Roaming"))
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    return [folder.expanduser() / "semattn" / FILE_NAME, Path(FILE_NAME)]


def read_defaults(commands: Options) -> list[Default]:
    """Return the defaults of all sources, the weakest first.

    Raises
    ------
    SemattnError
        For a file that is not TOML, and for unknown commands, options and kinds of values.
    """
    sources = [list(_read_file(file, commands)) for file in config_files()]
    sources.append(list(_read_variables(os.environ, commands)))
    return [
        default
        for source in sources
        for default in sorted(source, key=lambda item: len(item.command))
    ]


def default_map(defaults: list[Default], commands: Options) -> dict[str, Any]:
    """Return the defaults as click takes them: values by parameter, for the names of commands."""
    nested: dict[str, Any] = {}
    for words, parameters in commands.items():
        table = nested
        for word in words:
            table = table.setdefault(word, {})
        for default in defaults:
            parameter = parameters.get(default.option)
            if parameter is not None and default.command in ((), words):
                table[parameter.name] = default.value
    return nested


def default_in_use(
    defaults: list[Default], words: tuple[str, ...], parameter: Any
) -> Default | None:
    """Return the strongest default of an option of a command; None for the built-in one."""
    name = option_name(parameter)
    matching = [
        default for default in defaults if default.option == name and default.command in ((), words)
    ]
    return matching[-1] if matching else None


def _read_file(file: Path, commands: Options) -> Iterator[Default]:
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if os.environ.get("SEMATTN_CONFIG"):
            raise SemattnError(
                f"SEMATTN_CONFIG: expected a file, got {file} — write it or unset the variable"
            ) from None
        return
    except (OSError, UnicodeDecodeError) as error:
        raise SemattnError(
            f"{file}: expected a text file in UTF-8, got {error} — correct it"
        ) from error
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        tables = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise SemattnError(f"{file}: expected TOML, got an error: {error} — correct it") from error
    for default in _read_table(tables, (), file, commands):
        if default.option == "model" and not file.is_absolute() and RUNS_CODE.search(default.value):
            raise SemattnError(
                f"{file}: expected a model that runs no code of its own, got {default.value!r} — "
                "give it on the command line with --model"
            )
        yield default


def _read_table(
    table: Mapping[str, Any], words: tuple[str, ...], file: Path, commands: Options
) -> Iterator[Default]:
    options = {
        option
        for command, parameters in commands.items()
        if command[: len(words)] == words
        for option in parameters
    }
    names = {command[len(words)] for command in commands if command[: len(words)] == words
             and len(command) > len(words)}  # fmt: skip
    for key, value in table.items():
        option = key.replace("-", "_")
        if isinstance(value, dict) and key in names:
            yield from _read_table(value, (*words, key), file, commands)
        elif option in options and not isinstance(value, dict):
            yield Default(words, option, _text(key, value, file), plain(str(file)))
        else:
            option_names = sorted({name.replace("_", "-") for name in options} | names)
            raise SemattnError(f"{file}: {unknown_name_message('option', key, option_names)}")


def _text(key: str, value: Any, file: Path) -> str:
    """Return a TOML value as it is typed on a command line."""
    if isinstance(value, list):
        return ",".join(_text(key, part, file) for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise SemattnError(
        f"{file}: expected text, a number, true, false or a list for {key}, got "
        f"{type(value).__name__} — put it in quotes"
    )


def _read_variables(variables: Mapping[str, str], commands: Options) -> Iterator[Default]:
    """Yield the defaults in variables; other variables with the prefix are ignored."""
    for words in ((), *commands):
        of_words = [commands[words]] if words else list(commands.values())
        for option in sorted({name for parameters in of_words for name in parameters}):
            variable = PREFIX + "_".join((*words, option)).upper().replace("-", "_")
            if variables.get(variable) and variable not in OTHER_VARIABLES:
                yield Default(words, option, variables[variable], variable)
