"""Copies of the pictures of a data set in which marks are erased (`semattn marks --erase`)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SemattnError
from ..utils.processes import Progress, own_cores
from ..utils.result_folder import RECORDS, OutputError, ResultFolder, read_marker, source_of

if TYPE_CHECKING:
    from ..spurious import Mark
from .inputs import is_remote

COMMAND = "marks --erase"
STAGE = "erasing marks"


def check_folder_of_copies(images: str, copies: Path) -> None:
    """Raise OutputError if the copies would be among the images, or cannot be written."""
    if is_remote(images) or not Path(images).is_dir():
        raise OutputError(
            f"erase: expected images in a local folder, got {images} — copy them to one first"
        )
    if copies.absolute().resolve().is_relative_to(Path(images).absolute().resolve()):
        raise OutputError(
            f"erase: expected a folder outside the images, got {copies} in {images} — "
            "choose another folder"
        )
    with _named_erase():
        ResultFolder(copies).check()


@contextmanager
def _named_erase() -> Iterator[None]:
    """Name the option --erase in errors of the folder, which name --out."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"erase: {str(error).removeprefix('out: ')}") from error


@dataclass(frozen=True)
class ErasedCopies:
    """Temporary copies of the pictures that show marks; `move` puts them into their folder.

    Parameters
    ----------
    images : folder of the pictures
    paths : pictures that show a mark
    files : temporary PNG file of each
    names : name of each copy, relative to the folder of copies
    """

    images: Path
    paths: tuple[Path, ...]
    files: tuple[Path, ...]
    names: tuple[Path, ...]

    def move(self, copies: Path, *, force: bool = False) -> None:
        """Move the copies into a folder, and remove copies of an earlier run.

        Raises
        ------
        OutputError
            If the folder has files of these names that semattn did not write, unless `force`.
        """
        folders = {name.parent for name in self.names} | set(_earlier_folders(copies))
        for folder in sorted(folders):
            inside = [n for n, name in enumerate(self.names) if name.parent == folder]
            results = ResultFolder(
                copies / folder, COMMAND, tuple(self.paths[n] for n in inside),
                source_of((self.images,)), force,
            )  # fmt: skip
            with _named_erase(), results.staged() as stage:
                for n in inside:
                    shutil.move(self.files[n], stage / self.names[n].name)


def erase_from_folder(
    marks: Sequence[Mark], images: Path, temporary: Path, progress: Progress
) -> ErasedCopies:
    """Write a copy without the marks of every picture in `images` that shows one of them.

    Parameters
    ----------
    marks : the marks to erase
    images : folder of the pictures; files that cannot be read are skipped
    temporary : folder for the copies
    progress : called with the stage, the number of pictures, and the total
    """
    from PIL import Image

    from ..data import list_images
    from ..spurious import erase_marks

    paths = list_images(images)
    files = [temporary / f"{number}.png" for number in range(len(paths))]
    temporary.mkdir(parents=True, exist_ok=True)

    def write_copy(path: Path, file: Path) -> bool:
        try:
            pixels, n_places = erase_marks(marks, path)
        except (SemattnError, OSError, ValueError):
            return False
        if n_places:
            Image.fromarray(pixels).save(file)
        return n_places > 0

    shown = []
    with ThreadPoolExecutor(max(1, own_cores()), thread_name_prefix="semattn-erase") as pool:
        for is_shown in pool.map(write_copy, paths, files) if marks else ():
            shown.append(is_shown)
            progress(STAGE, len(shown), len(paths))
    written = [n for n, is_shown in enumerate(shown) if is_shown]
    return ErasedCopies(
        images, tuple(paths[n] for n in written), tuple(files[n] for n in written),
        tuple(_names([paths[n].relative_to(images) for n in written])),
    )  # fmt: skip


def _names(paths: Sequence[Path]) -> list[Path]:
    """Return the names of PNG copies; pictures that differ in the extension only keep theirs."""
    counts = Counter(str(path.with_suffix("")).casefold() for path in paths)
    return [
        path.with_suffix(".png")
        if counts[str(path.with_suffix("")).casefold()] == 1
        else path.with_name(f"{path.name}.png")
        for path in paths
    ]


def _earlier_folders(copies: Path) -> list[Path]:
    """Return the folders in `copies` with copies of an earlier run."""
    if not copies.is_dir():
        return []
    folders = [records.parent for records in copies.rglob(RECORDS)]
    return [
        folder.relative_to(copies)
        for folder in folders
        if any(entry.get("command") == COMMAND for entry in read_marker(folder).values())
    ]
