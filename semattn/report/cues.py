"""What a search for spurious correlations found, as the page shows it.

Pictures are small JPEGs, the patches that show a cue are bytes in base64. Words are those of
`semattn.viz`, so that figure, page and command say the same.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.provenance import model_label
from ..viz.cues import examples_said, outcome, reason
from .summary import clean

if TYPE_CHECKING:
    from ..spurious import Discovery, Example, SpuriousCue
    from ..viz import Picture

SHOWN = 8  # examples of a cue
SIDE = 224  # pixels of the longer side of an example
QUALITY = 82  # of its JPEG
ROOM = 6_000_000  # characters that the examples of all cues may take

LOOK = (
    "Look at the pictures of each confirmed cue yourself. One that is a part of the object, or "
    "belongs with it everywhere, is not spurious: only you can tell."
)
LEAD = (
    "Lead attention away from it as the model runs, and measure on images kept apart what that "
    "buys. It can also cost: see the groups of each cue."
)
MEND = (
    "Mend the data: collect images of the class without the cue and of others with it, or weigh "
    "those that there are. The cue finds itself in new images."
)
AGAIN = "Search again after every change, on images that the change was not made with."
WIDE = (
    "Look at what was tried: a cue whose interval is wide may be a real one in too few images. "
    "More images of a class make the search sharper."
)
DOUBT = (
    "Check by hand the classes that you doubt, above all for cues on the object itself, which "
    "this search does not look for."
)
COMMAND = "semattn spurious FOLDER --out after"
MATCHES = "shown = cue.matches(x, model)  # (B, P) in [0, 1]"
PROMPT = """\
from semattn.prompting import AttentionPrompter
from semattn.spurious import load_discovery

cue = load_discovery("spurious.npz", model).confirmed[0]
prompter = AttentionPrompter(
    model, strength=1.0, layers="last-half"
)
with prompter.steer(cue):
    logits = model(x)"""


def about_discovery(found: Discovery) -> dict[str, Any]:
    """The cues with their examples, what was tried in vain, the classes, and what to do next.

    Only confirmed cues have pictures; those that no longer fit `ROOM` have none, and are counted.
    """
    cues, tried, room, left_out = [], [], ROOM, 0
    for cue in found.cues:
        made = _cue(cue) | {"reason": reason(cue, found)}
        if not cue.confirmed:
            tried.append(made)
            continue
        made["examples"] = [_example(one) for one in cue.examples[:SHOWN]]
        taken = sum(len(one["source"]) + len(one["matches"]) for one in made["examples"])
        if taken > room:
            made["examples"], taken = [], 0
            left_out += 1
        room -= taken
        cues.append(made)
    summary = found.summary()
    kept = ("images", "candidates", "accuracy", "level", "classes", "skipped", "notes", "manifest")
    model = model_label(found.manifest)
    said: dict[str, Any] = clean(
        {name: summary[name] for name in kept}
        | {"outcome": outcome(found), "model": str(model), "cues": cues, "tried": tried,
           "left_out": left_out, "next": next_steps(found)}
    )  # fmt: skip
    return said


def next_steps(found: Discovery) -> list[dict[str, str]]:
    """What a reader may do now: some sentences each, with the code where there is some."""
    found_some = [(LOOK, ""), (LEAD, PROMPT), (MEND, MATCHES)]
    steps = found_some if found.confirmed else [(WIDE, ""), (DOUBT, "")]
    return [{"text": text, "code": code} for text, code in (*steps, (AGAIN, COMMAND))]


def _cue(cue: SpuriousCue) -> dict[str, Any]:
    made = cue.summary()
    most = float(cue.place.max()) if cue.place.size else 0.0
    return made | {
        "examples": [],
        "said": examples_said(cue),
        "grid": list(cue.place.shape),
        "place": _bytes(cue.place / max(most, 1e-9)),
        "most": most,
    }


def _example(one: Example) -> dict[str, Any]:
    return {
        "name": one.name, "source": thumbnail(one.pixels), "size": list(one.pixels.shape[:2]),
        "grid": list(one.matches.shape), "cell": list(one.patches.cell),
        "origin": list(one.patches.origin), "matches": _bytes(one.matches),
        "before": float(one.before), "without": float(one.without),
    }  # fmt: skip


def thumbnail(picture: Picture) -> str:
    """A small picture as a data URL."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _bytes(values: np.ndarray) -> str:
    """Values in [0, 1], a byte each, in base64; what is no number is 0."""
    codes = (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)
    return base64.b64encode(codes.tobytes()).decode("ascii")
