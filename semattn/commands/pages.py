"""The page that belongs to a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = "report.html"


def pages(
    wanted: bool, explanation: Any = None, **parts: Any
) -> dict[str, Callable[[Path], object]]:
    """File names, and what writes them, for `semattn.output`: none where none is wanted."""
    if not wanted:
        return {}
    from .. import report

    return {PAGE: report.of(explanation, **parts).save}
