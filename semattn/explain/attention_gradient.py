"""Base class of the methods that use the gradient of the score with respect to attention."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from ..attention import RuleSettings
from ..attention.rule_registry import DEFAULT_RULES
from .base import Explainer

GRADIENTS: dict[str, RuleSettings | None] = {"plain": None, "lrp": DEFAULT_RULES}
"""Name of a gradient to the rules of its backward pass; None for the plain gradient."""


class AttentionGradientExplainer(Explainer):
    """Base class of methods that use dA, the gradient of the score with respect to attention.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    gradient : "plain"; "lrp", the gradients of a backward pass under the rules of relevance
        propagation, with the defaults of `AttnLRP`; or a `RuleSettings`, for other values of gamma
    options : as for `Explainer`

    Notes
    -----
    With "lrp" the rules apply to all calls between an attention call and the score. In the
    attention call itself, dA = dO V^T for the gradient dO of its result. Calls without a rule have
    their own gradient, and a note of the explanation names them.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        gradient: str | RuleSettings = "plain",
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if isinstance(gradient, str) and gradient not in GRADIENTS:
            raise ValueError(f"gradient: expected one of {', '.join(GRADIENTS)}, got {gradient!r}")
        self.gradient = gradient
        self.gradient_rules = GRADIENTS[gradient] if isinstance(gradient, str) else gradient

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        gradient = self.gradient
        if isinstance(gradient, RuleSettings):
            return super().parameters() | {"gradient": dataclasses.asdict(gradient)}
        return super().parameters() | {"gradient": gradient}
