"""Limits on what an audit, a search or a benchmark found, for continuous integration.

The values are read from the result files of earlier commands; nothing is computed again. A value
that was not tested fails its limit, and a limit without a result file is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SemattnError
from .checked_values import RULES, AffectedImage, CheckedValue, Reading


@dataclass(frozen=True)
class Check:
    """Value of a result, and whether it is within a limit.

    Parameters
    ----------
    name : name of the limit, such as "max-cues"
    text : what the value is
    value : the value; None if it was not tested
    limit : least or greatest value that passes
    passed : whether the value passes
    file : file that the value was read from
    details : what the value is made of, such as the names of cues
    is_least : whether the limit is the least value, and not the greatest
    not_tested : reason why the value is not defined; "" if it is
    images : images that the value counts, and what was found in each
    """

    name: str
    text: str
    value: float | None
    limit: float
    passed: bool
    file: Path
    details: tuple[str, ...] = ()
    is_least: bool = False
    not_tested: str = ""
    images: tuple[AffectedImage, ...] = ()

    @property
    def details_text(self) -> str:
        """Parts of the value, in brackets; "" if there are none."""
        return f" ({'; '.join(self.details)})" if self.details else ""


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
    against : folder with earlier results: each of their values must not be worse now, or missing
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
    reading = _read(file, rule)
    value = reading.value
    passed = value is not None and (value >= limit if rule.is_least else value <= limit)
    return Check(
        name, rule.text, value, limit, passed, file, reading.details, rule.is_least,
        reading.not_tested, reading.images,
    )  # fmt: skip


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
    """Return a check for each value of the earlier results, which is its limit.

    A result that is missing now fails. A value that was not tested before is no limit.
    """
    checks = []
    n_common = 0
    for name, rule in RULES.items():
        file, earlier_file = _find(folder, rule.file), _find(earlier, rule.file)
        if earlier_file is None:
            continue
        n_common += file is not None
        before = _read(earlier_file, rule).value
        if before is None:
            continue
        slack = 0.0 if rule.is_count else tolerance
        limit = before - slack if rule.is_least else before + slack
        if file is None:
            missing = (
                f"{folder} has no {rule.file}, which {earlier} has; run semattn {rule.command} "
                f"with --out {folder}"
            )
            check = Check(
                name, rule.text, None, limit, False, folder / rule.file, is_least=rule.is_least,
                not_tested=missing,
            )  # fmt: skip
        else:
            check = _check(name, limit, file)
        checks.append(replace(check, name=f"{name.partition('-')[2]}, against {earlier}"))
    if not n_common:
        raise SemattnError(
            f"against: expected results of the same commands in {folder} and {earlier}, got no "
            "common result file"
        )
    if not checks:
        raise SemattnError(
            f"against: expected a value that was tested in {earlier}, got none — give results that "
            "have one"
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


def _read(file: Path, rule: CheckedValue) -> Reading:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        reading = rule.read(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SemattnError(
            f"folder: expected the results of semattn {rule.command} in {file}, got "
            f"{type(error).__name__}: {error} — run it again"
        ) from error
    if reading.value is not None and not math.isfinite(reading.value):
        return Reading(None, not_tested=f"the value is not a number; run semattn {rule.command}")
    return reading
