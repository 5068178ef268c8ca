"""Table of SIFT against pixels in other settings of `targets`.

    python -m benchmarks.studies.pretraining.targets_scaling

A row is an arm in one setting: data, pictures, image size, model and epochs. Settings with one seed
have intervals over test images only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from .pretraining_table import PROBES
from .targets_table import (
    BASE,
    BOOTSTRAP,
    Runs,
    compare_all,
    mean_of,
    read_runs,
    said_difference,
    said_part,
)

SETTING = ("data", "pictures", "image_size", "model", "epochs")
ARMS = ("SIFT", "SIFT weighted", "HOG")


def settings_of(folder: Path) -> list[dict[str, Any]]:
    """Return the settings of the finished runs of pixels, each once, in a fixed order."""
    settings = set()
    for path in folder.glob(f"*-{BASE}-*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run.get("finished"):
            settings.add(tuple(run["about"][key] for key in SETTING))
    return [dict(zip(SETTING, values, strict=True)) for values in sorted(settings)]


def rows_of(setting: dict[str, Any], runs: Runs) -> list[dict[str, Any]]:
    """Return one row for each arm that has seeds in common with pixels."""
    rows = []
    for arm, (count, comparisons) in compare_all(
        {arm: runs[arm] for arm in (BASE, *ARMS) if arm in runs}, BASE
    ).items():
        row: dict[str, Any] = {
            "setting": f"{setting['data']}, {setting['pictures']:,} pictures, "
            f"{setting['image_size']} px, {setting['model']} model, {setting['epochs']} epochs",
            "arm": arm, "seeds": count,
        }  # fmt: skip
        for probe in PROBES:
            row[probe] = mean_of(
                [runs[BASE][seed] for seed in runs[BASE] if seed in runs[arm]], probe
            )
            row[f"{probe}_difference"] = said_difference(comparisons[probe], count)
            row[f"{probe}_epochs"] = said_part(comparisons[probe]["epochs"])
        if "finetune" in comparisons:
            row["finetune_difference"] = said_difference(comparisons["finetune"], count)
        rows.append(row)
    return rows


def scaling_table(folder: Path, fresh: bool = True) -> dict[str, Any]:
    """Return the table of all settings with finished runs of pixels and another arm."""
    rows = [
        row
        for setting in settings_of(folder)
        for row in rows_of(setting, read_runs(folder, setting, fresh))
    ]
    columns: list[dict[str, Any]] = [
        {"key": "setting", "title": "setting"},
        {"key": "arm", "title": "target"},
        {"key": "seeds", "title": "seeds", "format": "d"},
    ]
    for probe, title in PROBES.items():
        columns += [
            {"key": probe, "title": f"{BASE}: {title}, %", "format": ".1f"},
            {"key": f"{probe}_difference", "title": f"− {BASE}"},
            {"key": f"{probe}_epochs", "title": "part of epochs"},
        ]
    columns.append({"key": "finetune_difference", "title": f"1,000 labels − {BASE}"})
    caption = (
        f"Differences to {BASE} in points, and the part of the epochs of {BASE} in which its final "
        f"accuracy is reached; {BOOTSTRAP}. Made by "
        "`python -m benchmarks.studies.pretraining.targets` and `targets_scaling`."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS_DIR / "pretraining_targets")
    parser.add_argument(
        "--out", type=Path, default=RESULTS_DIR / "pretraining_targets_scaling.json"
    )
    parser.add_argument("--development", action="store_true", help="development seeds")
    options = parser.parse_args()
    table = scaling_table(options.results, fresh=not options.development)
    write_text(options.out, json.dumps(table, indent=1) + "\n")
    for row in table["rows"]:
        print(row)


if __name__ == "__main__":
    main()
