"""Files that belong to a result, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

# More files that belong to a result: name: what writes it, given its path.
Also: TypeAlias = "Mapping[str, Callable[[Path], object]] | None"


def write_others(stage: Path, also: Also) -> dict[str, str]:
    """Have each file of `also` written into `stage`: their names, as those of a result."""
    for name, write in (also or {}).items():
        write(stage / name)
    return {Path(name).stem: name for name in also or {}}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON for people and programs: indented, any alphabet, and no NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
