"""The results of `semattn analyze`: a picture, a tidy table, everything as JSON, and the sums."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from ... import viz
from ...utils.result_folder import FolderLike, ResultFolder
from .folder import Also, write_json, write_others

if TYPE_CHECKING:
    from ...interrelation import Analysis

ANALYSIS_FILES = {
    "figure": "analysis.png",
    "table": "analysis.csv",
    "result": "analysis.json",
    "sums": "analysis.npz",
}


def write_analysis(found: Analysis, folder: FolderLike, also: Also = None) -> dict[str, Path]:
    """Write picture, table, result and sums of an analysis into `folder`: the path of each.

    ``analysis.csv`` has a row a figure, layer and head; ``analysis.json`` is `Analysis.summary`;
    `semattn.interrelation.load_analysis` reads ``analysis.npz``.

    Parameters
    ----------
    found : what `semattn.interrelation.analyze` returned
    folder : a path, made with its parents where it does not exist; or a `ResultFolder`, which also
        names the command and the inputs
    also : more files, by name, and what writes each

    Raises
    ------
    OutputError
        For a folder that cannot be written to, or that holds such a file of others; nothing is
        left behind.
    """
    columns = found.table()
    place = ResultFolder.of(folder)
    with place.staged() as stage:
        viz.analysis(found).savefig(stage / ANALYSIS_FILES["figure"])
        with (stage / ANALYSIS_FILES["table"]).open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
        write_json(stage / ANALYSIS_FILES["result"], found.summary() | place.inputs_entry())
        found.save(stage / ANALYSIS_FILES["sums"])
        files = ANALYSIS_FILES | write_others(stage, also)
    return {name: place.path / file for name, file in files.items()}
