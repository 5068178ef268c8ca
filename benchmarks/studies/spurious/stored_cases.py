"""Cases of a study with a result file each, so that an interrupted run resumes.

Several processes may share the folder of the results, each with its own ``--part``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from semattn.zoo import cache_dir


class StoredCase(Protocol):
    """Case with a file name for its result."""

    @property
    def file(self) -> str:
        """File name of the result."""


CaseT = TypeVar("CaseT", bound=StoredCase)


def folders(doc: str | None, results: Path, work: str = "") -> argparse.ArgumentParser:
    """Return a parser for the folders of a study.

    Parameters
    ----------
    doc : docstring of the command, whose first line describes it
    results : default of ``--results``
    work : name of the default of ``--work`` in the cache; "" for a study that stores nothing else
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=results, help="one file per case")
    if work:
        parser.add_argument("--work", type=Path, default=cache_dir() / work, help="stored data")
    return parser


def arguments(doc: str | None, results: Path, work: str = "") -> argparse.ArgumentParser:
    """Return a parser for the options of `pending`; parameters are those of `folders`."""
    parser = folders(doc, results, work)
    parser.add_argument("--part", default="0/1", help="index and number of processes: 0/2, 1/2")
    parser.add_argument("--only", default="", help="only result files that match this expression")
    return parser


def pending(
    cases: Iterable[CaseT], options: argparse.Namespace, *, again: bool = False
) -> Iterator[tuple[CaseT, Path]]:
    """Yield the cases of this process that have no result yet, and the paths of their results.

    With `again`, also those that have one: for studies that add to it.
    """
    options.results.mkdir(parents=True, exist_ok=True)
    if hasattr(options, "work"):
        options.work.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    for number, case in enumerate(cases):
        path = options.results / case.file
        if (
            number % parts == part
            and re.search(options.only, case.file)
            and (again or not path.exists())
        ):
            yield case, path
