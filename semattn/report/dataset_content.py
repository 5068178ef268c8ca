"""Content of the page about many images: analysis and search for spurious cues.

Pictures are small JPEGs; match scores of patches are bytes in base64. Texts are shared with
`semattn.viz`, so figure, page and command agree.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ShapeError
from ..utils.provenance import model_label
from ..utils.text import to_json_value
from ..viz.texts import (
    examples_text,
    extent_text,
    mark_frequency,
    mark_of,
    rejection_reason,
    search_outcome,
)
from .thumbnails import MAX_EXAMPLES, ROOM, mark_pictures, pictures_size, thumbnail

if TYPE_CHECKING:
    from ..spurious import Discovery, Example, Mark, SpuriousCue

INSPECT_TEXT = (
    "Inspect the pictures of each confirmed cue. A cue that is part of the object, or that always "
    "occurs with it, is not spurious; only you can decide this."
)
STEER_TEXT = (
    "Bias attention away from the cue at inference, and measure the effect on held-out images. It "
    "can also reduce accuracy: see the groups of each cue."
)
DATA_TEXT = (
    "Improve the data: collect images of the class without the cue and of other classes with it, "
    "or reweight the existing images. The cue can be located in new images."
)
REPEAT_TEXT = "Repeat the search after every change, on images that were not used for the change."
INTERVAL_TEXT = (
    "Inspect the tested candidates: one with a wide interval may be a real cue in too few images. "
    "More images per class make the search more sensitive."
)
MANUAL_TEXT = (
    "Check doubtful classes by hand, above all for cues on the object itself, which this search "
    "does not cover."
)
REPEAT_COMMAND = "semattn spurious FOLDER --out after"
MARK_TEXT = (
    "Locate a recurring mark exactly, erase it from images, or hide its patches in all layers."
)
MATCH_CODE = "shown = cue.matches(x, model)  # (B, P) in [0, 1]"
MARK_CODE = """\
regions = cue.locate("x.jpg")  # outlines, pixels
pixels = cue.erase("x.jpg")  # inpainted
with AttentionPrompter(model).steer(cue, suppress=True):
    logits = model(x)"""
STEER_CODE = """\
from semattn.prompting import AttentionPrompter
from semattn.spurious import load_discovery

cue = load_discovery("spurious.npz", model).confirmed[0]
prompter = AttentionPrompter(
    model, strength=1.0, layers="last-half"
)
with prompter.steer(cue):
    logits = model(x)"""


def about_analysis(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of an analysis, with NaN and infinity as None.

    Raises
    ------
    ShapeError
        If a table does not have one row per layer and one entry per head.
    """
    if not isinstance(summary, dict) or not {"layers", "metrics", "lift"} <= summary.keys():
        raise ShapeError(
            "analysis: expected a summary with layers, metrics and lift — "
            "pass a result of semattn.interrelation.analyze"
        )
    heads = [layer["heads"] for layer in summary["layers"]]
    for name, table in {**summary["metrics"], "lift": summary["lift"]}.items():
        for part, values in _tables(table):
            counted = None if values is None else [len(row) for row in values]
            if counted is not None and counted != heads:
                raise ShapeError(
                    f"analysis: expected {heads} heads in {name}.{part}, got {counted} — "
                    "one row per layer, one entry per head"
                )
    return to_json_value(summary)


def _tables(table: dict[str, Any]) -> list[tuple[str, Any]]:
    tables = [(name, table.get(name)) for name in ("mean", "low", "high")]
    for null, parts in table.get("nulls", {}).items():
        tables += [(f"{null}.{name}", values) for name, values in parts.items()]
    return tables


def about_discovery(discovery: Discovery) -> dict[str, Any]:
    """Return confirmed cues with examples, other tested candidates, classes and next steps.

    Only confirmed cues have pictures; cues whose pictures exceed `ROOM` are counted instead.
    """
    cues, unconfirmed, room, left_out = [], [], ROOM, 0
    for cue in discovery.cues:
        entry = _cue(cue) | {"rejection_reason": rejection_reason(cue, discovery)}
        if not cue.confirmed:
            unconfirmed.append(entry)
            continue
        pictures, size = _pictures(cue)
        if size > room:
            left_out += 1
        else:
            room -= size
            entry |= pictures
        cues.append(entry)
    summary = discovery.summary()
    keys = ("images", "candidates", "accuracy", "alpha", "classes", "skipped", "notes", "manifest")
    model = model_label(discovery.manifest)
    page_content: dict[str, Any] = to_json_value(
        {name: summary[name] for name in keys}
        | {"outcome": search_outcome(discovery), "model": str(model), "cues": cues,
           "unconfirmed": unconfirmed, "left_out": left_out, "next": next_steps(discovery)}
    )  # fmt: skip
    return page_content


def next_steps(discovery: Discovery) -> list[dict[str, str]]:
    """Return recommended next steps, each with a text and optional code."""
    confirmed_steps = [(INSPECT_TEXT, ""), (STEER_TEXT, STEER_CODE), (DATA_TEXT, MATCH_CODE)]
    if any(mark_of(cue) is not None for cue in discovery.confirmed):
        confirmed_steps.insert(2, (MARK_TEXT, MARK_CODE))
    steps = confirmed_steps if discovery.confirmed else [(INTERVAL_TEXT, ""), (MANUAL_TEXT, "")]
    return [{"text": text, "code": code} for text, code in (*steps, (REPEAT_TEXT, REPEAT_COMMAND))]


def _cue(cue: SpuriousCue) -> dict[str, Any]:
    entry, mark = cue.summary(), mark_of(cue)
    largest = float(cue.place.max()) if cue.place.size else 0.0
    return entry | {
        "examples": [],
        "examples_text": examples_text(cue),
        "extent_text": extent_text(cue),
        "grid": list(cue.place.shape),
        "place": _bytes(cue.place / max(largest, 1e-9)),
        "max_frequency": largest,
        "mark": None if mark is None else mark_frequency(mark),
    }


def _pictures(cue: SpuriousCue) -> tuple[dict[str, Any], int]:
    """Return the pictures of a cue, and the number of characters that they take."""
    mark = mark_of(cue)
    if mark is not None:
        pictures = _mark_pictures(mark, cue)
        return pictures, pictures_size(pictures)
    examples = [_example(example) for example in cue.examples[:MAX_EXAMPLES]]
    size = sum(len(shown["source"]) + len(shown["matches"]) for shown in examples)
    return {"examples": examples}, size


def _mark_pictures(mark: Mark, cue: SpuriousCue) -> dict[str, Any]:
    """Return the pictures of a mark, with the probabilities of the class where they were tested."""
    pictures = mark_pictures(mark)
    tested = {example.name: example for example in cue.examples}
    for shown in pictures["examples"]:
        example = tested.get(shown["name"])
        shown["before"] = None if example is None else float(example.before)
        shown["without"] = None if example is None else float(example.without)
    return pictures


def _example(example: Example) -> dict[str, Any]:
    return {
        "name": example.name, "source": thumbnail(example.pixels),
        "size": list(example.pixels.shape[:2]),
        "grid": list(example.matches.shape), "cell": list(example.patches.cell),
        "origin": list(example.patches.origin), "matches": _bytes(example.matches),
        "off_object": None if example.off_object is None else _bytes(example.off_object),
        "before": float(example.before), "without": float(example.without),
    }  # fmt: skip


def _bytes(values: np.ndarray) -> str:
    """Encode values in [0, 1] as bytes in base64; NaN becomes 0."""
    codes = (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)
    return base64.b64encode(codes.tobytes()).decode("ascii")
