"""Commands and groups that refuse an option that is repeated."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class _Unrepeated:
    """Refusal of an option that takes one value and stands more than once among the arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments as click does, then refuse a repeated option."""
        # A parser of its own: click keeps only the last value of each option.
        parser = self.make_parser(ctx)  # type: ignore[attr-defined]
        remaining: list[str] = super().parse_args(ctx, list(args))  # type: ignore[misc]
        _, _, order = parser.parse_args(args=list(args))
        for parameter, count in Counter(order).items():
            takes_many = getattr(parameter, "multiple", False) or getattr(parameter, "count", False)
            if parameter.param_type_name == "option" and count > 1 and not takes_many:
                name = max(parameter.opts, key=len)
                raise typer.BadParameter(
                    f"{name}: expected it once, got it {count} times — keep one of them",
                    ctx=ctx,
                )
        return remaining


class Command(_Unrepeated, TyperCommand):
    """A command whose options are given once."""


class Group(_Unrepeated, TyperGroup):
    """A group of commands whose own options are given once."""
