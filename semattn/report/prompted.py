"""Steps of prompting: what a model says, and why, as its attention is led to the keypoints.

The bias b = clip(log(P p), -2.5, 2.5) of a patch, 0 of a prefix token, times a strength, is added
to the scores of the last half of the layers; strength 0 is the explanation itself.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import steer
from ..attention.sites import as_taken, refuse
from ..errors import SemattnError
from ..explain import Explainer, Explanation, explainers
from ..grid import PatchGrid

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LIMIT = 2.5  # nats
LAYERS = "last-half"
SMOOTHING = 0.1  # that of `concentration`
TOP = 5


def bias_of(p: Tensor, grid: PatchGrid) -> Tensor:
    """The bias (B, N), nats: clip(log(P p), -2.5, 2.5) of patches p (B, P), 0 of prefix tokens.

    Examples
    --------
    >>> grid = PatchGrid((1, 2), (16, 32), (16, 16), prefix=1)
    >>> bias_of(torch.tensor([[0.5, 0.5]]), grid).tolist()
    [[0.0, 0.0, 0.0]]
    """
    return grid.add_prefix((grid.patches * p).log().clamp(-LIMIT, LIMIT))


def unsmoothed(p: Tensor) -> Tensor:
    """The density s (B, P), sum 1, that `concentration` made p of; 0 where it was 0.

    Examples
    --------
    >>> from semattn.density import concentration
    >>> p = concentration(torch.tensor([[0.0, 3.0, 1.0]]))
    >>> unsmoothed(p).round(decimals=6).tolist()
    [[0.0, 0.75, 0.25]]
    """
    p = p.to(torch.float64)
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


def steps(
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
        `strengths`; `classes` with the probabilities of each that is among the first five at some
        strength; `maps`, one (P,) a strength.

    Raises
    ------
    SemattnError
        For an explanation of what is no class, a model whose layers do not share one grid of
        tokens, or a method that cannot be made anew.
    """
    if explanation.target is None or explanation.logits.ndim != 2:
        raise SemattnError(
            "target: expected a class, whose probability can move, got "
            f"{explanation.explains or 'something else'} — explain a class"
        )
    one = slice(index, index + 1)
    p = explanation.concentration[one]
    explainer = rebuilt(replace(explanation, concentration=p))
    module = refuse(model)
    inputs = as_taken(module, explanation.images.inputs[one])
    target = explanation.target[one].tolist()
    bias = bias_of(p, explanation.grid).to(inputs)
    logits, maps = [explanation.logits[one]], [explanation.patch_map[one]]
    for strength in STRENGTHS[1:]:
        with steer(module, strength * bias, layers=LAYERS):
            made = explainer._make(module, inputs, target, extra, draw=False)
        logits.append(made.logits)
        maps.append(made.patch_map)
    return {
        "strengths": list(STRENGTHS),
        "classes": _classes(explanation, index, torch.cat([each.cpu() for each in logits])),
        "maps": [np.asarray(one.detach().to("cpu", torch.float64).flatten()) for one in maps],
    }


def _classes(explanation: Explanation, index: int, logits: Tensor) -> list[dict[str, Any]]:
    """Each class that is among the first five at some strength, by its unsteered probability."""
    assert explanation.target is not None
    chance = logits.to(torch.float64).softmax(dim=-1)
    best = chance.topk(min(TOP, chance.shape[1]), dim=-1).indices
    numbers = sorted(set(best.flatten().tolist()), key=lambda number: -float(chance[0, number]))
    explained = int(explanation.target[index])
    return [
        {
            "label": explanation.label(number),
            "explained": number == explained,
            "probability": [round(value, 6) for value in chance[:, number].tolist()],
        }
        for number in numbers
    ]
