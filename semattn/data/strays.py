"""Files beside pictures that are none: system files, tables, notes. Knows nothing of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

NOT_PICTURES = (".pdf", ".ps", ".eps", ".mpeg", ".mpg", ".h5", ".hdf", ".grib", ".bufr")
"""Endings that Pillow registers, of files that hold no pixels for it."""

SHOWN = 4  # names that a note lists


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its ending; of unknown endings, by its header.

    A damaged file with the ending of a picture counts as one: reading it tells what is wrong.

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
    except Exception:  # noqa: BLE001 — decoders raise anything on bytes that are no picture
        return False


def by_class_folder(paths: Sequence[Path], folder: Path) -> tuple[list[str], list[Path]]:
    """Return the folders that hold a picture, by name, and the files that lie in none of them.

    Without such a folder all files are in the second list: the pictures have no classes.

    Parameters
    ----------
    paths : files below `folder`
    """
    inside: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(folder).parts
        inside.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    classes = sorted(name for name, own in inside.items() if name and any(map(is_picture, own)))
    return classes, [path for name, own in inside.items() if name not in classes for path in own]


def named(paths: Sequence[Path], folder: Path) -> str:
    """Return the first names of files below a folder, as a note lists them."""
    names = [path.relative_to(folder).as_posix() for path in paths[:SHOWN]]
    return ", ".join([*names, *(["…"] if len(paths) > SHOWN else [])])


def left_out_note(paths: Sequence[Path], folder: Path) -> str:
    """Return the note on files that are left out because they are not pictures, "" for none."""
    if not paths:
        return ""
    count = "1 file is not a picture" if len(paths) == 1 else f"{len(paths)} files are not pictures"
    return f"left out: {count} ({named(paths, folder)})"
