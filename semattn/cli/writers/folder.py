"""Extra files of a result and JSON writing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

# Further files of a result: file name to a function that writes the file at a path.
ExtraFiles: TypeAlias = "Mapping[str, Callable[[Path], object]] | None"


def write_extra_files(stage: Path, extra_files: ExtraFiles) -> dict[str, str]:
    """Write the files of `extra_files` into `stage`; return their names by stem."""
    for name, write in (extra_files or {}).items():
        write(stage / name)
    return {Path(name).stem: name for name in extra_files or {}}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write indented UTF-8 JSON without NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
