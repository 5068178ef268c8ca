"""What one module gives to the rest of the model, patch by patch, and what the score owes to it.

The graph begins there: what lies before is computed without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .features import FeatureLayout, follow_features
from .frozen import quiet
from .recorder import _HALF_SCALES
from .scope import Owner, calling, nested
from .sites import refuse
from .target import Target, score


@dataclass(frozen=True)
class Activation:
    """A module's features of the patches of a grid, (B, P, D), and the gradient of the score."""

    features: Tensor
    gradient: Tensor
    grid: PatchGrid


def activation(
    model: nn.Module,
    inputs: Tensor,
    layer: nn.Module | str,
    grid: PatchGrid | None = None,
    *,
    entering: bool = False,
    target: Target = None,
    additional_forward_args: tuple[Any, ...] = (),
) -> Activation:
    """The output of `layer`, or what enters it, and the gradient of the target: on the patches.

    Parameters
    ----------
    model : in evaluation mode and frozen while this runs, afterwards as it was
    inputs : (B, C, H, W), as the model takes them
    layer : a module of the model, or its dotted name
    grid : of a model whose tokens come in the order of this grid in every layer; without it, and
        for features that are no tokens of it, places are followed through the model
    entering : whether it is the module's input that is wanted
    target, additional_forward_args : as for `record`

    Raises
    ------
    UnsupportedModelError
        When the module is not called once, gives no features of the image's patches, or the score
        does not depend on it; it names the module.
    """
    inner = refuse(model, compiled=True)
    name, module = _found(inner, layer)
    with nested(), torch.inference_mode(False), torch.enable_grad(), quiet(inner):
        inputs = inputs.clone() if inputs.is_inference() else inputs.detach()
        with _watched(name, module, entering) as seen:
            with calling():
                output = inner(inputs, *additional_forward_args)
            seen.open = False
            if seen.tensor is None:
                raise UnsupportedModelError(
                    f"layer {name}: expected one call a forward pass, got none — choose another"
                )
            chosen = score(output, target, inner).values
            gradient = _differentiate(name, chosen, seen.tensor)
        features = seen.tensor.detach()
        at = _tokens_of(grid, features) or follow_features(
            inner, inputs, additional_forward_args, name, entering=entering
        )
    exact = torch.promote_types(features.dtype, torch.float32)
    return Activation(
        at.place(features, len(inputs)).to(exact),
        at.place(gradient, len(inputs)).to(exact),
        at.grid,
    )


def _tokens_of(grid: PatchGrid | None, features: Tensor) -> FeatureLayout | None:
    """The layout of the tokens (B, N, D) of `grid` as they come, with or without its prefix."""
    if grid is None or features.ndim != 3 or features.shape[1] not in (grid.tokens, grid.patches):
        return None
    return FeatureLayout.of_tokens(grid, len(features), features.shape[1])


def _found(model: nn.Module, layer: nn.Module | str) -> tuple[str, nn.Module]:
    for name, module in model.named_modules():
        if layer is module or layer == name:
            return name, module
    given = repr(layer) if isinstance(layer, str) else type(layer).__name__
    names = [name for name, _ in model.named_modules() if name]
    some = f"{', '.join(names[-4:])}" if names else "none"
    raise ValueError(
        f"layer: expected a module of the model or its dotted name, got {given} — "
        f"the last ones are {some}"
    )


@dataclass
class _Seen:
    open: bool = True
    tensor: Tensor | None = None
    calls: int = 0
    owner: Owner = field(default_factory=Owner)

    @property
    def mine(self) -> bool:
        return self.open and self.owner.calls()


@contextmanager
def _watched(name: str, module: nn.Module, entering: bool) -> Iterator[_Seen]:
    """Hold on to the module's tensor, and let the graph begin with it."""
    seen = _Seen()

    def hold(tensor: Tensor) -> Tensor:
        seen.calls += 1
        if seen.calls > 1:
            raise UnsupportedModelError(
                f"layer {name}: expected one call a forward pass, got a second one — choose another"
            )
        begun = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        seen.tensor = begun
        return begun

    def enter(_: nn.Module, *given: Any) -> Any:  # args and kwargs: see `owner`
        if not seen.mine:
            return None
        args, named = given
        first = _first_features([*args, *named.values()], name)
        begun = hold(first)
        # Queries, keys and values may be one tensor, given three times.
        return (
            tuple(begun if one is first else one for one in args),
            {key: begun if one is first else one for key, one in named.items()},
        )

    def leave(_: nn.Module, _args: Any, output: Any) -> Any:
        if not seen.mine:
            return None
        if isinstance(output, Tensor):
            return hold(output)
        if isinstance(output, list | tuple) and type(output) in (list, tuple):
            first = _first_features(output, name)
            begun = hold(first)
            return type(output)(begun if one is first else one for one in output)
        raise UnsupportedModelError(
            f"layer {name}: expected a tensor as its output, got {type(output).__name__} — "
            "choose a module inside it"
        )

    handle = (
        module.register_forward_pre_hook(enter, with_kwargs=True)
        if entering
        else module.register_forward_hook(leave)
    )
    try:
        yield seen
    finally:
        handle.remove()


def _first_features(values: Any, name: str) -> Tensor:
    for one in values:
        if isinstance(one, Tensor) and one.is_floating_point():
            return one
    raise UnsupportedModelError(
        f"layer {name}: expected a tensor of features, got none — choose another layer"
    )


def _differentiate(name: str, chosen: Tensor, tensor: Tensor) -> Tensor:
    unrelated = UnsupportedModelError(
        f"layer {name}: expected the output to depend on it, got no gradient — choose another layer"
    )
    if not chosen.requires_grad:
        raise unrelated
    scales = _HALF_SCALES if chosen.dtype == torch.float16 else (1.0,)
    for scale in scales:
        (found,) = torch.autograd.grad(
            chosen.sum() * scale, tensor, allow_unused=True, retain_graph=scale != scales[-1]
        )
        if found is None:
            raise unrelated
        if bool(found.isfinite().all()):
            exact = torch.promote_types(found.dtype, torch.float32)
            return found if scale == 1.0 else found.to(exact) / scale
    raise UnsupportedModelError(
        f"layer {name}: expected finite gradients, got NaN or infinity — "
        "check the weights and the input, or run the model in float32"
    )
