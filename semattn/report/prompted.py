"""Steps of prompting for the page: attention is led to the keypoints that the map is made of."""

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

SMOOTHING = 0.1  # that of `concentration`
LED = "to where the keypoints are, in the last third of the layers"


def unsmoothed(p: Tensor) -> Tensor:
    """The density s (B, P), sum 1, that `concentration` made p of; 0 where it was 0.

    Examples
    --------
    >>> from semattn.density import concentration
    >>> p = concentration(torch.tensor([[0.0, 3.0, 1.0]]))
    >>> unsmoothed(p).round(decimals=6).tolist()
    [[0.0, 0.75, 0.25]]
    """
    p = p.cpu().double()
    even = SMOOTHING / p.shape[-1]
    s = (1 + SMOOTHING) * p - even
    return torch.where(s <= 1e-9 * even, 0.0, s)


def rebuilt(explanation: Explanation) -> Explainer:
    """The explainer that made an explanation, for its own concentration.

    Raises
    ------
    SemattnError
        Where the manifest does not say all of it: a function as an option, a model's own method.
    """
    made = explanation.manifest
    options = dict(made.get("parameters", {}))
    sliced = re.fullmatch(r"slice\((\w+), (\w+), (\w+)\)", str(options.get("layers")))
    if sliced:
        numbers = (None if part == "None" else int(part) for part in sliced.groups())
        options["layers"] = slice(*numbers)
    options |= {"density": unsmoothed(explanation.concentration), "detector": "sift"}
    try:
        explainer: Explainer = explainers[made.get("method", "")](**options)
    except (KeyError, TypeError, ValueError) as error:
        raise SemattnError(
            f"method: expected one that can be made anew, got {made.get('method')!r} — {error}"
        ) from error
    return explainer


def prompted(
    model: nn.Module, explanation: Explanation, index: int, extra: Any = None
) -> dict[str, Any]:
    """What the model says of one image at each strength, and the map of the explained class.

    Parameters
    ----------
    explanation, index : of which image
    extra : what the model takes after its images

    Returns
    -------
    dict
        as `content` has it.

    Raises
    ------
    SemattnError
        For an explanation of what is no class, or a method that cannot be made anew.
    """
    alone = one_of(explanation, index)
    prompter = AttentionPrompter(model)
    inputs = move_to_model(model, alone.images.inputs, prepared=alone.images.prepared)
    density = alone.grid.upsample(unsmoothed(alone.concentration).cpu(), mode="nearest")
    return content(
        steps(
            rebuilt(alone),
            prompter,
            inputs,
            weights=prompter.grid(inputs).pool(density),
            additional_forward_args=extra,
            explanation=alone,
            prompt=LED,
        )
    )


def content(made: Steps) -> dict[str, Any]:
    """`led`: where to; `strengths`; `classes`, with their shares; `maps`, one (P,) each.

    `probability` is the length of a bar, `shares` what stands beside it; `percent` says whether
    these are percentages.
    """
    explained = made.explanation.target_answer(0)
    chance = made.probabilities
    return {
        "led": made.prompt,
        "strengths": list(made.strengths),
        "percent": made.explanation.output.in_percent,
        "classes": [
            {
                "label": made.explanation.answer_label(number),
                "shares": made.share_texts(number),
                "explained": number == explained,
                "probability": [round(value, 6) for value in chance[:, number].tolist()],
            }
            for number in made.leading()
        ],
        "maps": [np.asarray(one.flatten().to(torch.float64)) for one in made.maps],
    }


def one_of(explanation: Explanation, index: int) -> Explanation:
    """The explanation of image `index` alone."""
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
