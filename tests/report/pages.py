"""What the tests put on a page: a tiny explanation, a hand-made analysis, nasty names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from semattn.explain import Explanation, SIFTPatchInterrelation
from semattn.explain.comparison import Compared, Comparison
from tests.models import build, images

NASTY = "<img src=x onerror=hacked=1></script><script>hacked=2</script>&amp;\u2028{{style}}"
CLASSES = (NASTY, "dog", "owl", "cup", "car")


def model_of(name: str = "class-token") -> nn.Module:
    model = build(name)
    model.classes = CLASSES
    return model


def corners(batch: int = 1) -> torch.Tensor:
    """Images of bright squares, where SIFT finds something."""
    made = images(batch) * 0.2
    made[:, :, 6:14, 8:16] = 1
    made[:, :, 26:30, 40:56] = 0.9
    return made


def explained(model: nn.Module, inputs: torch.Tensor | None = None, **options: Any) -> Explanation:
    made = SIFTPatchInterrelation(**options).explain(
        model, corners() if inputs is None else inputs, target=0
    )
    named = replace(made.images, names=tuple(NASTY for _ in made.images.names))
    return replace(made, images=named, notes=(f"A note on {NASTY}.",))


def compared(made: Explanation) -> Comparison:
    """Two methods whose maps are nothing alike, and one that refused."""
    other = torch.zeros_like(made.heat)
    other[:, :10, :10] = 1
    return Comparison(
        rows=(
            Compared("ours", made, 0.25, 12.0, 0.5),
            Compared(NASTY, replace(made, heat=other), 12.5, 3.0, None),
            Compared("third", refusal=f"model: expected less of {NASTY}"),
        ),
        explanation=made,
        other=1,
    )


class Analysed:
    """An analysis by hand: layers of 2, 2, 2 and 3 heads, and figures that count up."""

    heads = (2, 2, 2, 3)

    def __init__(self, images: int = 20) -> None:
        self.images = images

    def table(self, of: Any) -> list[Any]:
        return [[of(layer, h) for h in range(n)] for layer, n in enumerate(self.heads)]

    def figure(self, title: str, unit: str, chance: float | None, shape: Any = None) -> dict:
        spread = shape or (lambda value: value)
        low = high = None
        if self.images >= 10:
            low = self.table(lambda layer, h: spread(0.9 + 0.1 * layer))
            high = self.table(lambda layer, h: spread(1.1 + 0.1 * layer))
        nulls = {}
        signs = (("shifted", 1), ("other", 1), ("permuted", -1))
        if chance is not None:
            nulls = {
                name: {
                    "z": self.table(lambda layer, h, sign=sign: spread(sign * (layer + 1.5))),
                    "p_value": self.table(lambda layer, h: spread(0.01)),
                    "significant": self.table(lambda layer, h: spread(h == 1)),
                }
                for name, sign in signs
                if self.images > 1 or name != "other"
            }
        mean = self.table(lambda layer, h: spread(1.0 + 0.1 * layer + 0.01 * h))
        parts = {"mean": mean, "low": low, "high": high, "nulls": nulls}
        return {"title": title, "unit": unit, "chance": chance, **parts}

    def summary(self) -> dict[str, Any]:
        lift = self.figure("lift", "", 1.0, lambda value: [[value] * 3] * 3)
        lift["mean"] = self.table(
            lambda layer, h: [
                [round(0.5 + layer + 0.1 * h + 0.01 * (3 * u + v), 2) for v in range(3)]
                for u in range(3)
            ]
        )
        distance = self.figure("attention distance", "pixels", None)
        distance["mean"][0][0] = float("nan")
        return {
            "images": self.images,
            "skipped": [{"name": NASTY, "reason": "no decoder knows it"}],
            "model": NASTY,
            "density": "count",
            "grid": [3, 4],
            "layers": [
                {"layer": layer, "name": f"blocks.{layer}.attn", "heads": n}
                for layer, n in enumerate(self.heads)
            ],
            "figures": {
                "alignment": self.figure("alignment, weighted", "", 1.0),
                "distance": distance,
                "entropy": self.figure("entropy", "nats", None),
            },
            "lift": lift,
            "findings": [{"text": f"Layers 0 to 3 of {NASTY} attend."}],
        }


def content_of(page: str) -> dict[str, Any]:
    """What a page holds, as the page itself reads it."""
    import json

    start = page.index('id="content">') + len('id="content">')
    return json.loads(page[start : page.index("</script>", start)])


def rows_of(part: dict[str, Any], name: str) -> tuple[list[int], list[np.ndarray]]:
    """The kept rows of each layer, decoded as the page does: (H, R, N), or (1, R, N) of means."""
    import base64

    from semattn.report.rows import decode

    kept, n = part[name], part["tokens"]
    codes = np.frombuffer(base64.b64decode(kept["codes"]), dtype=np.uint8)
    scales = np.frombuffer(base64.b64decode(kept["scales"]), dtype="<f4")
    found, at = [], 0
    for layer in part["layers"]:
        count = (layer["heads"] if name == "heads" else 1) * len(kept["rows"])
        values = decode(codes[at * n : (at + count) * n].reshape(count, n), scales[at : at + count])
        found.append(values.reshape(-1, len(kept["rows"]), n))
        at += count
    assert at == len(scales)
    return kept["rows"], found
