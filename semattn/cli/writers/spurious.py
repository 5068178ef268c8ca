"""The results of `semattn spurious`: a figure, a line a cue, everything as JSON, and the cues."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import viz
from ...utils.result_folder import FolderLike, ResultFolder
from .folder import Also, write_json, write_others

if TYPE_CHECKING:
    from ...spurious import Discovery

SPURIOUS_FILES = {
    "figure": "spurious.png",
    "table": "spurious.csv",
    "result": "spurious.json",
    "cues": "spurious.npz",
}
EFFECTS = ("removed", "transplanted")
COLUMNS = (
    "class", "target", "confirmed", "score", "score_low", "score_high", "p", "inside", "outside",
    *(f"{name}{part}" for name in EFFECTS for part in ("", "_low", "_high", "_p", "_images")),
    "where", "tag", "keypoints", "covers", "fixed",
)  # fmt: skip


def write_spurious(found: Discovery, folder: FolderLike, also: Also = None) -> dict[str, Path]:
    """Write figure, table, result and cues of a search into `folder`: the path of each.

    ``spurious.csv`` has a row a cue, the confirmed ones first; ``spurious.json`` is
    `Discovery.summary`; `semattn.spurious.load_discovery` reads ``spurious.npz``.

    Parameters
    ----------
    found : what `semattn.discover_spurious` returned
    folder : a path, made with its parents where it does not exist; or a `ResultFolder`, which also
        names the command and the inputs
    also : more files, by name, and what writes each

    Raises
    ------
    OutputError
        For a folder that cannot be written to, or that holds such a file of others; nothing is
        left behind.
    """
    from ...spurious import save_discovery

    result = found.summary()
    place = ResultFolder.of(folder)
    with place.staged() as stage:
        viz.spurious(found).savefig(stage / SPURIOUS_FILES["figure"])
        with (stage / SPURIOUS_FILES["table"]).open("w", newline="", encoding="utf-8") as stream:
            rows = csv.DictWriter(stream, COLUMNS)
            rows.writeheader()
            rows.writerows(_row(one) for one in result["cues"])
        write_json(stage / SPURIOUS_FILES["result"], result)
        save_discovery(found, stage / SPURIOUS_FILES["cues"])
        files = SPURIOUS_FILES | write_others(stage, also)
    return {name: place.path / file for name, file in files.items()}


def _row(cue: dict[str, Any]) -> dict[str, Any]:
    """A cue of the summary, flat; what is unknown is empty."""
    low, high = cue["interval"]
    made = {name: cue[name] for name in COLUMNS if name in cue and name not in EFFECTS}
    made |= {"score_low": low, "score_high": high}
    for name in EFFECTS:
        effect = cue[name]
        made |= {name: effect["mean"], f"{name}_images": effect["count"]}
        made |= {f"{name}_{part}": effect[part] for part in ("low", "high", "p")}
    return made
