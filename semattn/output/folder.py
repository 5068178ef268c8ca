"""A folder that results go to: complete, or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import SemattnError

# More files that belong to a result: name: what writes it, given its path.
Also: TypeAlias = "Mapping[str, Callable[[Path], object]] | None"


class OutputError(SemattnError, OSError):
    """A folder that results cannot be written to."""


def check_folder(folder: Path) -> None:
    """Raise OutputError unless `folder` is one that can be written to, or can be made."""
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a link in a circle, a name that cannot be
        raise OutputError(
            f"out: expected a folder, got {str(folder)[:200]} "
            f"({getattr(error, 'strerror', None) or error}) — choose another name"
        ) from error
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"out: expected a folder, got the file {folder} — choose another name")
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"out: expected a folder, got {folder}, a link that leads nowhere")
    if not os.access(_standing(folder), os.W_OK | os.X_OK):
        raise OutputError(f"out: expected a folder to write to, got {folder} — it is read-only")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files take their places in `folder` at the end, or never.

    Made on the same disk, so that taking their places is renaming: all at once where `folder` is
    new, file by file (from a hidden folder within) where it stands already. Other files in it are
    left alone.

    Raises
    ------
    OutputError
        As `check_folder` does.
    """
    check_folder(folder)
    own = Path(tempfile.mkdtemp(prefix=".semattn-", dir=_standing(folder)))
    try:
        stage = own / "files"  # mkdtemp makes its folder private; this one is as any other
        stage.mkdir()
        yield stage
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            for path in sorted(stage.iterdir()):
                path.replace(folder / path.name)
        else:
            stage.replace(folder)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def write_others(stage: Path, also: Also) -> dict[str, str]:
    """Have each file of `also` written into `stage`: their names, as those of a result."""
    for name, write in (also or {}).items():
        write(stage / name)
    return {Path(name).stem: name for name in also or {}}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """JSON for people and programs: indented, any alphabet, and no NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def _standing(folder: Path) -> Path:
    """The nearest folder above (or at) `folder` that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
