"""Commands and groups that refuse an option that is repeated."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class _Unrepeated:
    """Refusal of an option that takes one value and stands more than once among the arguments."""

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
        try:
            _, _, order = self.make_parser(ctx).parse_args(args=args)  # type: ignore[attr-defined]
        except typer.BadParameter.__bases__[
            0
        ]:  # click's UsageError: it is raised again in a moment
            return []
        return list(order)


class Command(_Unrepeated, TyperCommand):
    """A command whose options are given once."""


class Group(_Unrepeated, TyperGroup):
    """A group of commands whose own options are given once."""
