"""Write the tables of README.md from the results in benchmarks/results.

    python benchmarks/render_tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->` and is made from
results/NAME.json. With --check nothing is written; the exit status is 1 if the two disagree.

A result is an object with `columns`, a list of {"key", "title", "format"} (format as in Python's
format(), left out for text), `rows`, a list of objects with those keys (None prints as a dash), and
`caption`, one sentence on what was measured, on what, with what.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table(result: dict[str, Any]) -> str:
    """A Markdown table, and its caption under it."""
    columns = result["columns"]
    lines = [
        [column["title"] for column in columns],
        ["---:" if column.get("format") else "---" for column in columns],
    ]
    lines += [
        [_cell(row.get(column["key"]), column.get("format")) for column in columns]
        for row in result["rows"]
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{result['caption']}\n"


def _cell(value: Any, form: str | None) -> str:
    if value is None:
        return "–"
    return format(value, form) if form else str(value).replace("|", "\\|")


def render(page: str, results: Path = RESULTS) -> str:
    """The page with every table made anew; one without a result says so."""

    def fill(place: re.Match[str]) -> str:
        file = results / f"{place[2]}.json"
        made = "Not measured yet.\n"
        if file.exists():
            made = table(json.loads(file.read_text(encoding="utf-8")))
        return place[1] + made + place[3]

    return PLACE.sub(fill, page)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or with --check say whether they are as they should be."""
    page = PAGE.read_text(encoding="utf-8")
    made = render(page)
    if "--check" in arguments:
        if made != page:
            print("README.md: its tables differ from benchmarks/results — run make tables")
        return int(made != page)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
