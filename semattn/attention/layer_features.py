"""Features of one module on the patches of an image, and the gradient of the score for them.

The autograd graph starts at this module; the layers before it are computed without a graph. The
module may return tokens, windows of tokens, or feature maps: `FeatureLayout` places them by the
positions of `position_tracing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .layout_pass import layout_pass
from .model_call import ModelCall
from .model_pass import KeepGradients, frozen
from .position_planes import Planes, mean_positions, varies_along
from .position_tracing import PositionTracer
from .propagation import PropagationMode, calls_without_rule
from .rule_registry import RuleSettings
from .scope import CallScope, model_running, nested_pass
from .sites import check_model
from .target import Prediction, TargetLike, gradients_of, output_tensor, score
from .token_layout import POSITION_TOLERANCE, UnplacedError, ranks, with_overlap


@dataclass(frozen=True)
class FeatureLayout:
    """Layout of a feature tensor: its channel axes, and the patch of each other index.

    `image` and `token` (M,) are the image and patch numbers over the other axes, flattened. A patch
    number of -1 marks padding and tokens that are not patches of `grid`, such as a class token.
    """

    grid: PatchGrid
    channels: tuple[int, ...]
    image: Tensor
    token: Tensor

    @classmethod
    def of_tokens(cls, grid: PatchGrid, batch: int, tokens: int) -> FeatureLayout:
        """Create the layout of the last `tokens` tokens of `grid` in order, (B, tokens, D)."""
        token = torch.arange(tokens, device="cpu") - (tokens - grid.patches)
        image = torch.arange(batch, device="cpu").repeat_interleave(tokens)
        return cls(grid, (2,), image, token.clamp(min=-1).repeat(batch))

    @classmethod
    def of(
        cls, planes: Planes, size: tuple[int, int], overlap: tuple[float, float] = (0.0, 0.0)
    ) -> FeatureLayout:
        """Derive the layout from positions in images of `size` (H, W); `overlap` as in `Origin`."""
        channels = [
            axis
            for axis in range(1, planes[0].ndim)
            if not varies_along(planes, axis, POSITION_TOLERANCE)
        ]
        if not channels:
            raise UnplacedError("no channel axis")
        image, down, across = (
            plane.flatten() for plane in mean_positions(planes, channels, keepdim=False)
        )
        real = (image >= 0) & ~image.isnan()
        if not bool(real.any()):
            raise UnplacedError("features that cannot be followed back to the image")
        rows, h, tall, top = ranks(down, real, size[0])
        columns, w, wide, left = ranks(across, real, size[1])
        if h * w == 1:
            raise UnplacedError("features that average the whole image")
        token = torch.where(real, rows * w + columns, -1)
        image = torch.where(real, image, 0.0).long()
        counts = torch.bincount((image * h * w + token)[real], minlength=h * w)
        if not bool((counts == 1).all()):
            raise UnplacedError(f"features that do not fill a grid of {h}x{w} exactly once")
        grid = PatchGrid((h, w), size, (tall, wide), origin=(top, left))
        return cls(with_overlap(grid, overlap), tuple(channels), image, token)

    def place(self, features: Tensor, batch: int) -> Tensor:
        """Return the features of the patches (B, P, D)."""
        last = tuple(range(-len(self.channels), 0))
        flat = features.movedim(self.channels, last).flatten(-len(last)).flatten(0, -2)
        real = self.token >= 0
        placed = flat.new_zeros(batch, self.grid.patches, flat.shape[-1])
        placed[self.image[real], self.token[real]] = flat[real]
        return placed


def follow_features(
    model: nn.Module,
    call: ModelCall,
    name: str,
    *,
    attribute_to_layer_input: bool,
) -> FeatureLayout:
    """Return the layout of the output of module `name` from one forward pass.

    With `attribute_to_layer_input`, the layout of its input.

    Raises
    ------
    UnsupportedModelError
        If its features cannot be followed back to the image.
    """
    layouts = feature_layouts(
        model, call, [name], attribute_to_layer_input=attribute_to_layer_input
    )
    layout = layouts.get(name, UnplacedError(_NOT_FOLLOWED))
    if isinstance(layout, UnplacedError):
        raise UnsupportedModelError(
            f"layer {name}: expected features of the image's patches, got {layout} — "
            "choose another layer"
        )
    return layout


_NOT_FOLLOWED = "features that cannot be followed back to the image"


def feature_layouts(
    model: nn.Module, call: ModelCall, names: Sequence[str], *, attribute_to_layer_input: bool
) -> dict[str, FeatureLayout | UnplacedError]:
    """Return the layouts of several modules from one forward pass, or the reasons without one.

    Modules that are not called are left out; of several calls, the first one counts.
    """
    traced: dict[str, tuple[Planes | None, tuple[float, float]]] = {}
    size = (call.images.shape[-2], call.images.shape[-1])

    @contextmanager
    def watch(tracer: PositionTracer) -> Iterator[None]:
        scope = CallScope()

        def record_positions(name: str, _: nn.Module, *hook_args: Any) -> None:
            # The arguments of the hook are unnamed: see `scope`.
            if not scope.is_current() or name in traced:
                return
            args, kwargs, *output = hook_args
            tensors = [*args, *kwargs.values()] if attribute_to_layer_input else output
            first = tensors[0][0] if isinstance(tensors[0], (tuple, list)) else tensors[0]
            is_tensor = isinstance(first, Tensor)
            overlap = tracer.origin(first).overlap if is_tensor else (0.0, 0.0)
            traced[name] = (tracer.of(first) if is_tensor else None, overlap)

        with ExitStack() as stack:
            for name in names:
                module = model.get_submodule(name)
                register = (
                    module.register_forward_pre_hook
                    if attribute_to_layer_input
                    else module.register_forward_hook
                )
                handle = register(partial(record_positions, name), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    layout_pass(model, call, watch=watch, all_images=True)
    return {name: _layout_of(planes, size, overlap) for name, (planes, overlap) in traced.items()}


def _layout_of(
    planes: Planes | None, size: tuple[int, int], overlap: tuple[float, float]
) -> FeatureLayout | UnplacedError:
    try:
        if planes is None:
            raise UnplacedError(_NOT_FOLLOWED)
        return FeatureLayout.of(planes[:3], size, overlap)
    except UnplacedError as reason:
        return reason


@dataclass(frozen=True)
class Activation:
    """Features of a module on the patches of a grid, and the gradient of the score for them.

    Parameters
    ----------
    features, gradient : (B, P, D)
    grid : the grid of the patches
    prediction : output of the model, and the score
    products : (B,), sum of features times gradient over all tokens, also those without a patch
    without_rule : calls with their own gradient, see `propagation.calls_without_rule`; () without
        rules
    """

    features: Tensor
    gradient: Tensor
    grid: PatchGrid
    prediction: Prediction
    products: Tensor
    without_rule: tuple[str, ...] = ()


def activation(
    model: nn.Module,
    inputs: Tensor,
    layer: nn.Module | str,
    grid: PatchGrid | None = None,
    *,
    attribute_to_layer_input: bool = False,
    target: TargetLike = None,
    additional_forward_args: Any = None,
    rules: RuleSettings | None = None,
    is_blocked: bool = False,
) -> Activation:
    """Return the output of `layer` on the patches, and its gradient for the target.

    Parameters
    ----------
    model : held in evaluation mode and frozen during the call, restored afterwards
    inputs : (B, C, H, W), preprocessed for the model
    layer : a module of the model, or its dotted name
    grid : the grid of a model whose tokens are in its order in every layer; without it, and for
        features that are not tokens of it, positions are traced through the model
    attribute_to_layer_input : whether to use the input of the module instead of its output
    target, additional_forward_args : as for `record`
    rules : rules of relevance propagation that the gradient obeys; None is the gradient itself
    is_blocked : whether gradients are computed through `torch.no_grad` and `detach` in the model

    Raises
    ------
    UnsupportedModelError
        If the module is not called exactly once, does not return features of the image's patches,
        or the score does not depend on it; the message names the module.
    """
    inner = check_model(model, compiled=True)
    name, module = _find_module(inner, layer)
    with nested_pass(), torch.inference_mode(False), torch.enable_grad(), frozen(inner):
        inputs = inputs.clone() if inputs.is_inference() else inputs.detach()
        call = ModelCall.of(inputs, additional_forward_args)
        with (
            PropagationMode(rules) if rules else nullcontext(),
            KeepGradients() if is_blocked else nullcontext(),  # inside, as rules use torch.no_grad
            capture(name, module, attribute_to_layer_input) as captured,
        ):
            with model_running():
                output = inner(*call.args)
            captured.open = False
            if captured.tensor is None:
                raise UnsupportedModelError(
                    f"layer {name}: expected one call per forward pass, got none — "
                    "choose another layer"
                )
            target_score = score(output, target, inner)
            scores = target_score.values
            without_rule = calls_without_rule(scores) if rules else ()
            gradient = _differentiate(name, scores, captured.tensor)
        prediction = Prediction.of(output_tensor(output), target_score)
        features = captured.tensor.detach()
        layout = _token_layout(grid, features) or follow_features(
            inner,
            call,
            name,
            attribute_to_layer_input=attribute_to_layer_input,
        )
    dtype = torch.promote_types(features.dtype, torch.float32)
    return Activation(
        layout.place(features, len(inputs)).to(dtype),
        layout.place(gradient, len(inputs)).to(dtype),
        layout.grid,
        prediction,
        _sum_per_image(features.to(dtype) * gradient.to(dtype), layout, len(inputs)),
        without_rule,
    )


def _sum_per_image(values: Tensor, layout: FeatureLayout, batch: int) -> Tensor:
    """Sum over all elements of each image, (B,)."""
    if len(values) % batch == 0:  # images are the first axis, or windows of one image follow
        return values.reshape(batch, -1).sum(dim=1)
    return layout.place(values, batch).sum(dim=(1, 2))


def _token_layout(grid: PatchGrid | None, features: Tensor) -> FeatureLayout | None:
    """Return the layout of tokens (B, N, D) in the order of `grid`, with or without its prefix."""
    if grid is None or features.ndim != 3 or features.shape[1] not in (grid.tokens, grid.patches):
        return None
    return FeatureLayout.of_tokens(grid, len(features), features.shape[1])


def _find_module(model: nn.Module, layer: nn.Module | str) -> tuple[str, nn.Module]:
    for name, module in model.named_modules():
        if layer is module or layer == name:
            return name, module
    got = repr(layer) if isinstance(layer, str) else type(layer).__name__
    names = [name for name, _ in model.named_modules() if name]
    last_names = f"{', '.join(names[-4:])}" if names else "none"
    raise ValueError(
        f"layer: expected a module of the model or its dotted name, got {got} — "
        f"the last ones are {last_names}"
    )


@dataclass
class _Captured:
    """Tensor of the watched module in the current pass."""

    open: bool = True
    tensor: Tensor | None = None
    calls: int = 0
    scope: CallScope = field(default_factory=CallScope)

    @property
    def is_active(self) -> bool:
        return self.open and self.scope.is_current()


@contextmanager
def capture(name: str, module: nn.Module, attribute_to_layer_input: bool) -> Iterator[_Captured]:
    """Capture the tensor of a module and start the autograd graph at it."""
    captured = _Captured()

    def replace_by_leaf(tensor: Tensor) -> Tensor:
        captured.calls += 1
        if captured.calls > 1:
            raise UnsupportedModelError(
                f"layer {name}: expected one call per forward pass, got a second one — "
                "choose another layer"
            )
        # A leaf also inside `KeepGradients`, in which `detach` keeps the graph.
        captured.tensor = tensor.data.requires_grad_()
        return captured.tensor

    def pre_hook(_: nn.Module, *hook_args: Any) -> Any:  # args and kwargs, unnamed: see `scope`
        if not captured.is_active:
            return None
        args, kwargs = hook_args
        features = _first_features([*args, *kwargs.values()], name)
        replacement = replace_by_leaf(features)
        # The same tensor may be passed as queries, keys and values.
        return (
            tuple(replacement if value is features else value for value in args),
            {key: replacement if value is features else value for key, value in kwargs.items()},
        )

    def hook(_: nn.Module, _args: Any, output: Any) -> Any:
        if not captured.is_active:
            return None
        if isinstance(output, Tensor):
            return replace_by_leaf(output)
        if isinstance(output, list | tuple) and type(output) in (list, tuple):
            features = _first_features(output, name)
            replacement = replace_by_leaf(features)
            return type(output)(replacement if value is features else value for value in output)
        raise UnsupportedModelError(
            f"layer {name}: expected a tensor as its output, got {type(output).__name__} — "
            "choose a module inside it"
        )

    handle = (
        module.register_forward_pre_hook(pre_hook, with_kwargs=True)
        if attribute_to_layer_input
        else module.register_forward_hook(hook)
    )
    try:
        yield captured
    finally:
        handle.remove()


def _first_features(values: Any, name: str) -> Tensor:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise UnsupportedModelError(
        f"layer {name}: expected a tensor of features, got none — choose another layer"
    )


def _differentiate(name: str, scores: Tensor, tensor: Tensor) -> Tensor:
    unrelated = UnsupportedModelError(
        f"layer {name}: expected the output to depend on it, got no gradient — choose another layer"
    )
    if not scores.requires_grad:
        raise unrelated
    (gradient,) = gradients_of(scores, [tensor], scores.dtype, f"layer {name}")
    if gradient is None:
        raise unrelated
    return gradient
