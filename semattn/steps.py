"""What a model says of one image, and why, at one strength of prompting after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention.model_inputs import move_to_model
from .attention.target import fixed_target
from .errors import SemattnError
from .explain import Explainer, Explanation
from .grid import PatchGrid
from .prompting import AttentionPrompter
from .prompting.bias import Known

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Steps:
    """One image at several strengths, the first of which is 0.

    `explanation` is that of the model without prompt; `logits` (S, K) and `maps` (S, h, w) are
    those of each strength, `maps` of the class that is explained at strength 0. `bias` (P,) is
    what is added to the scores of each patch of `grid` at strength 1, nats; `prompt` says what led.
    """

    explanation: Explanation
    strengths: tuple[float, ...]
    logits: Tensor
    maps: Tensor
    bias: Tensor
    grid: PatchGrid
    prompt: str

    @property
    def probabilities(self) -> Tensor:
        """(S, A), of the answers; (S, 2) of a model with one logit."""
        probabilities = self.explanation.output.probabilities(self.logits)
        assert probabilities is not None, "steps refuses models without answers"
        return probabilities

    @property
    def predicted(self) -> list[int]:
        """The predicted answer at each strength."""
        predicted = self.explanation.output.predicted(self.logits)
        assert predicted is not None, "steps refuses models without answers"
        found: list[int] = predicted.tolist()
        return found

    def share_texts(self, answer: int) -> list[str]:
        """The share of an answer at each strength, as texts."""
        output = self.explanation.output
        return [output.share_text(row, answer) for row in self.logits]

    def leading(self, top: int = 5) -> list[int]:
        """The classes among the first `top` at some strength, in the order that they have at 0.

        Of a binary model it is the answer that is predicted without prompt.
        """
        if self.explanation.output.is_binary(self.explanation.outputs):
            return self.predicted[:1]
        chance = self.probabilities
        best = chance.topk(min(top, chance.shape[1]), dim=-1).indices
        return sorted(set(best.flatten().tolist()), key=lambda number: -float(chance[0, number]))

    def flips(self) -> list[tuple[float, int, int]]:
        """Where the prediction changes: (strength, class before, class from there on)."""
        predicted = self.predicted
        pairs = zip(self.strengths[1:], predicted, predicted[1:], strict=False)
        return [(at, before, after) for at, before, after in pairs if before != after]


def steps(
    explainer: Explainer,
    prompter: AttentionPrompter,
    image: Any,
    *,
    weights: Any = None,
    away: bool = False,
    target: Any = None,
    strengths: Sequence[float] = STRENGTHS,
    additional_forward_args: Any = None,
    explanation: Explanation | None = None,
    prompt: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Steps:
    """Prompt one image by `prompter`, stronger and stronger.

    Parameters
    ----------
    explainer : makes the maps
    image : in any form that the explainer takes; a batch must hold one
    weights, away : as for `AttentionPrompter.steer`
    target, additional_forward_args : as for `Explainer.attribute`
    strengths : 0 is added, if it is not among them
    explanation : that of the model without prompt, where it is there already
    prompt : what led, for people
    progress : called with the number of strengths done, and of all

    Raises
    ------
    SemattnError
        For a target that is no class, and as the explainer and the prompter do.
    """
    model: nn.Module = prompter.model
    rest = {"additional_forward_args": additional_forward_args}
    wanted = (0.0, *sorted(float(one) for one in set(strengths) if one))
    first = explanation or explainer.explain(model, image, target=target, **rest)
    binary = first.output.is_binary(first.outputs)
    if not first.output.has_answers or (first.target is None and not (binary and target is None)):
        raise SemattnError(
            "target: expected a class, whose probability can move, got "
            f"{first.explains or 'something else'} — explain a class"
        )
    if len(first) != 1:
        raise SemattnError(f"image: expected one, got {len(first)} — prompt them one by one")
    inputs = move_to_model(model, first.images.inputs, prepared=first.images.prepared)
    bias = prompter.bias(weights, inputs, away=away)[0].detach().cpu()
    led = Known(bias[None])
    chosen: Any = fixed_target(first.logits, first.output)
    if first.target is not None:
        chosen = first.target.tolist()
    logits, maps = [first.logits], [first.patch_map]
    for number, strength in enumerate(wanted[1:], 1):
        if progress:
            progress(number, len(wanted))
        with prompter.at(strength, prompter.layers).steer(led):
            made = explainer.explain(
                model, inputs, target=chosen, manifest=first.manifest, **rest
            )  # fmt: skip
        logits.append(made.logits)
        maps.append(made.patch_map)
    return Steps(
        explanation=first,
        strengths=wanted,
        logits=torch.cat([one.detach().float().cpu() for one in logits]),
        maps=torch.cat([one.detach().float().cpu() for one in maps]),
        bias=bias,
        grid=prompter.grid(inputs),
        prompt=prompt or _said(prompter, weights, away),
    )


def _said(prompter: AttentionPrompter, weights: Any, away: bool) -> str:
    source = prompter.density if weights is None else weights
    name = source if isinstance(source, str) else type(source).__name__.lower()
    return f"away from {name}" if away else f"to {name}"
