"""Write the tables of README.md and docs/ from the committed results.

    python benchmarks/tools/render_tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. It is built from
results/NAME.json or by a function in `TABLE_BUILDERS`. With --check nothing is written, and the
exit status is 1 if a page differs from the results.

A result is an object with `columns`, a list of {"key", "title", "format"} (format as in Python's
format(), absent for text), `rows`, a list of objects with those keys (None prints as a dash), and
`caption`, one sentence on what was measured, and how.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import RESULTS_DIR, ROOT

from .reproduce_table import reproduce_table
from .summary_table import summary

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def table(result: dict[str, Any]) -> str:
    """Return a Markdown table with its caption below."""
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
    """Return the results of the sweep over timm's architectures, by family."""
    from semattn.zoo.model_status import families, model_statuses, sweep

    models = model_statuses()
    rows = [
        {
            "family": family.name,
            "models": family.total,
            "works": family.counts["works"],
            "refused": family.counts["refused"] or None,
            "untried": family.counts["not tried"] or None,
            "wrong": family.counts["wrong"] or None,
            "example": f"`{family.example}`" if family.example else None,
        }
        for family in families(models)
    ]
    counts = Counter(model.status for model in models.values())
    total, works = len(models), counts["works"]
    result = sweep()
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
            f"{counts['not tried']} were not tried (they do not fit {result['limit_gb']:g} GB, or "
            f"take too long). timm {result['timm']}, torch {result['torch']}, random weights, own "
            "input size, depth cut. Made by `python -m benchmarks.tools.sweep_timm`."
        ),
    }


def _refusals() -> dict[str, Any]:
    """Return the architectures that do not work, by family and reason."""
    from semattn.zoo.model_status import model_statuses

    refusals: dict[tuple[str, str], list[str]] = {}
    for model in model_statuses().values():
        if model.status != "works":
            reason = re.sub(r"^\S+ \((\w+)\): ", r"\1: ", model.reason)  # the class, not its place
            reason = re.sub(r" (in a call of|on) (shape )?\([\d, ]+\)", "", reason)
            refusals.setdefault((model.family, reason), []).append(model.name)
    return {
        "columns": [
            {"key": "family", "title": "module of timm"},
            {"key": "names", "title": "architectures"},
            {"key": "reason", "title": "what semattn says"},
        ],
        "rows": [
            {"family": family, "names": ", ".join(f"`{name}`" for name in names), "reason": reason}
            for (family, reason), names in sorted(refusals.items())
        ],
        "caption": "Everything of the table above that does not work.",
    }


def _propagation_sweep() -> dict[str, Any]:
    """Return the results of the sweep of AttnLRP over the families of timm."""
    result = _load(RESULTS_DIR / "propagation_sweep.json")
    families = result["families"]
    counts = Counter(row["status"] for row in families.values())
    twins = Counter(row["twin"].partition(":")[0] for row in families.values() if "twin" in row)
    sums = [row for row in families.values() if "conservation" in row and "not_checked" not in row]
    rows = [
        {
            "family": family,
            "model": f"`{row['model']}`",
            "status": row["status"],
            "twin": row.get("twin", "").partition(":")[0] or None,
            "conservation": row.get("conservation"),
            "remark": "; ".join(
                row[key] for key in ("reason", "not_checked", "without_rule") if key in row
            ),
        }
        for family, row in sorted(families.items())
    ]
    return {
        "columns": [
            {"key": "family", "title": "module of timm"},
            {"key": "model", "title": "model"},
            {"key": "status", "title": "result"},
            {"key": "twin", "title": "twin"},
            {"key": "conservation", "title": "sum / score", "format": ".3f"},
            {"key": "remark", "title": "remark"},
        ],
        "rows": rows,
        "caption": (
            f"One small model of {len(families)} of {result['all_families']} families: "
            f"{counts['works']} work, {counts['refused']} are refused by name, {counts['wrong']} "
            f"are wrong, {counts['not tried']} were not tried. {twins['equal']} twins are equal. "
            f"The sum of the relevance is checked in {len(sums)} models: without biases, with "
            "constant attention and the rules without gamma. Random weights, depth cut, float64. "
            f"timm {result['timm']}, torch {result['torch']}. Made by "
            "`python -m benchmarks.tools.sweep_propagation`."
        ),
    }


