"""Commands and groups that refuse an option that is repeated, and whose help can be read."""

from __future__ import annotations

import inspect
import os
import shutil
from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_WIDTH = 80  # columns that a help page needs; a narrower terminal breaks its lines


class _Strict:
    """Refusal of an option that takes one value and stands more than once among the arguments."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page, in at least `HELP_WIDTH` columns: in fewer, names are cut."""
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
        """Refuse a repeated option, then read the arguments as click does."""
        for parameter, count in Counter(self._order(ctx, list(args))).items():
            takes_many = getattr(parameter, "multiple", False) or getattr(parameter, "count", False)
            if parameter.param_type_name == "option" and count > 1 and not takes_many:
                name = max(parameter.opts, key=len)
                raise typer.BadParameter(
                    f"{name}: expected it once, got it {count} times — keep one of them", ctx=ctx
                )
        remaining: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return remaining

    def _order(self, ctx: Any, args: list[str]) -> list[Any]:
        """Return each option and argument as often as it stands there; click keeps the last."""
        misused: Any = typer.BadParameter.__bases__[0]  # click's UsageError
        try:
            _, _, order = self.make_parser(ctx).parse_args(args=args)  # type: ignore[attr-defined]
        except misused:  # it is raised again in a moment
            return []
        return list(order)


class Command(_Strict, TyperCommand):
    """A command whose options are given once."""


class Group(_Strict, TyperGroup):
    """A group of commands whose own options are given once."""


def joined_lines(docstring: str | None) -> str:
    r"""Return a docstring whose paragraphs are one line each, for the width of the terminal.

    Examples
    --------
    >>> joined_lines("Compare\n    methods.\n\n    On\n    images.")
    'Compare methods.\n\nOn images.'
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
