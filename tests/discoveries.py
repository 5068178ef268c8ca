"""Discoveries by hand: what a search may find, with nasty names and numbers that are none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from semattn.spurious import Discovery, Effect, Example, Group, Rank, Skipped, SpuriousCue
from semattn.spurious.cue_detector import CueDetector
from semattn.spurious.marks.cue import MarkCue
from tests import marked

NONE = Effect(math.nan, math.nan, math.nan, 0, 1.0)
GRID, SIZE = (3, 4), (48, 64)


def example(number: int, tried: bool = True, name: str = "photos/owl/{}.png") -> Example:
    """Grey, with a bright tag at the lower right; a patch of the object looks like it, too."""
    pixels = np.full((*SIZE, 3), 60 + 10 * number, np.uint8)
    pixels[32:, 48:] = (250, 240, 60)
    matches = np.full(GRID, 0.1)
    matches[2, 3], matches[0, 1] = 0.9, 0.8
    off_object = np.ones(GRID, bool)
    off_object[0, 1] = False
    chances = (0.9, 0.25) if tried else (math.nan, math.nan)
    return Example(name.format(number), pixels, matches, *chances, off_object=off_object)


def cue(
    name: str = "owl",
    confirmed: bool = True,
    number: int = 2,
    examples: int = 10,
    **options: object,
) -> SpuriousCue:
    """A tag in one corner; one that is not confirmed did nothing elsewhere."""
    place = np.zeros(GRID)
    place[2, 3] = 0.95
    effects = {
        "removal": Effect(1.5, 1.0, 2.0, 24, 0.0001) if confirmed else NONE,
        "transplant": Effect(0.75, 0.5, 1.0, 24, 0.0001)
        if confirmed
        else Effect(-0.25, -0.5, 0.125, 12, 0.8),
    }
    groups = (
        Group("class, cue", 24, 0.96, 0.92),
        Group("class, no cue", 4, 0.5, 0.5),
        Group("others, cue transplanted", 24, 0.42, 0.79),
        Group("others", 24, 0.92, 0.92),
    )
    plain: dict[str, object] = {
        "score": 1.2 if confirmed else 0.0, "interval": (0.8, 1.6) if confirmed else (0.0, 0.0),
        "p": 0.0004 if confirmed else 1.0, "inside": 0.92, "outside": 0.03,
        "where": "same place", "fixed": 0.9, "covers": 1 / 6, "off_object": 0.5, "keypoints": 2.5,
        "place": place,
        "examples": tuple(example(index, tried=index != 1) for index in range(examples)),
        "groups": groups if confirmed else (),
        "detector": CueDetector(np.zeros(8, np.float32), 0.0, 1.0, 0.0),
    }  # fmt: skip
    return SpuriousCue(number, name, confirmed=confirmed, **effects | plain | options)  # type: ignore[arg-type]


def discovery(*cues: SpuriousCue, **options: object) -> Discovery:
    """A search of three classes with these cues."""
    named = cues[0].name if cues else "owl"
    best = max((cue.score for cue in cues if cue.confirmed), default=0.0)
    plain: dict[str, object] = {
        "cues": cues,
        "classes": (Rank(2, named, 40, best), Rank(0, "cat", 40, 0.0), Rank(1, "dog", 30, 0.0)),
        "images": 110, "candidates": 57, "accuracy": 0.9, "alpha": 0.05,
        "skipped": (Skipped("photos/cat/broken.png", "cannot be read"),), "notes": ("A note.",),
        "manifest": {"model": "VisionTransformer", "architecture": "test_vit", "parameters": {}},
    }  # fmt: skip
    return Discovery(**plain | options)  # type: ignore[arg-type]


def mark_cue(name: str = "owl", confirmed: bool = True, **options: object) -> MarkCue:
    """A mark with two places in each of three images; removal was tried on the first of them."""
    mark = marked.mark(name)
    examples = tuple(
        replace(example(number, tried=number == 0), name=mark.examples[number].name)
        for number in range(2)
    )
    fields = vars(cue(name, confirmed, examples=0)) | {
        "mark": mark, "examples": examples, "where": "a mark at any place", "detector": None,
        "off_object": math.nan,
    }  # fmt: skip
    return MarkCue(**fields | options)  # type: ignore[arg-type]
