"""Checks in the formats that continuous integration reads: JUnit XML and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from ..version import __version__
from .checks import RULES, Check

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sentence(check: Check) -> str:
    """Return what was found and expected.

    Examples
    --------
    >>> from pathlib import Path
    >>> sentence(Check("max-cues", "confirmed cues", 2.0, 0.0, False, Path("s"), ("cat: corner",)))
    'confirmed cues: 2, expected at most 0 (cat: corner)'
    """
    kind = "at least" if check.is_least else "at most"
    value = "not defined" if check.value is None else f"{check.value:.4g}"
    return f"{check.text}: {value}, expected {kind} {check.limit:.4g}{check.details_text}"


def to_junit(checks: Sequence[Check]) -> bytes:
    """Return the checks as a JUnit XML document: a test case for each of them."""
    failures = sum(not check.passed for check in checks)
    suite = ET.Element(
        "testsuite", name="semattn check", tests=str(len(checks)), failures=str(failures)
    )
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname="semattn", name=check.name)
        if not check.passed:
            failure = ET.SubElement(case, "failure", message=_xml_text(sentence(check)))
            failure.text = _xml_text(str(check.file))
        else:
            ET.SubElement(case, "system-out").text = _xml_text(sentence(check))
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document


def to_sarif(checks: Sequence[Check]) -> str:
    """Return the failed checks as a SARIF document; each is a result of its rule."""
    rules = [{"id": name, "shortDescription": {"text": rule.text}} for name, rule in RULES.items()]
    results: list[dict[str, Any]] = [
        {
            "ruleId": check.name,
            "level": "error",
            "message": {"text": sentence(check)},
            "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": check.file.as_posix()}}}
            ],
        }
        for check in checks
        if not check.passed
    ]
    driver = {"name": "semattn", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _xml_text(text: str) -> str:
    """Return a text without characters that XML 1.0 forbids."""
    return "".join(
        character if character in "\t\n\r" or character.isprintable() else "\ufffd"
        for character in text
    )
