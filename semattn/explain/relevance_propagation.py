"""AttnLRP: relevance propagation from the score to the pixels or patches, on any model.

The rules are in `semattn.attention`: `propagation_rules` and `normalization_rules`. This module
contains the explainer.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..affinity import random_walk
from ..attention import AttentionRecord
from ..attention.first_layer import first_layer
from ..attention.layer_features import activation
from ..attention.model_call import ModelCall
from ..attention.model_layout import known_layout
from ..attention.model_pass import KeepGradients, frozen
from ..attention.propagation import PropagationMode, calls_without_rule, missing_rules_note
from ..attention.rule_registry import ATTENTION_RULES, RuleSettings
from ..attention.scope import model_running
from ..attention.target import Prediction, check_batch, gradients_of, output_tensor, score
from ..utils.validation import check_number
from .base import explainers
from .captum_methods import PixelExplainer
from .request import AttributionRequest, RelevanceMap

PRESETS: dict[str, dict[str, Any]] = {
    "signed": {},
    "epsilon": {"gamma": 0.0, "conv_gamma": 0.0, "epsilon": 1e-6},
    "localization": {"affinity": 0.9},
}
"""Name to options of `AttnLRP` that differ from its defaults."""
LEVELS = ("pixels", "patches")


@explainers.register("attn-lrp")
class AttnLRP(PixelExplainer):
    """Layer-wise relevance propagation with rules for attention (AttnLRP, arXiv 2402.05602).

    The score is distributed over the inputs of each call, from the last call to the pixels:

    * linear layers and convolutions: the gamma rule, or with gamma 0 the epsilon rule;
    * normalisations: their statistics are constants, so that all relevance passes;
    * activations: the identity rule, all relevance passes;
    * products, matrix products and gates: one half for each factor. An attention call has 1/4 for
      the queries, 1/4 for the keys and 1/2 for the values; softmax has its own gradient.

    The map is signed. With level "pixels" it has one value per pixel and channel. With level
    "patches" it has one value per patch: the input of the first layer of the transformer times its
    gradient, summed over the channels; position embeddings are a part of that input.

    Biases keep their part of the relevance, and softmax does not conserve it, so the sum of the
    relevance is not the score in general. `Explanation.conservation` is the sum divided by the
    score; it counts the relevance of all tokens, also of those that are not patches.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    preset : "signed"; "epsilon", without gamma; or "localization", the positive part with
        affinity refinement. The options below replace its values
    level : "pixels" or "patches"
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
        level: str = "pixels",
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
        if level not in LEVELS:
            raise ValueError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
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
        self.level = level
        self.affinity = numbers.pop("affinity")
        self.rules = RuleSettings(**numbers, attention=attention)

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "preset": self.preset,
            "level": self.level,
            "gamma": self.rules.gamma,
            "conv_gamma": self.rules.conv_gamma,
            "epsilon": self.rules.epsilon,
            "attention": self.rules.attention,
            "affinity": self.affinity,
        }

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Compute the signed map, and refine its positive part by affinity if asked."""
        record = self._record(request)
        with torch.inference_mode(False), torch.enable_grad(), frozen(request.model):
            maps = (self._pixel_maps if self.level == "pixels" else self._patch_maps)(
                request, record
            )
        if not self.affinity:
            return maps
        positive = maps.patches.clamp(min=0)[..., None]
        refined = random_walk(record.middle_layer(), record.grid, positive, self.affinity)
        patches = positive[..., 0] if refined is None else refined[..., 0]
        from_patches = self.from_patches(request, record, lambda _: patches)
        return replace(from_patches, notes=maps.notes, conservation=maps.conservation)

    def _record(self, request: AttributionRequest) -> AttentionRecord:
        """Return a record of the model's attention, with sites if the affinity needs them.

        Grid and notes of a model come from its first pass; later calls have no pass for them.
        """
        call = ModelCall.of(request.inputs, request.extra_args)
        with frozen(request.model):
            entry = known_layout(request.model, call, request.sites)
        if self.affinity or callable(request.target) or not entry.is_plain:
            record = request.record(layers=self.layers, grad="last")
            left_out = tuple(module.site for module in entry.layout.left_out)
            entry.is_plain = not record.is_blocked and record.left_out == left_out
            return record
        layout = entry.layout
        return AttentionRecord(
            sites=(),
            grid=layout.grid,
            prediction=Prediction(request.inputs[:0]),
            read_from=None,
            in_order=all(
                layout.layouts[site.name].in_order_of(layout.grid) for site in layout.sites
            ),
            notes=layout.notes(),
        )

    def _pixel_maps(self, request: AttributionRequest, record: AttentionRecord) -> RelevanceMap:
        """Compute the pixels times their gradient under the rules."""
        exact = torch.promote_types(request.inputs.dtype, torch.float32)
        inputs = request.inputs.detach().clone().to(exact).requires_grad_()
        blocked = KeepGradients() if record.is_blocked else nullcontext()
        with PropagationMode(self.rules):
            with blocked, model_running():
                output = request.model(inputs.to(request.inputs.dtype), *_constants(request))
            target_score = score(output, request.target, request.model)
            scores = target_score.values
            without_rule = calls_without_rule(scores)
            (gradient,) = gradients_of(scores, [inputs], scores.dtype, "model output")
        logits = output_tensor(output)
        check_batch(logits, len(inputs))
        relevance = inputs.detach() * (0 if gradient is None else gradient)
        record = replace(record, prediction=Prediction.of(logits, target_score))
        with torch.no_grad():
            heat_map = relevance.sum(dim=1)
            maps = self.from_patches(request, record, lambda _: record.grid.pool(heat_map))
        maps = replace(maps, heat_map=heat_map, attribution=relevance)
        return _with_sum(maps, relevance.sum(dim=(1, 2, 3)), without_rule)

    def _patch_maps(self, request: AttributionRequest, record: AttentionRecord) -> RelevanceMap:
        """Compute the input of the first layer times its gradient under the rules."""
        call = ModelCall.of(request.inputs, request.extra_args)
        tokens = activation(
            request.model,
            request.inputs,
            first_layer(request.model, call, request.sites),
            record.grid if record.in_order else None,
            attribute_to_layer_input=True,
            target=request.target,
            additional_forward_args=_constants(request),
            rules=self.rules,
            is_blocked=record.is_blocked,
        )
        record = replace(record, prediction=tokens.prediction)
        relevance = (tokens.features * tokens.gradient).sum(dim=-1)
        maps = self.from_patches(request, record, lambda _: relevance, tokens.grid)
        return _with_sum(maps, tokens.products, tokens.without_rule)


def _constants(request: AttributionRequest) -> tuple[Any, ...]:
    """Return the arguments after the images; only the images have relevance."""
    arguments = request.extra_args
    return tuple(value.detach() if isinstance(value, Tensor) else value for value in arguments)


def _with_sum(
    maps: RelevanceMap, relevance_sum: Tensor, without_rule: tuple[str, ...]
) -> RelevanceMap:
    """Return the maps with their conservation, and a note that names the calls without a rule."""
    from ..metrics.conservation import conservation

    target_score = maps.prediction.score
    assert target_score is not None
    return replace(
        maps,
        conservation=conservation(relevance_sum, target_score),
        notes=maps.notes + missing_rules_note(without_rule),
    )
