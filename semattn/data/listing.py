"""Listing of the files in a folder, without results of semattn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import ImageError
from ..utils.result_folder import RECORDS, read_marker


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
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


NOT_PICTURES = (".pdf", ".ps", ".eps", ".mpeg", ".mpg", ".h5", ".hdf", ".grib", ".bufr")
"""File extensions that Pillow registers but that are not pictures."""

SHOWN = 4  # names that a note lists


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture, by its extension, or by its header if that is unknown.

    A damaged file with the extension of a picture counts as one: reading it raises the error.

    Examples
    --------
    >>> is_picture(Path("cat/001.JPG")), is_picture(Path("Thumbs.db"))
    (True, False)
    """
    ending = path.suffix.lower()
    if ending in NOT_PICTURES:
        return False
    if ending in Image.registered_extensions():
        return True
    try:
        with Image.open(path):
            return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # noqa: BLE001 — decoders raise any error on other bytes
        return False


def find_class_folders(paths: Sequence[Path], folder: Path) -> tuple[list[str], list[Path]]:
    """Return the names of subfolders with pictures (the classes), and the files outside them.

    Without such a subfolder, all files are in the second list: the pictures have no classes.

    Parameters
    ----------
    paths : files in `folder` and its subfolders
    """
    inside: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(folder).parts
        inside.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    classes = sorted(name for name, files in inside.items() if name and any(map(is_picture, files)))
    return classes, [
        path for name, files in inside.items() if name not in classes for path in files
    ]


def example_names(paths: Sequence[Path], folder: Path) -> str:
    """Return the first few file names, relative to a folder, for a note."""
    names = [path.relative_to(folder).as_posix() for path in paths[:SHOWN]]
    return ", ".join([*names, *(["…"] if len(paths) > SHOWN else [])])


def left_out_note(paths: Sequence[Path], folder: Path) -> str:
    """Return a note on files that are left out because they are not pictures; "" for none."""
    if not paths:
        return ""
    count = "1 file is not a picture" if len(paths) == 1 else f"{len(paths)} files are not pictures"
    return f"left out: {count} ({example_names(paths, folder)})"
