"""Detection of files in image folders that are not pictures: system files, tables, notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

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


def by_class_folder(paths: Sequence[Path], folder: Path) -> tuple[list[str], list[Path]]:
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


def named(paths: Sequence[Path], folder: Path) -> str:
    """Return the first few file names, relative to a folder, for a note."""
    names = [path.relative_to(folder).as_posix() for path in paths[:SHOWN]]
    return ", ".join([*names, *(["…"] if len(paths) > SHOWN else [])])


def left_out_note(paths: Sequence[Path], folder: Path) -> str:
    """Return a note on files that are left out because they are not pictures; "" for none."""
    if not paths:
        return ""
    count = "1 file is not a picture" if len(paths) == 1 else f"{len(paths)} files are not pictures"
    return f"left out: {count} ({named(paths, folder)})"
