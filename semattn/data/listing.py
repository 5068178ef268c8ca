"""List the files of a folder. Reading one tells whether it is a picture."""

from __future__ import annotations

import os
from pathlib import Path

from semattn.errors import ImageError
from semattn.utils.result_folder import RECORDS, read_marker


def listed(folder: str | os.PathLike[str]) -> list[Path]:
    """Return every file in a folder and its folders, by name.

    Hidden files, links to folders, and what semattn has written there are left out.

    Raises
    ------
    ImageError
        For a folder that cannot be read, or that holds no file of others.
    """
    files: list[Path] = []
    own = 0  # files and folders that semattn has written

    def refuse(error: OSError) -> None:
        raise ImageError(
            f"folder: expected one that can be read, got {error.filename} ({error.strerror}) — "
            "check its name and permissions"
        ) from error

    for where, folder_names, file_names in os.walk(folder, onerror=refuse):
        results = read_marker(Path(where)) if RECORDS in folder_names else {}
        for names, mark in ((folder_names, "/"), (file_names, "")):
            visible = sorted(name for name in names if not name.startswith("."))
            names[:] = [name for name in visible if f"{name}{mark}" not in results]
            own += len(visible) - len(names)
        files += [Path(where) / name for name in file_names]
    if not files:
        results_only = " but results of semattn" if own else ""
        raise ImageError(
            f"folder: expected pictures, got none in {folder}{results_only} — give photographs"
        )
    return files
