"""Result files of `semattn spurious`: figure, table, JSON and cues."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import viz
from ...utils.result_folder import FolderLike, ResultFolder
from .folder import ExtraFiles, write_extra_files, write_json

if TYPE_CHECKING:
    from ...spurious import Discovery

SPURIOUS_FILES = {
    "figure": "spurious.png",
    "table": "spurious.csv",
    "result": "spurious.json",
    "cues": "spurious.npz",
}
EFFECTS = ("removal", "transplant")
COLUMNS = (
    "class", "target", "confirmed", "score", "score_low", "score_high", "p", "inside", "outside",
    *(f"{name}{part}" for name in EFFECTS for part in ("", "_low", "_high", "_p", "_images")),
    "where", "tag", "keypoints", "covers", "fixed",
)  # fmt: skip


def write_spurious(
    discovery: Discovery, folder: FolderLike, extra_files: ExtraFiles = None
) -> dict[str, Path]:
    """Write figure, table, result and cues of a search into `folder`; return the path of each.

    ``spurious.csv`` has one row per cue, confirmed cues first; ``spurious.json`` is
    `Discovery.summary`; `semattn.spurious.load_discovery` reads ``spurious.npz``.

    Parameters
    ----------
    discovery : result of `semattn.discover_spurious`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    from ...spurious import save_discovery

    result = discovery.summary()
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        viz.spurious(discovery).savefig(stage / SPURIOUS_FILES["figure"])
        with (stage / SPURIOUS_FILES["table"]).open("w", newline="", encoding="utf-8") as stream:
            rows = csv.DictWriter(stream, COLUMNS)
            rows.writeheader()
            rows.writerows(_row(cue) for cue in result["cues"])
        write_json(stage / SPURIOUS_FILES["result"], result)
        save_discovery(discovery, stage / SPURIOUS_FILES["cues"])
        files = SPURIOUS_FILES | write_extra_files(stage, extra_files)
    return {name: results.path / file for name, file in files.items()}


def _row(cue: dict[str, Any]) -> dict[str, Any]:
    """Return a cue of the summary as a flat row; unknown values are empty."""
    low, high = cue["interval"]
    flat = {name: cue[name] for name in COLUMNS if name in cue and name not in EFFECTS}
    flat |= {"score_low": low, "score_high": high}
    for name in EFFECTS:
        effect = cue[name]
        flat |= {name: effect["mean"], f"{name}_images": effect["count"]}
        flat |= {f"{name}_{part}": effect[part] for part in ("low", "high", "p")}
    return flat
