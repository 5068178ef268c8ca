"""Limits on what an audit, a search or a benchmark found, for continuous integration.

The values are read from the result files of earlier commands; nothing is computed again. A value
that is not defined fails its limit, and a limit without a result file is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import SemattnError

Value = tuple[float | None, tuple[str, ...]]  # a value, and what it is made of


@dataclass(frozen=True)
class CheckedValue:
    """Value of a result file that can have a limit.

    Parameters
    ----------
    file, command : name of the result file, and the command that writes it
    text : what the value is
    is_least : whether the limit is the least value, and not the greatest
    is_count : whether the value counts something
    read : function from the content of the file to the value
    """

    file: str
    command: str
    text: str
    is_least: bool
    is_count: bool
    read: Callable[[Mapping[str, Any]], Value]


@dataclass(frozen=True)
class Check:
    """Value of a result, and whether it is within a limit.

    Parameters
    ----------
    name : name of the limit, such as "max-cues"
    text : what the value is
    value : the value; None if it is not defined
    limit : least or greatest value that passes
    passed : whether the value passes
    file : file that the value was read from
    details : what the value is made of, such as the names of cues
    is_least : whether the limit is the least value, and not the greatest
    """

    name: str
    text: str
    value: float | None
    limit: float
    passed: bool
    file: Path
    details: tuple[str, ...] = ()
    is_least: bool = False

    @property
    def details_text(self) -> str:
        """Parts of the value, in brackets; "" if there are none."""
        return f" ({'; '.join(self.details)})" if self.details else ""


def _number(*keys: str) -> Callable[[Mapping[str, Any]], Value]:
    def read(content: Mapping[str, Any]) -> Value:
        value: Any = content
        for key in keys:
            value = value[key]
        return None if value is None else float(value), ()

    return read


def _confirmed_cues(content: Mapping[str, Any]) -> Value:
    names = [f"{cue['class']}: {cue['where']}" for cue in content["cues"] if cue["confirmed"]]
    return float(len(names)), tuple(names)


def _significant_marks(content: Mapping[str, Any]) -> Value:
    marks = [mark for mark in content["marks"] if mark["significant"]]
    names = [f"{mark['class']}: a mark in {mark['n_inside']} images" for mark in marks]
    return float(len(names)), tuple(names)


def _pointing(content: Mapping[str, Any]) -> Value:
    of_default = [row for row in content["methods"] if row["method"] == "sift-patch-interrelation"]
    rows = of_default or [row for row in content["methods"] if not row["control"]]
    if not rows or "pointing" not in rows[0]["metrics"]:
        return None, ()
    value = rows[0]["metrics"]["pointing"]["mean"]
    return None if value is None else float(value), (rows[0]["method"],)


RULES = {
    "min-accuracy": CheckedValue(
        "audit.json", "audit", "labelled images that are classified correctly", True, False,
        _number("summary", "accuracy"),
    ),
    "max-background": CheckedValue(
        "audit.json", "audit", "mean share of the map on patches without a keypoint", False, False,
        _number("summary", "means", "on_empty"),
    ),
    "max-skipped": CheckedValue(
        "audit.json", "audit", "images that were skipped", False, True,
        _number("summary", "skipped"),
    ),
    "max-cues": CheckedValue(
        "spurious.json", "spurious", "confirmed cues", False, True, _confirmed_cues
    ),
    "max-marks": CheckedValue(
        "marks.json", "marks", "marks that a class shows more often than others", False, True,
        _significant_marks,
    ),
    "min-pointing": CheckedValue(
        "bench.json", "bench explain", "maps whose maximum is on the object", True, False, _pointing
    ),
}  # fmt: skip


def check_results(
    folder: str | Path,
    limits: Mapping[str, float],
    *,
    against: str | Path | None = None,
    tolerance: float = 0.0,
) -> list[Check]:
    """Check the results in a folder against limits, and against earlier results.

    Parameters
    ----------
    folder : folder with the results of `semattn audit`, `spurious`, `marks` or `bench explain`;
        those in its folders count, too
    limits : limits by the names of `RULES`
    against : folder with earlier results: each value that both folders have must not be worse
    tolerance : amount by which a value other than a count may be worse than the earlier one

    Raises
    ------
    SemattnError
        For an unknown limit, no limit at all, a limit whose result is missing, or a damaged file.
    """
    folder = Path(folder)
    if unknown := sorted(set(limits) - set(RULES)):
        raise SemattnError(f"limits: expected some of {', '.join(RULES)}, got {unknown[0]!r}")
    if not limits and against is None:
        raise SemattnError(
            "limits: expected a limit, such as --max-cues 0, or earlier results (--against), got "
            "none"
        )
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise SemattnError(f"tolerance: expected a finite number >= 0, got {tolerance:g}")
    for name, limit in limits.items():
        if not (limit >= 0 and math.isfinite(limit)):
            raise SemattnError(f"{name}: expected a finite number >= 0, got {limit:g}")
    checks = [_check(name, limit, _required(folder, name)) for name, limit in limits.items()]
    return checks if against is None else [*checks, *_compare(folder, Path(against), tolerance)]


def _check(name: str, limit: float, file: Path) -> Check:
    rule = RULES[name]
    value, details = _read(file, rule)
    passed = value is not None and (value >= limit if rule.is_least else value <= limit)
    return Check(name, rule.text, value, limit, passed, file, details, rule.is_least)


def _required(folder: Path, name: str) -> Path:
    """Return the result file of a limit."""
    rule = RULES[name]
    file = _find(folder, rule.file)
    if file is None:
        raise SemattnError(
            f"{name}: expected {rule.file} in {folder}, got none — run semattn {rule.command} with "
            f"--out {folder}"
        )
    return file


def _compare(folder: Path, earlier: Path, tolerance: float) -> list[Check]:
    """Return a check for each value that both folders have; its limit is the earlier value."""
    checks = []
    for name, rule in RULES.items():
        file, earlier_file = _find(folder, rule.file), _find(earlier, rule.file)
        if file is None or earlier_file is None:
            continue
        before, _ = _read(earlier_file, rule)
        if before is None:  # nothing to compare with
            continue
        slack = 0.0 if rule.is_count else tolerance
        limit = before - slack if rule.is_least else before + slack
        check = _check(name, limit, file)
        checks.append(replace(check, name=f"{name.partition('-')[2]}, against {earlier}"))
    if not checks:
        raise SemattnError(
            f"against: expected results of the same commands in {folder} and {earlier}, got no "
            "common result file"
        )
    return checks


def _find(folder: Path, name: str) -> Path | None:
    """Return the result file of a folder or of a folder in it; None without one."""
    if not folder.is_dir():
        raise SemattnError(f"folder: expected a folder with results, got {folder}")
    files = [file for file in (folder / name, *sorted(folder.glob(f"*/{name}"))) if file.is_file()]
    if len(files) > 1 and files[0].parent != folder:
        raise SemattnError(
            f"folder: expected one {name} in {folder}, got {len(files)} in its folders — give one "
            "of them"
        )
    return files[0] if files else None


def _read(file: Path, rule: CheckedValue) -> Value:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        value, details = rule.read(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SemattnError(
            f"folder: expected the results of semattn {rule.command} in {file}, got "
            f"{type(error).__name__}: {error} — run it again"
        ) from error
    is_defined = value is not None and math.isfinite(value)
    return (value if is_defined else None), details
