"""Content of test pages: a small explanation, a synthetic analysis, names with HTML."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from semattn.explain import Explanation, SIFTPatchInterrelation
from semattn.explain.comparison import Comparison, MethodResult
from tests.models import build, images

NASTY = "<img src=x onerror=hacked=1></script><script>hacked=2</script>&amp;\u2028{{style}}"
CLASSES = (NASTY, "dog", "owl", "cup", "car")


def model_of(name: str = "class-token") -> nn.Module:
    model = build(name)
    model.classes = CLASSES
    return model


def corners(batch: int = 1) -> torch.Tensor:
    """Return images of bright squares, in which SIFT detects keypoints."""
    inputs = images(batch) * 0.2
    inputs[:, :, 6:14, 8:16] = 1
    inputs[:, :, 26:30, 40:56] = 0.9
    return inputs


def explained(model: nn.Module, inputs: torch.Tensor | None = None, **options: Any) -> Explanation:
    explanation = SIFTPatchInterrelation(**options).explain(
        model, corners() if inputs is None else inputs, target=0
    )
    images = replace(explanation.images, names=tuple(NASTY for _ in explanation.images.names))
    return replace(explanation, images=images, notes=(f"A note on {NASTY}.",))


def compared(explanation: Explanation) -> Comparison:
    """Return a comparison of two methods with different maps and one refusal."""
    other = torch.zeros_like(explanation.heat_map)
    other[:, :10, :10] = 1
    return Comparison(
        rows=(
            MethodResult("ours", explanation, 0.25, 12.0, 0.5),
            MethodResult(NASTY, replace(explanation, heat_map=other), 12.5, 3.0, None),
            MethodResult("third", refusal=f"model: expected less of {NASTY}"),
        ),
        explanation=explanation,
        other=1,
    )


class Analysed:
    """Synthetic analysis with layers of 2, 2, 2 and 3 heads and increasing values."""

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
            "metrics": {
                "alignment": self.figure("alignment, weighted", "", 1.0),
                "distance": distance,
                "entropy": self.figure("entropy", "nats", None),
            },
            "lift": lift,
            "findings": [{"text": f"Layers 0 to 3 of {NASTY} attend."}],
        }


def content_of(page: str) -> dict[str, Any]:
    """Return the content of a page, as parsed by its script."""
    import json

    start = page.index('id="content">') + len('id="content">')
    return json.loads(page[start : page.index("</script>", start)])


def rows_of(part: dict[str, Any], name: str) -> tuple[list[int], list[np.ndarray]]:
    """Decode the rows of each layer as the page does: (H, R, N), or (1, R, N) for means."""
    import base64

    from semattn.report.attention_rows import decode

    encoded, tokens = part[name], part["tokens"]
    codes = np.frombuffer(base64.b64decode(encoded["codes"]), dtype=np.uint8)
    scales = np.frombuffer(base64.b64decode(encoded["scales"]), dtype="<f4")
    layers, start = [], 0
    for layer in part["layers"]:
        count = (layer["heads"] if name == "heads" else 1) * len(encoded["rows"])
        values = decode(
            codes[start * tokens : (start + count) * tokens].reshape(count, tokens),
            scales[start : start + count],
        )
        layers.append(values.reshape(-1, len(encoded["rows"]), tokens))
        start += count
    assert start == len(scales)
    return encoded["rows"], layers
