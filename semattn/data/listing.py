"""Listing of the files in a folder, without results of semattn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeVar, overload

from PIL import Image

from ..errors import ImageError
from ..utils.remote_path import Location, LocationLike, RemotePath
from ..utils.result_folder import MARKER, RECORDS, read_marker

FileT = TypeVar("FileT", bound=Location)

PHOTOGRAPHS = (
    "photographs (JPEG, PNG, WebP, TIFF, BMP, GIF or another format of Pillow), in the folder "
    "itself or in one subfolder per class"
)
"""Formats and layout of a folder that is read, for messages."""


@overload
def list_images(folder: str | os.PathLike[str]) -> list[Path]: ...


@overload
def list_images(folder: RemotePath) -> list[RemotePath]: ...


def list_images(folder: LocationLike) -> Sequence[Location]:
    """Return all files in a folder and its subfolders, sorted by name.

    Hidden files, links to folders, and files that semattn wrote are left out.

    Parameters
    ----------
    folder : a local folder, or a remote one

    Raises
    ------
    ImageError
        For a folder that cannot be read, or that contains no other files.
    """
    if isinstance(folder, RemotePath):
        return _list_remote(folder)
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
        raise _no_files_error(os.fspath(folder), written)
    return files


def _list_remote(folder: RemotePath) -> list[RemotePath]:
    """List a remote folder in the order in which a local copy is listed."""
    try:
        if not folder.is_dir():
            problem = "which is a file" if folder.exists() else "which does not exist"
            raise ImageError(f"folder: expected a folder of pictures, got {folder}, {problem}")
        files_by_parts = {file.relative_to(folder).parts: file for file in folder.walk_files()}
        markers = [parts[:-2] for parts in files_by_parts if parts[-2:] == (RECORDS, MARKER)]
        results = {
            (*parts, name.rstrip("/"))
            for parts in markers
            for name in read_marker(folder / "/".join(parts) if parts else folder)
        }
    except OSError as error:
        raise ImageError(
            f"folder: expected a readable folder, got {folder} ({error.strerror or error}) — "
            "check its name and your access"
        ) from error
    visible = {
        parts: file for parts, file in files_by_parts.items()
        if not any(name.startswith(".") for name in parts)
    }  # fmt: skip
    pictures = {
        parts: file for parts, file in visible.items()
        if not any(parts[:length] in results for length in range(1, len(parts) + 1))
    }  # fmt: skip
    if not pictures:
        raise _no_files_error(str(folder), len(visible))

    # The files of a folder come before its subfolders.
    def place(parts: tuple[str, ...]) -> tuple[tuple[bool, str], ...]:
        return (*((True, name) for name in parts[:-1]), (False, parts[-1]))

    return [pictures[parts] for parts in sorted(pictures, key=place)]


def _no_files_error(folder: str, written: int) -> ImageError:
    results_only = ", only results of semattn" if written else ""
    return ImageError(
        f"folder: expected pictures, got none in {folder}{results_only} — give {PHOTOGRAPHS}"
    )


def path_in(path: Location, folder: Location) -> PurePath:
    """Return the path of a file in a folder, both local or both remote."""
    if isinstance(path, RemotePath) and isinstance(folder, RemotePath):
        return path.relative_to(folder)
    return Path(str(path)).relative_to(str(folder))


NOT_PICTURES = (".pdf", ".ps", ".eps", ".mpeg", ".mpg", ".h5", ".hdf", ".grib", ".bufr")
"""File extensions that Pillow registers but that are not pictures."""

SHOWN = 4  # names that a note lists


def is_picture(path: Location) -> bool:
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
        with path.open("rb") as stream, Image.open(stream):
            return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # noqa: BLE001 — decoders raise any error on other bytes
        return False


def find_class_folders(paths: Sequence[FileT], folder: Location) -> tuple[list[str], list[FileT]]:
    """Return the names of subfolders with pictures (the classes), and the files outside them.

    Without such a subfolder, all files are in the second list: the pictures have no classes.

    Parameters
    ----------
    paths : files in `folder` and its subfolders
    """
    inside: dict[str, list[FileT]] = {}
    for path in paths:
        parts = path_in(path, folder).parts
        inside.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    classes = sorted(name for name, files in inside.items() if name and any(map(is_picture, files)))
    return classes, [
        path for name, files in inside.items() if name not in classes for path in files
    ]


def example_names(paths: Sequence[Location], folder: Location) -> str:
    """Return the first few file names, relative to a folder, for a note."""
    names = [path_in(path, folder).as_posix() for path in paths[:SHOWN]]
    return ", ".join([*names, *(["…"] if len(paths) > SHOWN else [])])


def left_out_note(paths: Sequence[Location], folder: Location) -> str:
    """Return a note on files that are left out because they are not pictures; "" for none."""
    if not paths:
        return ""
    count = "1 file is not a picture" if len(paths) == 1 else f"{len(paths)} files are not pictures"
    return f"left out: {count} ({example_names(paths, folder)})"
