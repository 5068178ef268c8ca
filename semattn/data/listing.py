"""Listing of the files in a folder, without results of semattn."""

from __future__ import annotations

import os
from pathlib import Path

from semattn.errors import ImageError
from semattn.utils.result_folder import RECORDS, read_marker


def listed(folder: str | os.PathLike[str]) -> list[Path]:
    """Return all files in a folder and its subfolders, sorted by name.

    Hidden files, links to folders, and files that semattn wrote are left out.

    Raises
    ------
    ImageError
        For a folder that cannot be read, or that contains no other files.
    """
    files: list[Path] = []
    written = 0  # number of files and folders that semattn wrote

    def refuse(error: OSError) -> None:
        raise ImageError(
            f"folder: expected a readable folder, got {error.filename} ({error.strerror}) — "
            "check its name and permissions"
        ) from error

    for path, folder_names, file_names in os.walk(folder, onerror=refuse):
        results = read_marker(Path(path)) if RECORDS in folder_names else {}
        for names, suffix in ((folder_names, "/"), (file_names, "")):
            visible = sorted(name for name in names if not name.startswith("."))
            names[:] = [name for name in visible if f"{name}{suffix}" not in results]
            written += len(visible) - len(names)
        files += [Path(path) / name for name in file_names]
    if not files:
        results_only = ", only results of semattn" if written else ""
        raise ImageError(
            f"folder: expected pictures, got none in {folder}{results_only} — give photographs"
        )
    return files
