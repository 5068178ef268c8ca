"""The folder that a command writes its results to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..result_folder import ResultFolder, default_folder, source_of


def result_folder(
    out: Path | None,
    name: str,
    command: str,
    inputs: tuple[Path, ...],
    files: Iterable[str],
    *,
    source: str = "",
    force: bool = False,
) -> ResultFolder:
    """Return the folder for the results of a command, once it is known that they can go there.

    Parameters
    ----------
    out : the folder that the user chose; None for `name`, in the current folder
    name, source : as of `semattn.result_folder.default_folder`
    command, inputs, force : as of `semattn.result_folder.ResultFolder`
    files : names of the files that the command writes

    Raises
    ------
    OutputError
        As `ResultFolder.check` does.
    """
    source = source or source_of(inputs)
    folder = ResultFolder(out or default_folder(name, source), command, inputs, source, force)
    folder.check(files)
    return folder
