"""The files of a folder that may be pictures: all of them; what is none says so when it is read."""

from __future__ import annotations

import os
from pathlib import Path

from semattn.errors import ImageError


def listed(folder: str | os.PathLike[str]) -> list[Path]:
    """Every file in a folder and its folders, by name; hidden ones and links to folders are not.

    Raises
    ------
    ImageError
        For a folder that cannot be read, or that holds no file.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise ImageError(
            f"folder: expected one that can be read, got {error.filename} ({error.strerror}) — "
            "check its name and permissions"
        ) from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        found += [Path(where) / one for one in sorted(files) if not one.startswith(".")]
    if not found:
        raise ImageError(f"folder: expected pictures, got none in {folder} — give photographs")
    return found
