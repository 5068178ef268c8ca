"""Checks in the formats that continuous integration reads: JUnit XML and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from ..version import __version__
from .checks import RULES, Check

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MAX_IMAGE_RESULTS = 300  # SARIF results of images, over all checks
NAMED = 10  # images that a JUnit failure names


def sentence(check: Check) -> str:
    """Return what was found and expected.

    Examples
    --------
    >>> from pathlib import Path
    >>> sentence(Check("max-cues", "confirmed cues", 2.0, 0.0, False, Path("s"), ("cat: corner",)))
    'confirmed cues: 2, expected at most 0 (cat: corner)'
    """
    if check.not_tested:
        return f"{check.name}: {check.not_tested}"
    kind = "at least" if check.is_least else "at most"
    return f"{check.text}: {check.value:.4g}, expected {kind} {check.limit:.4g}{check.details_text}"


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
            failure.text = _xml_text("\n".join([str(check.file), *_first_images(check)]))
        else:
            ET.SubElement(case, "system-out").text = _xml_text(sentence(check))
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document


def _first_images(check: Check) -> list[str]:
    """Return a line on the images that a value counts: the first names, and how many follow."""
    names = list(_texts_of_images(check))
    if not names:
        return []
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"images: {', '.join(names[:NAMED])}{more}"]


def _texts_of_images(check: Check) -> dict[str, str]:
    """Return what was found in each image that a value counts, by its name."""
    texts: dict[str, list[str]] = {}
    for image in check.images:
        texts.setdefault(image.name, []).append(image.text)
    return {name: "; ".join(of_image) for name, of_image in texts.items()}


def to_sarif(checks: Sequence[Check]) -> str:
    """Return the failed checks as a SARIF document.

    Each is a result at its result file, followed by a result for each image that its value counts,
    at most `MAX_IMAGE_RESULTS` of them in the document.
    """
    rules = [{"id": name, "shortDescription": {"text": rule.text}} for name, rule in RULES.items()]
    results = []
    n_free = MAX_IMAGE_RESULTS
    for check in checks:
        if check.passed:
            continue
        texts = _texts_of_images(check)
        listed = list(texts.items())[:n_free]
        n_free -= len(listed)
        left_out = ""
        if len(listed) < len(texts):
            left_out = (
                f"; {len(listed)} of {len(texts)} images are listed in this file, "
                f"{len(texts) - len(listed)} are left out"
            )
        results.append(_sarif_result(check.name, sentence(check) + left_out, check.file.as_posix()))
        results += [
            _sarif_result(check.name, f"{check.text}: {text}", name) for name, text in listed
        ]
    driver = {"name": "semattn", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _sarif_result(rule: str, text: str, location: str) -> dict[str, Any]:
    """Return a SARIF result at a file, without a line: code scanning shows it at the first."""
    physical = {"artifactLocation": {"uri": _to_uri(location)}, "region": {"startLine": 1}}
    return {
        "ruleId": rule, "level": "error", "message": {"text": text},
        "locations": [{"physicalLocation": physical}],
    }  # fmt: skip


def _to_uri(name: str) -> str:
    """Return the URI of a path or of an address.

    Examples
    --------
    >>> _to_uri("photos/a cat#1.jpg"), _to_uri("s3://bucket/x.jpg")
    ('photos/a%20cat%231.jpg', 's3://bucket/x.jpg')
    """
    scheme, separator, rest = name.partition("://")
    if separator and scheme.isalnum():
        return f"{scheme}://{quote(rest, errors='replace')}"
    if Path(name).is_absolute():
        return f"file:///{quote(name.lstrip('/'), safe='/:', errors='replace')}"
    return quote(name, errors="replace")


def _xml_text(text: str) -> str:
    """Return a text without characters that XML 1.0 forbids."""
    return "".join(
        character if character in "\t\n\r" or character.isprintable() else "\ufffd"
        for character in text
    )
