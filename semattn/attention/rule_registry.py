"""Registry of the rules of relevance propagation, their settings, and what a rule is given."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .hooks import CallReader

ATTENTION_RULES = ("attn-lrp", "cp-lrp")
_NAMESPACES = (
    torch, Tensor, F, torch._C._nn, torch._C._VariableFunctions, torch.special, torch.linalg,
)  # fmt: skip


@dataclass(frozen=True)
class RuleSettings:
    """Parameters of the rules of relevance propagation.

    Parameters
    ----------
    gamma : weight of the contributions with the sign of the result, in linear layers; 0 is the
        epsilon rule
    conv_gamma : the same for convolutions, such as the patch embedding
    epsilon : added to the magnitude of the results of linear layers, as they divide
    attention : "attn-lrp", or "cp-lrp", which treats the attention as constant
    """

    gamma: float
    conv_gamma: float
    epsilon: float
    attention: str


DEFAULT_RULES = RuleSettings(gamma=0.05, conv_gamma=0.05, epsilon=0.0, attention="attn-lrp")


@dataclass
class PassState:
    """State of the rules during one forward pass.

    `sources` maps the result of elementwise calls to the tensor that they are a function of, with
    the versions of both, since either may be changed in place.
    """

    reader: CallReader = field(default_factory=CallReader)
    sources: Any = field(default_factory=WeakTensorKeyDictionary)

    def source(self, tensor: Tensor) -> Tensor:
        """Return the tensor that `tensor` is an elementwise function of, or `tensor` itself."""
        entry = self.sources.get(tensor)
        if entry is None:
            return tensor
        reference, *versions = entry
        source = reference()
        return tensor if source is None or versions != _versions(source, tensor) else source

    def note_source(self, result: Tensor, source: Tensor) -> None:
        """Store that `result` is an elementwise function of `source`."""
        if result is not source:
            self.sources[result] = (weakref.ref(source), *_versions(source, result))


@dataclass(frozen=True)
class RuleCall:
    """One call of a function with a rule."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    settings: RuleSettings
    state: PassState

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function; with `args`, these replace the first arguments of the call."""
        named = {} if len(args) > len(self.args) else self.kwargs  # a named second argument
        return self.function(*args, *self.args[len(args) :], **named | kwargs)

    def value(self) -> Tensor:
        """Return the result without a graph."""
        with torch.no_grad():
            return self.run()

    def softmax_scores(self) -> tuple[Tensor, int] | None:
        """Return scores and axis if this is the last call of a softmax in several calls."""
        softmax = self.state.reader.read(self.function, self.args, self.kwargs)
        return None if softmax is None or softmax.scores is None else (softmax.scores, softmax.dim)


Rule = Callable[[RuleCall], Tensor]
RULES: dict[Any, Rule] = {}
"""Function of PyTorch to its rule; the forms of one function (method, operator) are separate."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for all forms of the named functions: `mul`, `mul_`, `__imul__`, …"""

    def register(function: Rule) -> Rule:
        patterns = "{}", "{}_", "__{}__", "__i{}__"
        forms = [pattern.format(name) for name in names for pattern in patterns]
        functions = [getattr(owner, form, None) for owner in _NAMESPACES for form in forms]
        # Functions of PyTorch in Python are read by their code, see `propagation`.
        RULES.update(
            {form: function for form in functions if callable(form) and not is_python(form)}
        )
        return function

    return register


def is_python(function: Any) -> bool:
    """Return whether a function is written in Python."""
    return isinstance(function, types.FunctionType)


def _versions(*tensors: Tensor) -> list[int]:
    return [tensor._version for tensor in tensors]
