"""AttnLRP: relevance propagation from the score to the pixels, on any model.

The rules are in `semattn.attention.propagation_rules`. This module contains the explainer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..affinity import random_walk
from ..attention.propagation import PropagationMode, calls_without_rule, missing_rules_note
from ..attention.propagation_rules import ATTENTION_RULES, RuleSettings
from ..attention.target import gradients_of
from ..grid import PatchGrid
from ..utils.validation import check_number
from .base import explainers
from .captum_methods import Forward, PixelExplainer
from .request import AttributionRequest, RelevanceMap

PRESETS: dict[str, dict[str, Any]] = {
    "signed": {},
    "epsilon": {"gamma": 0.0, "conv_gamma": 0.0, "epsilon": 1e-6},
    "localization": {"affinity": 0.9},
}
"""Name to options of `AttnLRP` that differ from its defaults."""


@explainers.register("attn-lrp")
class AttnLRP(PixelExplainer):
    """Layer-wise relevance propagation with rules for attention (AttnLRP, arXiv 2402.05602).

    The score is distributed over the inputs of each call, from the last call to the pixels:

    * linear layers and convolutions: the gamma rule, or with gamma 0 the epsilon rule;
    * normalisations: their statistics are constants, so that all relevance passes;
    * activations: the identity rule, all relevance passes;
    * products, matrix products and gates: one half for each factor. An attention call has 1/4 for
      the queries, 1/4 for the keys and 1/2 for the values; softmax has its own gradient.

    The map is signed, with one value per pixel and channel. Biases and position embeddings
    keep their part of the relevance, and softmax does not conserve it, so the sum of the map is not
    the score in general.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    preset : "signed"; "epsilon", without gamma; or "localization", the positive part with
        affinity refinement. The options below replace its values
    gamma : weight of the contributions that agree with the result, in linear layers
    conv_gamma : the same in convolutions, such as the patch embedding
    epsilon : stabiliser, added to the magnitude of the results of linear layers
    attention : "attn-lrp", or "cp-lrp", in which the attention weights are constant
    affinity : strength of the affinity refinement of the positive part, in [0, 1); 0 keeps the
        signed map. The refined map is one of patches, the same in all channels
    options : as for `PixelExplainer`

    Notes
    -----
    Calls without a rule have their own gradient, and a note of the explanation names them.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> AttnLRP(vit).attribute(torch.rand(1, 3, 64, 64), target=3).shape
    torch.Size([1, 3, 64, 64])
    """

    name = "attn-lrp"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        preset: str = "signed",
        gamma: float | None = None,
        conv_gamma: float | None = None,
        epsilon: float | None = None,
        attention: str = "attn-lrp",
        affinity: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
        if attention not in ATTENTION_RULES:
            raise ValueError(
                f"attention: expected one of {', '.join(ATTENTION_RULES)}, got {attention!r}"
            )
        numbers = {"gamma": 0.05, "conv_gamma": 0.05, "epsilon": 0.0, "affinity": 0.0}
        numbers |= PRESETS[preset]
        given_options = {
            "gamma": gamma, "conv_gamma": conv_gamma, "epsilon": epsilon, "affinity": affinity,
        }  # fmt: skip
        numbers |= {name: value for name, value in given_options.items() if value is not None}
        for name, value in numbers.items():
            check_number(name, value, minimum=0)
        if not numbers["affinity"] < 1:
            raise ValueError(f"affinity: expected a number in [0, 1), got {numbers['affinity']}")
        self.preset = preset
        self.affinity = numbers.pop("affinity")
        self.rules = RuleSettings(**numbers, attention=attention)

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "preset": self.preset,
            "gamma": self.rules.gamma,
            "conv_gamma": self.rules.conv_gamma,
            "epsilon": self.rules.epsilon,
            "attention": self.rules.attention,
            "affinity": self.affinity,
        }

    def pixels_and_notes(
        self, forward: Forward, inputs: Tensor, image_index: Tensor, _grid: PatchGrid
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Compute input times gradient under the rules, and name the calls without a rule."""
        with PropagationMode(self.rules):
            scores = forward(inputs, image_index)
            without_rule = calls_without_rule(scores)
            (gradient,) = gradients_of(scores, [inputs], scores.dtype, "model output")
        relevance = inputs.detach() * (0 if gradient is None else gradient)
        return relevance, missing_rules_note(without_rule)

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Compute the signed map, and refine its positive part by affinity if asked."""
        maps = super().maps(request)
        if not self.affinity:
            return maps
        record = request.record(layers=self.layers, grad="last")
        positive = maps.patches.clamp(min=0)[..., None]
        refined = random_walk(record.middle_layer(), record.grid, positive, self.affinity)
        patches = positive[..., 0] if refined is None else refined[..., 0]
        from_patches = self.from_patches(request, record, lambda _: patches)
        return replace(from_patches, notes=maps.notes)
