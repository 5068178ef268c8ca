"""Result folders of a command, the report page and extra files in them, and CSV and JSON files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import SemattnError
from ..utils.result_folder import (
    FolderLike,
    OutputError,
    ResultFolder,
    default_folder,
    read_marker,
    source_of,
)
from .inputs import ImageInputs

INDEX = "index.html"
PAGE = "report.html"
# Further files of a result: file name to a function that writes the file at a path.
ExtraFiles: TypeAlias = "Mapping[str, Callable[[Path], object]] | None"


@dataclass(frozen=True)
class ImageFolders:
    """Result folders of the pictures of a command.

    Parameters
    ----------
    each : in the order of the pictures
    top : the folder that holds them and the index page; None for a single picture
    """

    each: tuple[ResultFolder, ...]
    top: ResultFolder | None = None

    def earlier(self) -> list[str]:
        """Return the names of folders in `top` with results of pictures of earlier runs."""
        if self.top is None or not self.top.path.is_dir():
            return []
        current = {folder.path.name for folder in self.each}
        return sorted(
            child.name for child in self.top.path.iterdir()
            if child.name not in current and not child.name.startswith(".")
            and child.is_dir() and read_marker(child)
        )  # fmt: skip


def result_folder(
    out: Path | None,
    name: str,
    command: str,
    inputs: tuple[Path, ...],
    files: Iterable[str],
    *,
    source: str = "",
    force: bool = False,
    stdin_sha256: str = "",
) -> ResultFolder:
    """Return the folder for the results of a command, after checking that it can be used.

    Parameters
    ----------
    out : the folder that the user chose; None for `name`, in the current folder
    name, source : see `semattn.utils.result_folder.default_folder`
    command, inputs, force, stdin_sha256 : see `semattn.utils.result_folder.ResultFolder`
    files : names of the files that the command writes

    Raises
    ------
    OutputError
        As `ResultFolder.check` does.
    """
    source = source or source_of(inputs)
    path = out or default_folder(name, source)
    folder = ResultFolder(path, command, inputs, source, force, stdin_sha256)
    folder.check(files)
    return folder


def image_folders(
    out: Path | None,
    command: str,
    inputs: ImageInputs,
    files: Iterable[str],
    *,
    others: tuple[Path, ...] = (),
    force: bool = False,
) -> ImageFolders:
    """Return the folder for the results of each picture, after checking that it can be used.

    The folder of a single picture is `out`; several pictures have one folder each inside `out`.

    Parameters
    ----------
    inputs : the pictures
    files : names of the files that the command writes for each picture
    others : other input files, such as that of a mask

    Raises
    ------
    OutputError
        See `ResultFolder.check`; also if a result file would replace one of the pictures.
    """
    names = tuple(files)
    if inputs.is_single:
        image = inputs.images[0]
        prefix = "semattn-" if command == "explain" else f"semattn-{command}-"
        paths = (*([image.path] if image.path else []), *others)
        return ImageFolders((
            result_folder(
                out, f"{prefix}{image.stem}", command, paths, names, source=image.identity,
                force=force, stdin_sha256=image.sha256,
            ),
        ))  # fmt: skip
    path = out or default_folder(f"semattn-{command}-{inputs.title}", inputs.source)
    top = ResultFolder(path, f"{command} index", (), inputs.source, force)
    top.check([INDEX])
    each = []
    input_paths = {
        os.path.realpath(image.path) for image in inputs.images if image.path is not None
    }
    for image, name in zip(inputs.images, inputs.folder_names(), strict=True):
        folder = ResultFolder(
            path / name, command, (*([image.path] if image.path else []), *others),
            image.identity, force, image.sha256,
        )  # fmt: skip
        folder.check(names)
        each.append(folder)
        for file in (path / INDEX, *(folder.path / name for name in names)):
            if os.path.realpath(file) in input_paths:
                raise OutputError(
                    f"out: expected a folder in which no result replaces an input, got {path}, "
                    f"where {file.relative_to(path)} is an input image — choose another folder"
                )
    return ImageFolders(tuple(each), top)


@contextmanager
def removed_if_refused(search: Path) -> Iterator[None]:
    """Remove the folder of a new search that is refused; keep it after an interruption."""
    search_existed, folder_existed = search.exists(), search.parent.exists()
    try:
        yield
    except (SemattnError, ValueError):
        if not search_existed:
            shutil.rmtree(search, ignore_errors=True)
            if not folder_existed and search.parent.exists() and not any(search.parent.iterdir()):
                search.parent.rmdir()
        raise


def pages(
    is_requested: bool, explanation: Any = None, **parts: Any
) -> dict[str, Callable[[Path], object]]:
    """Return the writer of the report page by its file name; empty if no page is requested."""
    if not is_requested:
        return {}
    from .. import report

    return {PAGE: report.build(explanation, **parts).save}


def write_result_files(
    folder: FolderLike,
    files: Mapping[str, str],
    writers: Mapping[str, Callable[[Path], object]],
    extra_files: ExtraFiles = None,
) -> dict[str, Path]:
    """Write the results of a search into a folder; return the path of each file.

    Parameters
    ----------
    folder : a path, created with its parents if missing; or a `ResultFolder`
    files : file name of each kind of result, such as "figure"
    writers : function of each kind that writes the file at a path
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        for kind, write in writers.items():
            write(stage / files[kind])
        names = {**files, **write_extra_files(stage, extra_files)}
    return {kind: results.path / name for kind, name in names.items()}


def write_extra_files(stage: Path, extra_files: ExtraFiles) -> dict[str, str]:
    """Write the files of `extra_files` into `stage`; return their names by stem."""
    for name, write_explanation in (extra_files or {}).items():
        write_explanation(stage / name)
    return {Path(name).stem: name for name in extra_files or {}}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a CSV file with a header; a row without a column has an empty cell there."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write indented UTF-8 JSON without NaN."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