SHORT = {
    "sift-patch-interrelation": "**SIFTPatchInterrelation**",
    "sift-patch-interrelation:uniform": "the same without SIFT (model-only)",
    "sift-patch-interrelation:sobel": "the same with Sobel for SIFT",
    "sift-patch-interrelation:affinity=0": "the same without affinity refinement",
    "legrad": "LeGrad",
    "generic-relevance": "generic relevance (Chefer)",
    "generic-relevance+refined": "generic relevance with affinity refinement",
    "raw-attention": "raw attention",
    "raw-attention+refined": "raw attention with affinity refinement",
    "attention-rollout": "rollout",
    "attention-rollout+refined": "rollout with affinity refinement",
    "fast-vit-rollout/rollout": "rollout, fast-vit-rollout's",
    "grad-cam": "Grad-CAM",
    "grad-cam+refined": "Grad-CAM with affinity refinement",
    "pytorch-grad-cam/HiResCAM": "HiResCAM, pytorch-grad-cam's",
    "captum/SmoothGrad": "SmoothGrad, Captum's",
    "hilrp/AttnLRP": "AttnLRP, hilrp's",
    "keypoint-density": "keypoints alone (control)",
    "keypoint-density:sobel": "edges alone (control)",
    "center": "centre (control)",
    "random": "random (control)",
}
SETS = {"explain_test": "test", "explain_unseen_objects": "unseen objects"}
RENAMED = {":growth=": ":affinity=", "+grown": "+refined"}  # names of methods in older results


def _load(file: Path) -> Any:
    """Read a result, with the present names of the methods."""
    text = file.read_text(encoding="utf-8")
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    return json.loads(text)


def _explained() -> dict[str, Any]:
    """Return the main columns of both test sets, ours next to the other methods."""
    results = {name: _load(RESULTS_DIR / f"{name}.json") for name in SETS}
    extra_results = [
        {name: _load(RESULTS_DIR / f"{name}_{suffix}.json") for name in SETS}
        for suffix in ("grown", "lrp")
    ]
    method_rows = {
        name: {
            row["method"]: row
            for results_of_set in (*extra_results, results)
            for row in results_of_set[name]["rows"]
        }
        for name in SETS
    }
    columns, rows = [{"key": "name", "title": "map"}], []
    for key, title in SETS.items():
        for metric, short in (("ap", "AP"), ("insertion-deletion", "ins − del")):
            columns.append({"key": f"{key} {metric}", "title": f"{title}: {short}"})
            columns.append({"key": f"{key} ours {metric}", "title": f"ours − it, {short}"})
    for method, name in SHORT.items():
        row: dict[str, Any] = {"name": name}
        for key in SETS:
            for metric in ("ap", "insertion-deletion"):
                row[f"{key} {metric}"] = method_rows[key][method][metric].split(" ")[0]
                row[f"{key} ours {metric}"] = method_rows[key][method].get(f"ours {metric}")
        rows.append(row)
    counts = [result["manifest"]["data"]["count"] for result in results.values()]
    return {
        "columns": columns,
        "rows": rows,
        "caption": (
            f"Objects on scenes, {counts[0]} images of other scenes than in development and "
            f"{counts[1]} of other objects too, opened once with everything frozen; the true class "
            "explained, no refinement. AP of pixels against the mask; insertion less deletion in "
            "16 steps against the blurred image; paired differences with 95 % bootstrap intervals "
            "over images. All rows and columns: docs/benchmarks.md. Made by "
            "`python -m benchmarks.studies.explain.methods`."
        ),
    }


def _tables_of_pages() -> Iterator[tuple[Path, str]]:
    """Yield page and text of each table of the documentation."""
    for page in PAGES[1:]:
        for match in PLACE.finditer(page.read_text(encoding="utf-8")):
            if match[2] != "reproduce":
                yield page, match[0]


TABLE_BUILDERS = {
    "explained": _explained,
    "families": _families,
    "propagation_sweep": _propagation_sweep,
    "refusals": _refusals,
    "reproduce": lambda: reproduce_table(_tables_of_pages()),
    "summary": lambda: summary(_explained),
}


def render(page: str, results: Path = RESULTS_DIR) -> str:
    """Return the page with every table rendered; a table without a result says so."""

    def fill(match: re.Match[str]) -> str:
        file = results / f"{match[2]}.json"
        text = "Not measured yet.\n"
        if match[2] in TABLE_BUILDERS:
            text = table(TABLE_BUILDERS[match[2]]())
        elif file.exists():
            text = table(_load(file))
        return match[1] + text + match[3]

    return PLACE.sub(fill, page)


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or with --check report the pages that differ."""
    status = 0
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        rendered = render(page)
        if rendered == page:
            continue
        status = 1
        if "--check" in arguments:
            print(f"{file.name}: its tables differ from the results — run make tables")
        else:
            file.write_text(rendered, encoding="utf-8")
    return status if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
