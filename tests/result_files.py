"""Helpers for tests that look into folders of results."""

from __future__ import annotations

from pathlib import Path

RECORDS = ".semattn"  # the hidden folder in which semattn notes what it wrote


def names_in(folder: Path) -> list[str]:
    """Return the sorted names of a folder's files and folders, without semattn's own records."""
    return sorted(path.name for path in folder.iterdir() if path.name != RECORDS)


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, without semattn's own records."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and RECORDS not in path.parts
    }
