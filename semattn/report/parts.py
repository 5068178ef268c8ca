"""What the page shows, part by part, as dicts ready for JSON.

Pictures are data URLs, maps are bytes in base64; words are those of `semattn.viz`, so that a figure
and a report of the same explanation say the same.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..density import strata
from ..viz.overlay import CEILING, FLOOR, Picture, is_signed, picture_of
from ..viz.style import DENSITY, MAP, colours
from ..viz.words import explained, headline, how_chosen, model_name
from .prompted import unsmoothed

if TYPE_CHECKING:
    from ..explain import Explanation
    from ..explain.comparison import Compared, Comparison

SIDE = 256  # pixels of the longer side of a map that is finer than patches
SHOWN = 1200  # pixels of the longer side of the picture
ATTENTION = "GnBu_r"  # ordered by lightness, and neither MAP nor DENSITY


def about_image(explanation: Explanation, index: int, backdrop: Picture | None) -> dict[str, Any]:
    """The picture, the grid, the keypoints; what the page needs under every map."""
    picture = picture_of(explanation, index, backdrop)
    grid = explanation.grid
    height, width = grid.image_size
    name = explanation.images.names[index]
    found = explanation.keypoints[index] if explanation.keypoints else None
    marks: list[Any] = []
    counts = torch.zeros(grid.patches, dtype=torch.long, device="cpu")
    if found is not None:
        circles = torch.cat([found.xy, found.size[:, None]], dim=1)
        marks = circles.double().round(decimals=2).tolist()
        inside = grid.patch_of(found.xy)
        counts = torch.bincount(inside[inside >= 0], minlength=grid.patches)
    return {
        "name": name,
        "source": data_url(picture),
        "size": [height, width],
        "grid": list(grid.shape),
        "cell": list(grid.cell),
        "origin": list(grid.origin),
        "keypoints": marks,
        "detector": None if found is None else found.detector,
        "counts": counts.tolist(),
        "strata": strata_of(explanation, index, counts).tolist(),
        "lift": _numbers(grid.patches * explanation.concentration[index]),
    }


def about_explanation(explanation: Explanation, index: int) -> dict[str, Any]:
    """What was predicted and explained, and the relevance of each patch."""
    relevance = explanation.patch_map[index].flatten()
    return {
        "headline": headline(explanation, index, 90),
        "chosen": how_chosen(explanation, index),
        "explained": explained(explanation, index),
        "model": model_name(explanation),
        "method": explanation.manifest.get("method", ""),
        "density": explanation.manifest.get("parameters", {}).get("density", ""),
        "relevance": map_of(relevance),
        "values": _numbers(relevance),
        "signed": is_signed(explanation, index),
        "notes": list(explanation.notes),
        "manifest": explanation.manifest,
    }


def about_comparison(compared: Comparison) -> dict[str, Any]:
    """Each method's map, at the resolution that it has, and what it cost and showed."""
    other = None if compared.other is None else compared.explanation.label(compared.other)
    return {
        "other": other,
        "notes": list(compared.notes),
        "rows": [_row(row) for row in compared.rows],
    }


def about_prompting(made: dict[str, Any]) -> dict[str, Any]:
    """The steps of `semattn.report.prompted.prompted` with their maps as bytes."""
    return {**made, "maps": [map_of(torch.from_numpy(one)) for one in made["maps"]]}


def palettes() -> dict[str, str]:
    """256 colours of each palette, as hexadecimal digits, six a colour."""
    ramp = np.linspace(0, 1, 256)
    named = {"relevance": MAP, "concentration": DENSITY, "attention": ATTENTION}
    return {
        name: (colours(palette, ramp) * 255).round().astype(np.uint8).tobytes().hex()
        for name, palette in named.items()
    }


def strata_of(explanation: Explanation, index: int, counts: Tensor) -> Tensor:
    """EMPTY, LOW or HIGH of each patch (P,), as `semattn.density.strata` has it.

    All are EMPTY where the concentration is even because no patch has a keypoint.
    """
    s = unsmoothed(explanation.concentration[index : index + 1].cpu())
    if not counts.any() and bool((s == s[:, :1]).all()):
        s = torch.zeros_like(s)
    return strata(s, int(explanation.manifest.get("parameters", {}).get("seed", 0)))[0]


def map_of(values: Tensor) -> str:
    """A map as bytes in base64: 0 at its 20 % quantile, 255 at its 99.5 % one, as it is drawn.

    Of signed maps the positive part. All 0 where the two quantiles agree.
    """
    positive = values.detach().cpu().double().clamp(min=0).numpy()
    low, high = np.quantile(positive, [FLOOR, CEILING])
    span = high - low
    if span <= 1e-12 * max(abs(high), 1e-300):
        codes = np.zeros(positive.shape, dtype=np.uint8)
    else:
        codes = (((positive - low) / span).clip(0, 1) * 255).round().astype(np.uint8)
    return base64.b64encode(codes.tobytes()).decode("ascii")


def data_url(picture: Picture) -> str:
    """A picture as it can stand in the page: PNG where it is small, JPEG where it is large."""
    from PIL import Image

    image = Image.fromarray(picture)
    small = max(image.size) <= 2 * SIDE
    image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=90, optimize=True)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _row(row: Compared) -> dict[str, Any]:
    made = row.explanation
    said: dict[str, Any] = {
        "method": row.method,
        "refusal": row.refusal,
        "seconds": row.seconds,
        "mib": row.peak_mib,
        "sensitivity": row.sensitivity,
    }
    if made is not None:
        heat = made.heat[0].detach().cpu().double()
        size = [max(1, round(side * min(1, SIDE / max(heat.shape)))) for side in heat.shape]
        if size != list(heat.shape):
            heat = F.interpolate(heat[None, None], size=size, mode="area")[0, 0]
        said |= {"size": size, "map": map_of(heat), "signed": is_signed(made)}
    return said


def _numbers(values: Tensor) -> list[float]:
    """Four figures each, which is what a reader can use."""
    return [float(f"{value:.4g}") for value in values.detach().cpu().double().tolist()]
