"""Content of the page about one image: explanation, comparison and prompting, ready for JSON.

Pictures are data URLs, maps are bytes in base64. Texts are shared with `semattn.viz`, so a figure
and a report of the same explanation agree.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.model_call import move_to_model
from ..density import strata
from ..errors import SemattnError
from ..explain import Explainer, Explanation, explainers
from ..prompting import AttentionPrompter
from ..prompting.strength_sweep import StrengthSweep, strength_sweep
from ..viz.canvas import DENSITY, MAP, apply_palette
from ..viz.overlay import Picture, is_signed, select_picture
from ..viz.texts import headline, model_name, selection_text, target_text
from .heat_map_content import about_answer, heat_map_of, map_of

if TYPE_CHECKING:
    from ..explain.comparison import Comparison, MethodResult

SMALL_PICTURE = 512  # pixels of the longer side of a picture that is stored without loss
MAX_PICTURE_SIDE = 1200  # pixels of the longer side of the picture
ATTENTION = "GnBu_r"  # ordered by lightness, and different from MAP and DENSITY
SMOOTHING = 0.1  # as in `concentration`
DIRECTION = "towards patches with keypoints, in the last third of the layers"


def about_image(explanation: Explanation, index: int, backdrop: Picture | None) -> dict[str, Any]:
    """Return picture, grid, keypoints, strata and lift of an image."""
    picture = select_picture(explanation, index, backdrop)
    grid = explanation.grid
    height, width = grid.image_size
    name = explanation.images.names[index]
    keypoints = explanation.keypoints[index] if explanation.keypoints else None
    marks: list[Any] = []
    counts = torch.zeros(grid.patches, dtype=torch.long, device="cpu")
    if keypoints is not None:
        circles = torch.cat([keypoints.xy, keypoints.size[:, None]], dim=1)
        marks = circles.double().round(decimals=2).tolist()
        inside = grid.patch_of(keypoints.xy)
        counts = torch.bincount(inside[inside >= 0], minlength=grid.patches)
    return {
        "name": name,
        "source": data_url(picture),
        "size": [height, width],
        "grid": list(grid.shape),
        "cell": list(grid.cell),
        "origin": list(grid.origin),
        "keypoints": marks,
        "detector": None if keypoints is None else keypoints.detector,
        "counts": counts.tolist(),
        "strata": strata_of(explanation, index, counts).tolist(),
        "lift": _numbers(grid.patches * explanation.concentration[index]),
    }


def about_explanation(explanation: Explanation, index: int) -> dict[str, Any]:
    """Return headline, settings and the relevance of each patch."""
    relevance = explanation.patch_map[index].flatten()
    return {
        "headline": headline(explanation, index, 90),
        "chosen": selection_text(explanation, index),
        "explained": target_text(explanation, index),
        "model": model_name(explanation),
        "method": explanation.manifest.get("method", ""),
        "density": explanation.manifest.get("parameters", {}).get("density", ""),
        "relevance": map_of(relevance),
        "values": _numbers(relevance),
        "signed": is_signed(explanation, index),
        "answer": about_answer(explanation, index),
        "notes": list(explanation.notes),
        "manifest": explanation.manifest,
    }


def about_comparison(compared: Comparison) -> dict[str, Any]:
    """Return the map, cost and sensitivity of each method."""
    other = None if compared.other is None else compared.explanation.label(compared.other)
    return {
        "other": other,
        "notes": list(compared.notes),
        "rows": [_row(row) for row in compared.rows],
    }


def _row(row: MethodResult) -> dict[str, Any]:
    explanation = row.explanation
    entry: dict[str, Any] = {
        "method": row.method,
        "refusal": row.refusal,
        "seconds": row.seconds,
        "mib": row.peak_mib,
        "sensitivity": row.sensitivity,
    }
    if explanation is not None:
        entry |= heat_map_of(explanation, 0)
    return entry


def about_prompting(sweep: StrengthSweep) -> dict[str, Any]:
    """Return direction, strengths, classes and the map at each strength.

    `probability` is the length of a bar, `shares` its label; `percent` is true if the labels are
    percentages.
    """
    explained_class = sweep.explanation.target_answer(0)
    return {
        "direction": sweep.prompt,
        "strengths": list(sweep.strengths),
        "percent": sweep.explanation.output.in_percent,
        "classes": [
            {
                "label": sweep.explanation.answer_label(number),
                "shares": sweep.share_texts(number),
                "explained": number == explained_class,
                "probability": [
                    round(value, 6) for value in sweep.probabilities[:, number].tolist()
                ],
            }
            for number in sweep.leading()
        ],
        "maps": [map_of(heat_map.flatten()) for heat_map in sweep.maps],
    }


def sweep_strengths(
    model: nn.Module, explanation: Explanation, index: int, extra: Any = None
) -> StrengthSweep:
    """Prompt one image at each strength, towards the keypoints of its explanation.

    Parameters
    ----------
    explanation, index : explanation and index of the image
    extra : additional arguments of the model

    Raises
    ------
    SemattnError
        If the explained output is not a class, or the method cannot be rebuilt.
    """
    single = _select_image(explanation, index)
    prompter = AttentionPrompter(model)
    inputs = move_to_model(model, single.images.inputs, prepared=single.images.prepared)
    density = single.grid.upsample(unsmoothed(single.concentration).cpu(), mode="nearest")
    return strength_sweep(
        rebuilt(single),
        prompter,
        inputs,
        weights=prompter.grid(inputs).pool(density),
        additional_forward_args=extra,
        explanation=single,
        prompt=DIRECTION,
    )


def rebuilt(explanation: Explanation) -> Explainer:
    """Rebuild the explainer of an explanation from its manifest, with the stored concentration.

    Raises
    ------
    SemattnError
        If the manifest is not sufficient, as for a function as an option or a custom method.
    """
    manifest = explanation.manifest
    options = dict(manifest.get("parameters", {}))
    sliced = re.fullmatch(r"slice\((\w+), (\w+), (\w+)\)", str(options.get("layers")))
    if sliced:
        numbers = (None if part == "None" else int(part) for part in sliced.groups())
        options["layers"] = slice(*numbers)
    options |= {"density": unsmoothed(explanation.concentration), "detector": "sift"}
    try:
        explainer: Explainer = explainers[manifest.get("method", "")](**options)
    except (KeyError, TypeError, ValueError) as error:
        raise SemattnError(
            f"method: expected one that can be rebuilt from its settings, got "
            f"{manifest.get('method')!r} — {error}"
        ) from error
    return explainer


def _select_image(explanation: Explanation, index: int) -> Explanation:
    """Return the explanation of image `index` alone."""
    part = slice(index, index + 1)
    images = explanation.images
    return replace(
        explanation,
        heat_map=explanation.heat_map[part],
        patch_map=explanation.patch_map[part],
        images=replace(
            images, inputs=images.inputs[part], pixels=images.pixels[part], names=images.names[part]
        ),
        keypoints=explanation.keypoints[part],
        concentration=explanation.concentration[part],
        logits=explanation.logits[part],
        target=None if explanation.target is None else explanation.target[part],
        attribution=None if explanation.attribution is None else explanation.attribution[part],
    )


def palettes() -> dict[str, str]:
    """Return 256 colours of each palette as hexadecimal text, six digits per colour."""
    ramp = np.linspace(0, 1, 256)
    named = {"relevance": MAP, "concentration": DENSITY, "attention": ATTENTION}
    return {
        name: (apply_palette(palette, ramp) * 255).round().astype(np.uint8).tobytes().hex()
        for name, palette in named.items()
    }


def strata_of(explanation: Explanation, index: int, counts: Tensor) -> Tensor:
    """Return the stratum of each patch (P,), see `semattn.density.strata`.

    All are EMPTY if the concentration is uniform because no patch has a keypoint.
    """
    s = unsmoothed(explanation.concentration[index : index + 1].cpu())
    if not counts.any() and bool((s == s[:, :1]).all()):
        s = torch.zeros_like(s)
    return strata(s, int(explanation.manifest.get("parameters", {}).get("seed", 0)))[0]


def unsmoothed(p: Tensor) -> Tensor:
    """Return the density s (B, P) with sum 1 behind a concentration p: the inverse of smoothing.

    Examples
    --------
    >>> from semattn.density import concentration
    >>> p = concentration(torch.tensor([[0.0, 3.0, 1.0]]))
    >>> unsmoothed(p).round(decimals=6).tolist()
    [[0.0, 0.75, 0.25]]
    """
    p = p.cpu().double()
    uniform = SMOOTHING / p.shape[-1]
    s = (1 + SMOOTHING) * p - uniform
    return torch.where(s <= 1e-9 * uniform, 0.0, s)


def data_url(picture: Picture) -> str:
    """Return a picture as a data URL: PNG if it is small, else JPEG."""
    from PIL import Image

    image = Image.fromarray(picture)
    small = max(image.size) <= SMALL_PICTURE
    image.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE), Image.Resampling.LANCZOS)
    if small:
        return encode_image(image, "PNG", optimize=True)
    return encode_image(image, "JPEG", quality=90, optimize=True)


def encode_image(image: Any, kind: str, **options: Any) -> str:
    """Return an image of PIL as a data URL of a format of PIL, "PNG" or "JPEG"."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


def _numbers(values: Tensor) -> list[float]:
    """Return values with four significant digits."""
    return [float(f"{value:.4g}") for value in values.detach().cpu().double().tolist()]
