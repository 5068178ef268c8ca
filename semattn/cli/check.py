"""`semattn check FOLDER`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..utils.result_folder import FolderLike
from . import options
from .json_output import Content, json_output
from .outputs import result_folder, write_json, write_result_files
from .printing import print_files, verbatim
from .terminal import new_table, open_console, print_table

if TYPE_CHECKING:
    from ..audit.checks import Check

FAILED = 3  # exit status
CHECK_FILES = {"result": "check.json", "junit": "check.xml", "sarif": "check.sarif"}
LIMITS = "Limits"


def _limit(help_text: str) -> Any:
    return typer.Option(metavar="X", rich_help_panel=LIMITS, help=help_text)


MinAccuracy = Annotated[
    float | None, _limit("Least share of labelled images that are classified correctly (audit).")
]
MaxBackground = Annotated[
    float | None, _limit("Greatest mean share of the map on patches without a keypoint (audit).")
]
MaxSkipped = Annotated[float | None, _limit("Greatest number of skipped images (audit).")]
MaxCues = Annotated[float | None, _limit("Greatest number of confirmed cues (spurious).")]
MaxMarks = Annotated[float | None, _limit("Greatest number of significant marks (marks).")]
MinPointing = Annotated[
    float | None,
    _limit("Least share of maps whose maximum is on the object (bench explain, with masks)."),
]
ResultsFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder with the results of [bold]semattn audit[/], [bold]spurious[/], "
        "[bold]marks[/] or [bold]bench explain[/]; those in its folders count, too.",
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", rich_help_panel=LIMITS,
        help="Earlier results: each of their values must not be worse now, or missing.",
    ),
]  # fmt: skip
Tolerance = Annotated[
    float,
    typer.Option(
        metavar="X", rich_help_panel=LIMITS,
        help="Amount by which a share may be worse than that of --against; counts may not.",
    ),
]  # fmt: skip
CheckFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", rich_help_panel=options.OUTPUT,
        help="Folder for the files. Default: semattn-check.",
    ),
]  # fmt: skip


def check(
    folder: ResultsFolder,
    min_accuracy: MinAccuracy = None,
    max_background: MaxBackground = None,
    max_skipped: MaxSkipped = None,
    max_cues: MaxCues = None,
    max_marks: MaxMarks = None,
    min_pointing: MinPointing = None,
    against: Against = None,
    tolerance: Tolerance = 0.01,
    out: CheckFolder = None,
    force: options.Force = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check results against limits, and exit with status 3 if one fails: for CI.

    The results are those of earlier commands; nothing is computed again. A value that was not
    tested fails, such as the number of marks of images without classes.

    Writes [bold]check.json[/], [bold]check.xml[/] (JUnit) and [bold]check.sarif[/] (SARIF, for
    code scanning).
    """
    limits = {
        "min-accuracy": min_accuracy, "max-background": max_background, "max-skipped": max_skipped,
        "max-cues": max_cues, "max-marks": max_marks, "min-pointing": min_pointing,
    }  # fmt: skip
    from ..audit.checks import check_results

    results = result_folder(
        out, "semattn-check", "check", (folder,), CHECK_FILES.values(), force=force
    )
    limits_in_use = {name: limit for name, limit in limits.items() if limit is not None}
    checks = check_results(folder, limits_in_use, against=against, tolerance=tolerance)
    _report(checks, results, as_json=as_json)
    if not all(check_result.passed for check_result in checks):
        raise typer.Exit(FAILED)


@json_output
def _report(checks: list[Check], results: FolderLike, *, as_json: bool) -> Content:
    """Write the files, and print a table of the checks."""
    from ..audit.check_formats import sentence

    content: Content = {
        "passed": all(check_result.passed for check_result in checks),
        "checks": [
            asdict(check_result)
            | {
                "file": str(check_result.file),
                "images": [image._asdict() for image in check_result.images],
            }
            for check_result in checks
        ],
    }
    files = _write(checks, content, results)
    console = open_console()
    table = new_table(2)
    for title in ("", "check", "value", "limit", "what"):
        table.add_column(title)
    for check_result in checks:
        table.add_row(
            "[green]passed[/]" if check_result.passed else "[bold red]failed[/]",
            verbatim(check_result.name),
            "not tested" if check_result.value is None else f"{check_result.value:.4g}",
            f"{check_result.limit:.4g}",
            verbatim(check_result.text + check_result.details_text),
        )
    print_table(console, table)
    for check_result in checks:
        if check_result.not_tested:
            console.print(f"[bold red]{verbatim(sentence(check_result))}[/]", soft_wrap=True)
    failed = sum(not check_result.passed for check_result in checks)
    console.print(f"{failed} of {len(checks)} checks failed" if failed else "all checks passed")
    print_files(console, [], "", files)
    return content | {"files": files}


def _write(checks: list[Check], content: Content, results: FolderLike) -> dict[str, Path]:
    from ..audit.check_formats import to_junit, to_sarif

    junit, sarif = to_junit(checks), to_sarif(checks)
    writers: dict[str, Callable[[Path], object]] = {
        "result": partial(write_json, content=content),
        "junit": lambda path: path.write_bytes(junit),
        "sarif": lambda path: path.write_text(sarif, encoding="utf-8"),
    }
    return write_result_files(results, CHECK_FILES, writers)
