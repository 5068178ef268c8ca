"""The report page of a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = "report.html"


def pages(
    is_requested: bool, explanation: Any = None, **parts: Any
) -> dict[str, Callable[[Path], object]]:
    """Return the writer of the report page by its file name; empty if no page is requested."""
    if not is_requested:
        return {}
    from .. import report

    return {PAGE: report.build(explanation, **parts).save}
