"""Commands and groups of typer that refuse repeated options and print readable help pages."""

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
    """Command that refuses repeated options."""


class Group(_Strict, TyperGroup):
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
