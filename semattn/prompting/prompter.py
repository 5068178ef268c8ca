"""`AttentionPrompter`: a model with a bias on its attention scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.hooks import Call as AttentionCall
from ..attention.model_call import ModelCall, read_call
from ..attention.model_layout import ModelLayout, model_layout
from ..attention.record import with_readout
from ..attention.scope import CallScope, is_tracing, isolated
from ..attention.sites import AttentionSite, Layers, check_model, choose_layers
from ..attention.steering import Steering, steer
from ..density import concentration
from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from ..images import PICTURE_CHANNELS, Preprocessing, keypoint_channels_error, pixels_of
from ..keypoints import detectors
from .bias import (
    CLIP,
    HiddenCue,
    as_patch_values,
    attention_bias,
    check_positive,
    check_weights,
    suppression_bias,
)
from .calibration import Calibration, Evaluation, calibrate, evaluate
from .regions import Region, coverage
from .sources import (
    BiasSource,
    DensityPrompt,
    FixedBias,
    RegionPrompt,
    check_density,
    prompt_needs,
    prompt_sources,
)

STRENGTH = 0.5
LAYERS = "last-third"
DENSITY = "interrelation"


class AttentionPrompter(nn.Module):
    """Wrapper of a model that adds a bias to the attention scores; it is called like the model.

    scores_ij += strength b_j with b_j = clip(log(P p_j), -clip, clip), where p is the semantic
    concentration of the input images; prefix tokens get no bias. This multiplies the attention to
    patch j by e^(strength b_j) and renormalises. Fused kernels stay enabled. The model's weights,
    hooks and flags are restored when a call returns or raises.

    Parameters
    ----------
    model : a vision transformer of any family that `semattn.record` reads
    strength : factor of the bias; 0 gives bit-identical outputs of the model; a tensor may require
        gradients
    layers : self-attention layers: "last-third", "last-half", "all", indices or a slice
    heads : indices of heads; None is all
    queries : queries that get the bias: "all", "class" (the prefix tokens from which the output is
        read) or "patches"
    density : name in `semattn.densities`, a function of a `Scene`, or weights (P,) or (B, P); or a
        source that also uses the model's attention (`semattn.prompting.prompt_sources`):
        "interrelation", "received", "received-class", and the baselines "class-attention" and
        "class-refined"
    clip : nats, maximum absolute bias of a patch at strength 1
    detector, preprocessing, seed, sites : as for `semattn.explain.Explainer`

    Raises
    ------
    UnsupportedModelError
        If the model has no self-attention that can be steered.
    ValueError
        For an unknown option, layer or name.

    Notes
    -----
    A prompted model makes other predictions than the plain model: select strength and layers on
    validation data (`calibrate`), and evaluate more than one class. With gradient checkpointing,
    call `backward` inside the `steer` context.

    Source: arXiv 2211.08543, which calls this prompting; the definitions are this project's.

    Examples
    --------
    >>> import timm
    >>> from semattn.prompting import Box
    >>> vit = timm.create_model("test_vit", img_size=64).eval()
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> prompter = AttentionPrompter(vit, density="count")
    >>> prompter(x).shape
    torch.Size([1, 1000])
    >>> with prompter.steer(Box(0, 0, 31, 31)):
    ...     logits = vit(x)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float | Tensor = STRENGTH,
        layers: Layers = LAYERS,
        heads: Sequence[int] | None = None,
        queries: str = "all",
        density: Any = DENSITY,
        clip: float = CLIP,
        detector: Any = "sift",
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        sites: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        Steering(model, layers, heads, queries)  # raises for unsupported models and options
        detectors.resolve(detector)
        self.model = model
        self.strength = _check_strength(strength)
        self.layers = layers
        self.heads = heads
        self.queries = queries
        self.density = check_density(density)
        self.clip = check_positive("clip", clip)
        self.detector = detector
        self.preprocessing = preprocessing
        self.seed = seed
        self.validation_ids: set[str] = set()
        self.test_ids: set[str] = set()
        self.sites = sites

    def at(self, strength: float | Tensor, layers: Layers) -> AttentionPrompter:
        """Return a prompter of the same model with another strength and other layers."""
        return AttentionPrompter(
            self.model, strength=strength, layers=layers, heads=self.heads, queries=self.queries,
            density=self.density, clip=self.clip, detector=self.detector,
            preprocessing=self.preprocessing, seed=self.seed, sites=self.sites,
        )  # fmt: skip

    def calibrate(self, loader: Any, **options: Any) -> Calibration:
        """Select strength and layers on validation images; see `semattn.prompting.calibrate`."""
        return calibrate(self, loader, **options)

    def evaluate(self, loader: Any, **options: Any) -> Evaluation:
        """Evaluate on a test split, once; see `semattn.prompting.evaluate`."""
        return evaluate(self, loader, **options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the prompted model for these arguments."""
        with self.steer():
            return self.model(*args, **kwargs)

    @contextmanager
    def steer(self, weights: Any = None, *, suppress: bool = False) -> Iterator[None]:
        """Prompt every call of the model inside this context, in the current thread and task.

        Contexts of several prompters can be nested; their biases are added.

        Parameters
        ----------
        weights : (P,) or (B, P), >= 0, one per patch; a region (`Box`, `Polygon`, `Points`,
            `Mask`), with affinity refinement unless it has ``grow=None``; a density; or a cue, with
            a method ``bias(inputs)`` that returns nats (B, P). None: the density of the prompter
        suppress : suppress these patches; weights are then scores in [0, 1], or a region. A cue
            with a method ``hidden(inputs)``, as that of a recurring mark, names the exact patches:
            they are hidden in all layers, whatever the strength above 0
        """
        is_off = not isinstance(self.strength, Tensor) and self.strength == 0
        if is_off or is_tracing():
            yield
            return
        if suppress and callable(getattr(weights, "hidden", None)):
            hiding = self.at(1.0, "all")
            hiding.heads, hiding.queries = None, "all"
            with hiding.steer(HiddenCue(weights.hidden)):
                yield
            return
        steering = Steering(self.model, self.layers, self.heads, self.queries)
        with self._prepared_calls(steering, weights, suppress), steering.attached():
            yield

    @contextmanager
    def _prepared_calls(self, steering: Steering, weights: Any, suppress: bool) -> Iterator[None]:
        """Compute the bias for the inputs of each model call inside this context."""
        scope = CallScope(include_nested=True)

        @torch.compiler.disable
        def enter(_: nn.Module, *call_args: Any) -> None:  # args and kwargs: see `scope`
            if scope.is_current():
                steering.begin()
                self._prepare_call(steering, read_call(*call_args), weights, suppress)

        @torch.compiler.disable
        def leave(*_: Any) -> None:
            if scope.is_current():
                steering.end()

        handles = [
            self.model.register_forward_pre_hook(enter, with_kwargs=True),
            self.model.register_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def bias(
        self, weights: Any = None, inputs: Tensor | None = None, *, suppress: bool = False
    ) -> Any:
        """Return the bias (B, P) of each patch at strength 1, nats.

        Parameters
        ----------
        weights, suppress : as for `steer`
        inputs : images (B, C, H, W); optional for weights (B, P)
        """
        if inputs is None:
            if not isinstance(weights, Tensor) or weights.ndim != 2:
                raise TypeError(
                    "inputs: expected images unless weights are a tensor (B, P), got None — "
                    "call bias(weights, inputs)"
                )
            return self._bias_of_weights(weights, suppress)
        call = read_call((inputs,), {})
        layout = self._layout(call)
        source = self._source(call, layout, weights, suppress)
        if source.needs_layer:
            self._observe_layer(call, layout, source)
        return source.bias()

    def grid(self, inputs: Tensor) -> PatchGrid:
        """Return the grid of the P patches of images (B, C, H, W)."""
        return self._layout(read_call((inputs,), {})).grid

    def weights(self, inputs: Tensor) -> Tensor:
        """Return the concentration p (B, P) of the default bias for images (B, C, H, W)."""
        return concentration(self.bias(None, inputs).exp(), smoothing=0)

    def extra_repr(self) -> str:
        """Return the options as text."""
        density = self.density if isinstance(self.density, str) else type(self.density).__name__
        return (
            f"strength={float(self.strength):g}, layers={self.layers!r}, heads={self.heads}, "
            f"queries={self.queries!r}, density={density!r}, clip={self.clip:g}"
        )

    def __getattr__(self, name: str) -> Any:
        """Return data attributes of the model, such as its config; methods would not be steered."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = None if name == "model" else getattr(self.model, name, None)
            if value is None or callable(value):
                raise
            return value

    def _prepare_call(
        self, steering: Steering, call: ModelCall, weights: Any, suppress: bool
    ) -> None:
        """Set the bias for the inputs of one model call."""
        layout = self._layout(call)
        source = self._source(call, layout, weights, suppress)

        @torch.compiler.disable
        def observe(site: AttentionSite, call_record: AttentionCall) -> None:
            with isolated():
                source.observe(layout.record(site, call_record))

        @torch.compiler.disable
        def bias() -> Tensor:
            with isolated():
                patch_bias = source.bias()
                dtype = torch.promote_types(call.images.dtype, torch.float32)
                patch_bias = patch_bias.to(call.images.device, dtype)
                strength = self.strength
                if isinstance(strength, Tensor):
                    strength = strength.to(patch_bias)
                return layout.grid.add_prefix(strength * patch_bias)

        on_layer = (self._observed_layer(layout), observe) if source.needs_layer else None
        steering.plan(bias, layout, on_layer)

    def _source(
        self, call: ModelCall, layout: ModelLayout, weights: Any, suppress: bool
    ) -> BiasSource:
        """Return the source of the bias for one model call."""
        grid, batch = layout.grid, len(call.images)
        weights = self.density if weights is None else weights
        to_bias = self._suppress_density if suppress else lambda s: attention_bias(s, self.clip)
        if callable(getattr(weights, "bias", None)):
            with isolated():  # a cue may call the model
                cue_bias = weights.bias(call.images)
            return FixedBias(as_patch_values(cue_bias, grid, batch, "bias of the cue"))
        if isinstance(weights, str) or (callable(weights) and not isinstance(weights, Tensor)):
            needs = prompt_needs(weights)
            if needs and call.images.ndim == 4 and call.images.shape[1] not in PICTURE_CHANNELS:
                raise keypoint_channels_error(
                    call.images.shape[1],
                    'pass weights, one per patch, or density="uniform"',
                )
            preprocessing = self.preprocessing or (
                lambda: Preprocessing.of(self.model, needed_by=type(self).__name__)
            )
            pixels = pixels_of(call.images.detach(), preprocessing, any_channels=not needs)
            check_density(weights)
            return DensityPrompt(pixels, grid, weights, self.detector, self.seed, to_bias)
        if isinstance(weights, Region):
            grow, weights = weights.grow, coverage(weights, grid)
            if grow is not None:
                return RegionPrompt(weights.expand(batch, -1), grow, grid, to_bias)
        values = as_patch_values(weights, grid, batch)
        return FixedBias(self._bias_of_weights(values, suppress))

    def _bias_of_weights(self, weights: Tensor, suppress: bool) -> Tensor:
        if suppress:
            return suppression_bias(weights, self.clip)
        return attention_bias(check_weights(weights), self.clip)

    def _suppress_density(self, s: Tensor) -> Tensor:
        """Return the bias that suppresses a density s (B, P), relative to its maximum per image."""
        return suppression_bias(s / s.amax(dim=1, keepdim=True).clamp(min=1e-12), self.clip)

    def _layout(self, call: ModelCall) -> ModelLayout:
        """Return the token layout for images of this size, cached per model and size."""
        module = check_model(self.model)
        layout = model_layout(module, call, self.sites)
        layout.check_one_tower()
        prompts_by_model = isinstance(self.density, str) and self.density in prompt_sources
        if self.queries != "class" and not prompts_by_model:
            return layout
        layout = with_readout(module, call, self.sites)
        if self.queries == "class" and not layout.class_tokens.any():
            raise UnsupportedModelError(
                f"{type(module).__name__}: expected a class token from which the output is read, "
                "for queries='class', got none — use queries='all' or 'patches'"
            )
        return layout

    def _observed_layer(self, layout: ModelLayout) -> int:
        """Return the layer that the source observes: the middle one, or the first steered layer."""
        num_layers = len(layout.self_attention_sites)
        return min(num_layers // 2, choose_layers(self.layers, num_layers)[0])

    def _observe_layer(self, call: ModelCall, layout: ModelLayout, source: BiasSource) -> None:
        """Run the model up to the layer that the source observes."""

        def observe(site: AttentionSite, call_record: AttentionCall) -> None:
            with isolated():
                source.observe(layout.record(site, call_record))
            raise _StopForwardError

        layer = self._observed_layer(layout)
        zero_bias = torch.zeros(layout.grid.tokens, device=call.images.device)
        args, kwargs = call.args, call.kwargs
        with isolated(), torch.no_grad():
            try:
                look = (layer, observe)
                with steer(self.model, zero_bias, layers=layer, layout=layout, on_call=look):
                    self.model(*args, **kwargs)
            except _StopForwardError:
                pass


class _StopForwardError(Exception):
    """Exception that ends a forward pass early, after the observed layer."""


def _check_strength(strength: Any) -> float | Tensor:
    if isinstance(strength, Tensor):
        if strength.numel() != 1 or not bool(strength.detach().isfinite()):
            raise ValueError(f"strength: expected one finite number, got {strength.detach()}")
        return strength
    if not (isinstance(strength, (int, float)) and abs(strength) < float("inf")):
        raise ValueError(
            f"strength: expected a finite number, got {strength!r} — 0 turns prompting off"
        )
    return float(strength)
