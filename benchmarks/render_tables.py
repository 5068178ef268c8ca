"""Write the tables of README.md and docs/ from the committed results.

    python benchmarks/render_tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->` and is made from
results/NAME.json, or, those of `MADE`, from the sweep over architectures that the package holds.
With --check nothing is written; the exit status is 1 if the two disagree.

A result is an object with `columns`, a list of {"key", "title", "format"} (format as in Python's
format(), left out for text), `rows`, a list of objects with those keys (None prints as a dash), and
`caption`, one sentence on what was measured, on what, with what.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
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


def _families() -> dict[str, Any]:
    """The sweep's result by family."""
    from semattn.zoo.known import families, known, sweep

    models = known()
    rows = [
        {
            "family": one.name,
            "models": one.total,
            "works": one.counts["works"],
            "refused": one.counts["refused"] or None,
            "untried": one.counts["not tried"] or None,
            "wrong": one.counts["wrong"] or None,
            "example": f"`{one.example}`" if one.example else None,
        }
        for one in families(models)
    ]
    counts = Counter(one.status for one in models.values())
    total, works = len(models), counts["works"]
    made = sweep()
    return {
        "columns": [
            {"key": "family", "title": "module of timm"},
            {"key": "models", "title": "architectures", "format": ","},
            {"key": "works", "title": "work", "format": ","},
            {"key": "refused", "title": "refused", "format": ","},
            {"key": "untried", "title": "not tried", "format": ","},
            {"key": "wrong", "title": "wrong", "format": ","},
            {"key": "example", "title": "for example"},
        ],
        "rows": rows,
        "caption": (
            f"{works} of {total} architectures work ({works / total:.1%}), "
            f"{counts['refused']} are refused by name, {counts['wrong']} are wrong, "
            f"{counts['not tried']} were not tried (they do not fit {made['limit_gb']:g} GB, or "
            f"take too long). timm {made['timm']}, torch {made['torch']}, random weights, own "
            "input size, depth cut. Made by `python -m benchmarks.sweep_timm`."
        ),
    }


def _refusals() -> dict[str, Any]:
    """What does not work, by family and reason."""
    from semattn.zoo.known import known

    found: dict[tuple[str, str], list[str]] = {}
    for one in known().values():
        if one.status != "works":
            reason = re.sub(r"^\S+ \((\w+)\): ", r"\1: ", one.reason)  # the class, not its place
            reason = re.sub(r" (in a call of|on) (shape )?\([\d, ]+\)", "", reason)
            found.setdefault((one.family, reason), []).append(one.name)
    return {
        "columns": [
            {"key": "family", "title": "module of timm"},
            {"key": "names", "title": "architectures"},
            {"key": "reason", "title": "what semattn says"},
        ],
        "rows": [
            {"family": family, "names": ", ".join(f"`{one}`" for one in names), "reason": reason}
            for (family, reason), names in sorted(found.items())
        ],
        "caption": "Everything of the table above that does not work.",
    }


SHORT = {
    "sift-patch-interrelation": "**SIFTPatchInterrelation**",
    "sift-patch-interrelation:uniform": "the same without SIFT (model-only)",
    "sift-patch-interrelation:sobel": "the same with Sobel for SIFT",
    "sift-patch-interrelation:growth=0": "the same, not grown",
    "legrad": "LeGrad",
    "generic-relevance": "generic relevance (Chefer)",
    "generic-relevance+grown": "generic relevance, grown",
    "raw-attention": "raw attention",
    "raw-attention+grown": "raw attention, grown",
    "attention-rollout": "rollout",
    "attention-rollout+grown": "rollout, grown",
    "fast-vit-rollout/rollout": "rollout, fast-vit-rollout's",
    "grad-cam": "Grad-CAM",
    "grad-cam+grown": "Grad-CAM, grown",
    "pytorch-grad-cam/HiResCAM": "HiResCAM, pytorch-grad-cam's",
    "captum/SmoothGrad": "SmoothGrad, Captum's",
    "hilrp/AttnLRP": "AttnLRP, hilrp's",
    "keypoint-density": "keypoints alone (control)",
    "keypoint-density:sobel": "edges alone (control)",
    "center": "centre (control)",
    "random": "random (control)",
}
SETS = {"explain_test": "test", "explain_unseen_objects": "unseen objects"}


def _explained() -> dict[str, Any]:
    """The rows of both test sets that a reader looks for first."""
    made = {name: json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in SETS}
    later = [
        {name: json.loads((RESULTS / f"{name}_{what}.json").read_text("utf-8")) for name in SETS}
        for what in ("grown", "lrp")
    ]
    found = {
        name: {row["method"]: row for one in (*later, made) for row in one[name]["rows"]}
        for name in SETS
    }
    columns, rows = [{"key": "name", "title": "map"}], []
    for key, title in SETS.items():
        for metric, short in (("ap", "AP"), ("insertion-deletion", "ins − del")):
            columns.append({"key": f"{key} {metric}", "title": f"{title}: {short}"})
            columns.append({"key": f"{key} ours {metric}", "title": f"ours less it, {short}"})
    for method, name in SHORT.items():
        row: dict[str, Any] = {"name": name}
        for key in SETS:
            for metric in ("ap", "insertion-deletion"):
                row[f"{key} {metric}"] = found[key][method][metric].split(" ")[0]
                row[f"{key} ours {metric}"] = found[key][method].get(f"ours {metric}")
        rows.append(row)
    counts = [one["manifest"]["data"]["count"] for one in made.values()]
    return {
        "columns": columns,
        "rows": rows,
        "caption": (
            f"Objects on scenes, {counts[0]} images of other scenes than in development and "
            f"{counts[1]} of other objects too, opened once with everything frozen; the true class "
            "explained, no refinement. AP of pixels against the mask; insertion less deletion in "
            "16 steps against the blurred image; paired differences with 95 % bootstrap intervals "
            "over images. All rows and columns: docs/benchmarks.md. Made by "
            "`python -m benchmarks.bench_explain`."
        ),
    }


MADE = {"explained": _explained, "families": _families, "refusals": _refusals}


def render(page: str, results: Path = RESULTS) -> str:
    """The page with every table made anew; one without a result says so."""

    def fill(place: re.Match[str]) -> str:
        file = results / f"{place[2]}.json"
        made = "Not measured yet.\n"
        if place[2] in MADE:
            made = table(MADE[place[2]]())
        elif file.exists():
            made = table(json.loads(file.read_text(encoding="utf-8")))
        return place[1] + made + place[3]

    return PLACE.sub(fill, page)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or with --check say whether they are as they should be."""
    differ = 0
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        made = render(page)
        if made == page:
            continue
        differ = 1
        if "--check" in arguments:
            print(f"{file.name}: its tables differ from the results — run make tables")
        else:
            file.write_text(made, encoding="utf-8")
    return differ if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
