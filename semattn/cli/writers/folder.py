"""Extra files of a result and JSON writing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

# Further files of a result: file name to a function that writes the file at a path.
Also: TypeAlias = "Mapping[str, Callable[[Path], object]] | None"


def write_others(stage: Path, also: Also) -> dict[str, str]:
    """Write the files of `also` into `stage`; return their names by stem."""
    for name, write in (also or {}).items():
        write(stage / name)
    return {Path(name).stem: name for name in also or {}}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write indented UTF-8 JSON without NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
