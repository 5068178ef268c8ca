"""Predictions and attribution maps of one image at increasing strengths of prompting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.model_call import move_to_model
from ..attention.target import PREDICTED_ANSWER, fixed_target, is_named
from ..errors import SemattnError
from ..explain import Explainer, Explanation
from ..grid import PatchGrid
from ..utils.notebook import NotebookView
from ..utils.processes import Progress
from . import AttentionPrompter
from .bias import StoredCue

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, repr=False)
class StrengthSweep(NotebookView):
    """Results of one image at S strengths; the first strength is 0.

    `explanation` is the explanation without a prompt. `logits` (S, K) and `maps` (S, h, w) are the
    results at each strength; all maps explain the class that is explained at strength 0. `bias`
    (P,) is added to the attention scores of each patch of `grid` at strength 1, in nats. `prompt`
    is a description of the prompt.
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
        """Probabilities of the answers, (S, A); (S, 2) for a model with one logit."""
        probabilities = self.explanation.output.probabilities(self.logits)
        assert probabilities is not None, "strength_sweep refuses models without answers"
        return probabilities

    @property
    def predicted(self) -> list[int]:
        """Predicted answer at each strength."""
        predicted = self.explanation.output.predicted(self.logits)
        assert predicted is not None, "strength_sweep refuses models without answers"
        answers: list[int] = predicted.tolist()
        return answers

    def share_texts(self, answer: int) -> list[str]:
        """Return the probability of an answer at each strength as texts."""
        output = self.explanation.output
        return [output.share_text(row, answer) for row in self.logits]

    def leading(self, top: int = 5) -> list[int]:
        """Return the classes that are among the first `top` at any strength, ordered as at 0.

        For a binary model, return the answer that is predicted without a prompt.
        """
        if self.explanation.output.is_binary(self.explanation.outputs):
            return self.predicted[:1]
        probabilities = self.probabilities
        best = probabilities.topk(min(top, probabilities.shape[1]), dim=-1).indices
        return sorted(
            set(best.flatten().tolist()), key=lambda number: -float(probabilities[0, number])
        )

    def flips(self) -> list[tuple[float, int, int]]:
        """Return the changes of the prediction: (strength, class before, class after)."""
        predicted = self.predicted
        pairs = zip(self.strengths[1:], predicted, predicted[1:], strict=False)
        return [(strength, before, after) for strength, before, after in pairs if before != after]


def strength_sweep(
    explainer: Explainer,
    prompter: AttentionPrompter,
    image: Any,
    *,
    weights: Any = None,
    suppress: bool = False,
    target: Any = None,
    strengths: Sequence[float] = STRENGTHS,
    additional_forward_args: Any = None,
    explanation: Explanation | None = None,
    prompt: str = "",
    progress: Progress | None = None,
) -> StrengthSweep:
    """Prompt one image with increasing strength.

    Parameters
    ----------
    explainer : computes the maps
    prompter : adds the bias to the attention scores
    image : any image input of the explainer; a batch must contain one image
    weights, suppress : as for `AttentionPrompter.steer`
    target, additional_forward_args : as for `Explainer.attribute`
    strengths : strengths of the prompt; 0 is added if missing
    explanation : the explanation without a prompt, if it exists already
    prompt : description of the prompt for reports
    progress : called with the stage, the number of finished strengths and the total

    Raises
    ------
    SemattnError
        For a target that is not a class; errors of the explainer and the prompter.
    """
    model: nn.Module = prompter.model
    forward_options = {"additional_forward_args": additional_forward_args}
    all_strengths = (0.0, *sorted(float(strength) for strength in set(strengths) if strength))
    unprompted = explanation or explainer.explain(model, image, target=target, **forward_options)
    binary = unprompted.output.is_binary(unprompted.outputs)
    is_named_answer = binary and is_named(target)
    is_predicted_answer = unprompted.target_description == PREDICTED_ANSWER.format(
        unit=unprompted.output.unit
    )
    if not unprompted.output.has_answers or (
        unprompted.target is None and not is_named_answer and not is_predicted_answer
    ):
        raise SemattnError(
            "target: expected a class with a probability, got "
            f"{unprompted.target_description or 'something else'} — explain a class"
        )
    if len(unprompted) != 1:
        raise SemattnError(
            f"image: expected one image, got {len(unprompted)} — prompt each image separately"
        )
    inputs = move_to_model(model, unprompted.images.inputs, prepared=unprompted.images.prepared)
    bias = prompter.bias(weights, inputs, suppress=suppress)[0].detach().cpu()
    prompt_bias = StoredCue(bias[None])
    step_target: Any = fixed_target(unprompted.logits, unprompted.output)
    if unprompted.target is not None:
        step_target = unprompted.target.tolist()
    elif is_named_answer and not is_predicted_answer:
        step_target = target
    logits, maps = [unprompted.logits], [unprompted.patch_map]
    for number, strength in enumerate(all_strengths[1:], 1):
        if progress:
            progress("prompting", number, len(all_strengths))
        with prompter.at(strength, prompter.layers).steer(prompt_bias):
            step = explainer.explain(
                model, inputs, target=step_target, manifest=unprompted.manifest, **forward_options
            )  # fmt: skip
        logits.append(step.logits)
        maps.append(step.patch_map)
    return StrengthSweep(
        explanation=unprompted,
        strengths=all_strengths,
        logits=torch.cat([step_logits.detach().float().cpu() for step_logits in logits]),
        maps=torch.cat([patch_map.detach().float().cpu() for patch_map in maps]),
        bias=bias,
        grid=prompter.grid(inputs),
        prompt=prompt or _prompt_text(prompter, weights, suppress),
    )


def _prompt_text(prompter: AttentionPrompter, weights: Any, suppress: bool) -> str:
    source = prompter.density if weights is None else weights
    name = source if isinstance(source, str) else type(source).__name__.lower()
    return f"away from {name}" if suppress else f"to {name}"
