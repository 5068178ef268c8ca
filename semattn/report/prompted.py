"""Prompting part of the page: attention is biased towards the keypoints of the explanation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.model_inputs import move_to_model
from ..errors import SemattnError
from ..explain import Explainer, Explanation, explainers
from ..prompting import AttentionPrompter
from ..prompting.strength_sweep import Steps, steps

SMOOTHING = 0.1  # as in `concentration`
DIRECTION = "towards patches with keypoints, in the last third of the layers"


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


def prompted(
    model: nn.Module, explanation: Explanation, index: int, extra: Any = None
) -> dict[str, Any]:
    """Prompt one image at each strength; return probabilities and maps of the explained class.

    Parameters
    ----------
    explanation, index : explanation and index of the image
    extra : additional arguments of the model

    Returns
    -------
    dict
        See `content`.

    Raises
    ------
    SemattnError
        If the explained output is not a class, or the method cannot be rebuilt.
    """
    single = one_of(explanation, index)
    prompter = AttentionPrompter(model)
    inputs = move_to_model(model, single.images.inputs, prepared=single.images.prepared)
    density = single.grid.upsample(unsmoothed(single.concentration).cpu(), mode="nearest")
    return content(
        steps(
            rebuilt(single),
            prompter,
            inputs,
            weights=prompter.grid(inputs).pool(density),
            additional_forward_args=extra,
            explanation=single,
            prompt=DIRECTION,
        )
    )


def content(prompted_steps: Steps) -> dict[str, Any]:
    """Return the steps ready for the page: direction, strengths, classes and maps (P,).

    `probability` is the length of a bar, `shares` its label; `percent` is true if the labels are
    percentages.
    """
    explained = prompted_steps.explanation.target_answer(0)
    probabilities = prompted_steps.probabilities
    return {
        "led": prompted_steps.prompt,
        "strengths": list(prompted_steps.strengths),
        "percent": prompted_steps.explanation.output.in_percent,
        "classes": [
            {
                "label": prompted_steps.explanation.answer_label(number),
                "shares": prompted_steps.share_texts(number),
                "explained": number == explained,
                "probability": [round(value, 6) for value in probabilities[:, number].tolist()],
            }
            for number in prompted_steps.leading()
        ],
        "maps": [np.asarray(heat.flatten().to(torch.float64)) for heat in prompted_steps.maps],
    }


def one_of(explanation: Explanation, index: int) -> Explanation:
    """Return the explanation of image `index` alone."""
    part = slice(index, index + 1)
    images = explanation.images
    return replace(
        explanation,
        heat=explanation.heat[part],
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
