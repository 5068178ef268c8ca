"""List of all tables of the documentation by the command that makes them, for docs/reproduce.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

COMMAND = re.compile(r"[Mm]ade by\s+`((?:python -m |make )[^`]+)`")
OBJECTS = "objects on scenes"
SECOND = "second test sets"
CIFAR = "CIFAR-10"
NONE = "none"
MINUTES, HOURS, DAYS = "minutes", "hours", "days"
STUDIES: Mapping[str, tuple[str, str]] = {
    "make check-installs": (NONE, HOURS),
    "benchmarks.studies.cost.analysis": (NONE, MINUTES),
    "benchmarks.studies.cost.attribution": (NONE, MINUTES),
    "benchmarks.studies.cost.engine_rows": (NONE, MINUTES),
    "benchmarks.studies.cost.engines": (NONE, HOURS),
    "benchmarks.studies.cost.explainers": (NONE, MINUTES),
    "benchmarks.studies.cost.faithfulness": (OBJECTS, MINUTES),
    "benchmarks.studies.cost.masking": (NONE, MINUTES),
    "benchmarks.studies.cost.prompter": (NONE, MINUTES),
    "benchmarks.studies.cost.propagation": (NONE, HOURS),
    "benchmarks.studies.cost.scale": (NONE, HOURS),
    "benchmarks.studies.cost.search_cost": (OBJECTS, HOURS),
    "benchmarks.studies.cost.sift_agreement": (OBJECTS, MINUTES),
    "benchmarks.studies.cost.throughput": (OBJECTS, HOURS),
    "benchmarks.studies.explain.alignment": (OBJECTS, HOURS),
    "benchmarks.studies.explain.interrelation": (OBJECTS, HOURS),
    "benchmarks.studies.explain.methods": (OBJECTS, HOURS),
    "benchmarks.studies.explain.propagation": (OBJECTS, HOURS),
    "benchmarks.studies.explain.propagation_levels": (OBJECTS, HOURS),
    "benchmarks.studies.explain.propagation_peers": (OBJECTS, MINUTES),
    "benchmarks.studies.explain.randomization": (OBJECTS, HOURS),
    "benchmarks.studies.explain.second_test_sets": (SECOND, HOURS),
    "benchmarks.studies.pretraining.acceleration": (CIFAR, DAYS),
    "benchmarks.studies.pretraining.target_cost": (CIFAR, MINUTES),
    "benchmarks.studies.pretraining.targets": (CIFAR, DAYS),
    "benchmarks.studies.prompting.gain": (OBJECTS, HOURS),
    "benchmarks.studies.spurious.imagenet_w_case": (OBJECTS, HOURS),
    "benchmarks.studies.spurious.loop": (OBJECTS, HOURS),
    "benchmarks.studies.spurious.mark_interventions": (f"{OBJECTS}, {CIFAR}", HOURS),
    "benchmarks.studies.spurious.mark_maps": (f"{OBJECTS}, {CIFAR}", HOURS),
    "benchmarks.studies.spurious.mark_objects": (f"{OBJECTS}, {CIFAR}", HOURS),
    "benchmarks.studies.spurious.marks": (f"{OBJECTS}, {CIFAR}", HOURS),
    "benchmarks.studies.spurious.marks_in_models": (f"{OBJECTS}, {CIFAR}", DAYS),
    "benchmarks.studies.spurious.object_location": (f"{OBJECTS}, {CIFAR}", MINUTES),
    "benchmarks.studies.spurious.other_methods": (OBJECTS, HOURS),
    "benchmarks.studies.spurious.search": (OBJECTS, DAYS),
    "benchmarks.studies.spurious.watermark": (OBJECTS, HOURS),
    "benchmarks.tools.sweep_propagation": (NONE, HOURS),
    "benchmarks.tools.sweep_timm": (NONE, DAYS),
    "tests.fuzz.reliability_audit": (NONE, HOURS),
    "tests.fuzz.reliability_files": (NONE, HOURS),
    "tests.fuzz.reliability_fuzz": (NONE, HOURS),
    "tests.fuzz.reliability_ray": (NONE, HOURS),
    "tests.fuzz.reliability_threads": (NONE, HOURS),
}
"""Module of a command to the data that it needs, and the order of its time on two cores."""


def by_command(tables: Iterable[tuple[Path, str]]) -> dict[str, list[Path]]:
    """Return the pages of the tables of each command.

    Parameters
    ----------
    tables : page and rendered text of each table. A table that names no command is made by
        that of its neighbour before it on the page, or after it
    """
    pages: dict[str, list[Path]] = {}
    for page, of_page in groupby(tables, key=lambda table: table[0]):
        found = [COMMAND.findall(text) for _, text in of_page]
        commands = [names[-1] if names else None for names in found]
        for number in range(len(commands)):
            neighbours = [*commands[number::-1], *commands[number:]]
            if name := next(filter(None, neighbours), None):
                pages.setdefault(name, []).append(page)
    return pages


def reproduce_table(tables: Iterable[tuple[Path, str]]) -> dict[str, Any]:
    """Return the table of all commands; see `by_command`."""
    rows = []
    for command, pages in sorted(by_command(tables).items()):
        module = command if command.startswith("make") else command.split()[2]
        data, duration = STUDIES[module]
        files = sorted({page.name for page in pages})
        rows.append({
            "command": f"`{command}`",
            "pages": ", ".join(f"[{file.removesuffix('.md')}]({file})" for file in files),
            "tables": len(pages), "data": data, "time": duration,
        })  # fmt: skip
    return {
        "columns": [
            {"key": "command", "title": "command"}, {"key": "pages", "title": "page"},
            {"key": "tables", "title": "tables", "format": "d"}, {"key": "data", "title": "data"},
            {"key": "time", "title": "time on two cores"},
        ],
        "rows": rows,
        "caption": (
            f"{sum(row['tables'] for row in rows)} tables. Times are orders of magnitude for all "
            "rows of a table; a run continues after the results that exist where the help of the "
            "command says so."
        ),
    }  # fmt: skip
