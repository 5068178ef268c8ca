"""Values of result files that `semattn check` compares with limits, and the reasons without one.

A value that was not tested (no classes, no labels, no masks, no image that could be read) is not
defined, and comes with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Content = Mapping[str, Any]  # content of a result file


class AffectedImage(NamedTuple):
    """Image that a value counts, and what was found in it."""

    name: str
    text: str


class Reading(NamedTuple):
    """Value that was read from a result file.

    Parameters
    ----------
    value : the value; None if it was not tested
    details : what the value is made of, such as the names of cues
    not_tested : reason why the value is not defined, and what to do
    images : images that the value counts
    """

    value: float | None
    details: tuple[str, ...] = ()
    not_tested: str = ""
    images: tuple[AffectedImage, ...] = ()


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
    read: Callable[[Content], Reading]


def _accuracy(content: Content) -> Reading:
    summary = content["summary"]
    labelled, images = summary["labelled"], summary["explained"]
    if summary["accuracy"] is None:
        if not images:
            return Reading(None, not_tested=NOT_EXPLAINED)
        return Reading(
            None, not_tested="no image has a label that is a class of the model; give a folder "
            "with one folder per class",
        )  # fmt: skip
    details = (f"{labelled} of {images} images have a label",) if labelled < images else ()
    return Reading(float(summary["accuracy"]), details)


NOT_EXPLAINED = "no image was explained; run semattn audit with the job explain"


def _background(content: Content) -> Reading:
    value = content["summary"]["means"].get("on_empty")
    if value is None:
        return Reading(None, not_tested=NOT_EXPLAINED)
    return Reading(float(value))


def _damage(broken: Sequence[Sequence[str]]) -> str:
    """Return the reason why a value is not known if archives are damaged; "" if none is."""
    parts = "; ".join(f"{name}: {reason}" for name, reason in broken)
    return f"an archive is damaged ({parts}); repair it" if parts else ""


def _not_searched(content: Content) -> str:
    """Return the reason why a search did not look at all images; "" if it did."""
    damage = _damage(content["manifest"].get("data", {}).get("broken", ()))
    return damage and f"some images were not searched, because {damage}"


def _skipped(content: Content) -> Reading:
    summary = content["summary"]
    if damage := _damage(summary["broken"]):
        return Reading(None, not_tested=f"the number of lost images is not known, because {damage}")
    if not summary["explained"] and summary["skipped"] >= summary["images"]:
        return Reading(None, not_tested="all images were skipped; skipped.parquet has the reasons")
    return Reading(float(summary["skipped"]))


def _confirmed_cues(content: Content) -> Reading:
    if reason := _not_searched(content):
        return Reading(None, not_tested=reason)
    classes, not_searched = content["classes"], content["not_searched"]
    if len(not_searched) >= len(classes):
        return Reading(
            None, not_tested="no class has enough images with patches off the object, so no cue of "
            "patches was searched; give more images",
        )  # fmt: skip
    untested = [
        cue["class"] for cue in content["cues"]
        if not cue["confirmed"] and not cue["transplant"]["count"]
    ]  # fmt: skip
    if untested:
        return Reading(
            None, not_tested=f"the effect of a cue of {', '.join(untested)} could not be measured; "
            "give images on which the model returns finite scores",
        )  # fmt: skip
    details, images = [], []
    for cue in content["cues"]:
        if cue["confirmed"]:
            text = f"{cue['class']}: {cue['where']}"
            details.append(text)
            images += [
                AffectedImage(image["name"], f"{text} (a cue)")
                for image in cue.get("cue_images", cue["examples"])
                if image.get("in_class", True)
            ]
    if not_searched:
        details.append(f"patches not searched in {', '.join(not_searched)}")
    return Reading(
        float(sum(cue["confirmed"] for cue in content["cues"])), tuple(details), "", tuple(images)
    )


def _significant_marks(content: Content) -> Reading:
    if reason := content["not_tested"] or _not_searched(content):
        return Reading(None, not_tested=reason)
    marks = [
        (number, mark) for number, mark in enumerate(content["marks"], 1) if mark["significant"]
    ]
    details, images = [], []
    for number, mark in marks:
        details.append(f"{mark['class']}: a mark in {mark['n_inside']} images")
        images += [
            AffectedImage(name, f"mark {number} of marks-images.csv, a mark of {mark['class']}")
            for name in mark.get("image_names", ())
        ]
    count = content["significant"]
    if count > len(marks):
        details.append(f"{count - len(marks)} more marks are not listed")
    return Reading(float(count), tuple(details), "", tuple(images))


def _pointing(content: Content) -> Reading:
    of_default = [row for row in content["methods"] if row["method"] == "sift-patch-interrelation"]
    rows = of_default or [row for row in content["methods"] if not row["control"]]
    if not rows:
        return Reading(None, not_tested="no method other than controls was measured")
    pointing = rows[0]["metrics"].get("pointing")
    if pointing is None or pointing["mean"] is None:
        return Reading(
            None, not_tested="no map was compared with a mask; run semattn bench explain with "
            "masks and the metric pointing",
        )  # fmt: skip
    return Reading(float(pointing["mean"]), (rows[0]["method"],))


RULES = {
    "min-accuracy": CheckedValue(
        "audit.json", "audit", "labelled images that are classified correctly", True, False,
        _accuracy,
    ),
    "max-background": CheckedValue(
        "audit.json", "audit", "mean share of the map on patches without a keypoint", False, False,
        _background,
    ),
    "max-skipped": CheckedValue(
        "audit.json", "audit", "images that were skipped", False, True, _skipped
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
