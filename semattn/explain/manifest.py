"""Manifest of an explanation: the settings and values that its maps can be checked with."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ..utils.provenance import unconfirmed
from .explanation import Explanation


def with_manifest(
    explanation: Explanation, manifest: dict[str, Any], is_given: bool
) -> Explanation:
    """Return an explanation with its manifest; a note says if the model cannot be confirmed.

    Parameters
    ----------
    explanation : of a batch of images
    manifest : model, method, parameters and versions; the preprocessing and the conservation of
        this batch are added
    is_given : whether the caller gave the preprocessing
    """
    if used := explanation.images.preprocessing:
        from_caller = "given" if is_given or not used.source else ""
        settings = dataclasses.asdict(used) | {
            "size": list(used.size), "mean": list(used.mean), "std": list(used.std),
            "source": ", ".join(filter(None, (from_caller, used.source))),
        }  # fmt: skip
        manifest = manifest | {"preprocessing": settings}
    if explanation.conservation is not None:
        ratios = explanation.conservation.tolist()
        manifest = manifest | {
            "conservation": [ratio if math.isfinite(ratio) else None for ratio in ratios]
        }
    notes = explanation.notes
    if reason := unconfirmed(manifest):
        notes = (*notes, f"{reason[:1].upper()}{reason[1:]}.")
    return dataclasses.replace(explanation, manifest=manifest, notes=notes)
