"""Result files of `semattn analyze`: figure, tidy table, JSON and sums."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from ... import viz
from ...utils.result_folder import FolderLike, ResultFolder
from .folder import ExtraFiles, write_extra_files, write_json

if TYPE_CHECKING:
    from ...interrelation import Analysis

ANALYSIS_FILES = {
    "figure": "analysis.png",
    "table": "analysis.csv",
    "result": "analysis.json",
    "sums": "analysis.npz",
}


def write_analysis(
    analysis: Analysis, folder: FolderLike, extra_files: ExtraFiles = None
) -> dict[str, Path]:
    """Write figure, table, result and sums of an analysis into `folder`; return the path of each.

    ``analysis.csv`` has one row per metric, layer and head; ``analysis.json`` is
    `Analysis.summary`;
    `semattn.interrelation.load_analysis` reads ``analysis.npz``.

    Parameters
    ----------
    analysis : result of `semattn.interrelation.analyze`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    columns = analysis.table()
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        viz.analysis(analysis).savefig(stage / ANALYSIS_FILES["figure"])
        with (stage / ANALYSIS_FILES["table"]).open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
        write_json(stage / ANALYSIS_FILES["result"], analysis.summary() | results.inputs_entry())
        analysis.save(stage / ANALYSIS_FILES["sums"])
        files = ANALYSIS_FILES | write_extra_files(stage, extra_files)
    return {name: results.path / file for name, file in files.items()}
