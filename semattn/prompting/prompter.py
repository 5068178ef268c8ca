"""`AttentionPrompter`: a model whose attention is led to where the keypoints are, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.hooks import Call as AttentionCall
from ..attention.model_call import ModelCall, read_call
from ..attention.model_layout import ModelLayout, model_layout
from ..attention.readout import with_readout
from ..attention.scope import Owner, apart, laying_out
from ..attention.sites import AttentionSite, Layers, choose_layers, refuse
from ..attention.steering import Steering, steer
from ..density import concentration
from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from ..images import PICTURE_CHANNELS, Preprocessing, keypoint_channels_error, pixels_of
from ..keypoints import detectors
from .bias import CLIP, attend, check_nats, on_grid, suppress, weighty
from .calibration import Calibration, Evaluation, calibrate, evaluate
from .pictures import Given, OfPictures, OfRegion, Source, needs_of, read_density
from .regions import Region, coverage
from .sources import prompts

STRENGTH = 0.5
LAYERS = "last-third"
DENSITY = "interrelation"


class AttentionPrompter(nn.Module):
    """Call it like the model: the scores of attention get a bias, nothing else is changed.

    scores_ij += strength b_j, b_j = clip(log(P p_j), -clip, clip), p the semantic concentration of
    the very images that come in; prefix tokens get nothing. That multiplies the attention which
    patch j receives by e^(strength b_j), and renormalises. Fused kernels stay on; the model's
    weights, hooks and flags are as before when a call returns or raises.

    Parameters
    ----------
    model : a vision transformer of any family that `semattn.record` reads
    strength : 0 is the model itself, bit for bit; a tensor may ask for gradients
    layers : which self-attention layers: "last-third", "last-half", "all", numbers or a slice
    heads : numbers of heads; None is all
    queries : whose attention gets the bias: "all", the "class" tokens alone (the prefix tokens that
        the output is read from), or "patches"
    density : name in `semattn.densities`, a function of a `Scene`, weights (P,) or (B, P); or one
        that the model has a say in (`semattn.prompting.prompts`): "interrelation", "received",
        "received-class", and the controls "class-attention" and "class-grown"
    clip : nats, the most that one patch gains or loses at strength 1
    detector, preprocessing, seed, sites : as for `semattn.explain.Explainer`

    Raises
    ------
    UnsupportedModelError
        For a model without self-attention that can be steered.
    ValueError
        For an unknown option, layer, or name.

    Notes
    -----
    The answer of a prompted model is another model's answer: choose strength and layers on
    validation data (`calibrate`), and look at more than one class of images. With gradient
    checkpointing, call `backward` inside `steer`, which is open until it has run.

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
        Steering(model, layers, heads, queries)  # or why not
        detectors.ensure(detector)
        self.model = model
        self.strength = _strength(strength)
        self.layers = layers
        self.heads = heads
        self.queries = queries
        self.density = read_density(density)
        self.clip = check_nats("clip", clip)
        self.detector = detector
        self.preprocessing = preprocessing
        self.seed = seed
        self.validated: set[str] = set()
        self.opened: set[str] = set()
        self.sites = sites

    def at(self, strength: float | Tensor, layers: Layers) -> AttentionPrompter:
        """Another prompter of the same model, at another strength and in other layers."""
        return AttentionPrompter(
            self.model, strength=strength, layers=layers, heads=self.heads, queries=self.queries,
            density=self.density, clip=self.clip, detector=self.detector,
            preprocessing=self.preprocessing, seed=self.seed, sites=self.sites,
        )  # fmt: skip

    def calibrate(self, loader: Any, **options: Any) -> Calibration:
        """Choose strength and layers on validation images: `semattn.prompting.calibrate`."""
        return calibrate(self, loader, **options)

    def evaluate(self, loader: Any, **options: Any) -> Evaluation:
        """Accuracy on a test split, once: `semattn.prompting.evaluate`."""
        return evaluate(self, loader, **options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives for these arguments when it is prompted."""
        with self.steer():
            return self.model(*args, **kwargs)

    @contextmanager
    def steer(self, weights: Any = None, *, away: bool = False) -> Iterator[None]:
        """Prompt every call of the model itself inside the ``with``, by this thread and task.

        Contexts of several prompters nest, and their biases add up.

        Parameters
        ----------
        weights : (P,) or (B, P), >= 0, one a patch; a region (`Box`, `Polygon`, `Points`, `Mask`),
            grown over patches of like keys unless it says ``grow=None``; a density; a cue, whose
            ``bias(inputs)`` gives nats (B, P); None is the density of the images that this prompter
            has
        away : lead away from there: scores in [0, 1], or a region, of what is to be overlooked
        """
        off = not isinstance(self.strength, Tensor) and self.strength == 0
        if off or laying_out():
            yield
            return
        steering = Steering(self.model, self.layers, self.heads, self.queries)
        with self._aimed(steering, weights, away), steering.attached():
            yield

    @contextmanager
    def _aimed(self, steering: Steering, weights: Any, away: bool) -> Iterator[None]:
        """Inside the ``with``, each call of the model is aimed at its own images."""
        owner = Owner(every_pass=True)

        @torch.compiler.disable
        def enter(_: nn.Module, *given: Any) -> None:  # args and kwargs: see `owner`
            if owner.calls():
                steering.begin()
                self._aim(steering, read_call(*given), weights, away)

        @torch.compiler.disable
        def leave(*_: Any) -> None:
            if owner.calls():
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

    def bias(self, weights: Any = None, inputs: Tensor | None = None, *, away: bool = False) -> Any:
        """What is added to the scores of each patch at strength 1, nats: (B, P).

        Parameters
        ----------
        weights, away : as for `steer`
        inputs : (B, C, H, W), the images; for weights (B, P) they may be left out
        """
        if inputs is None:
            if not isinstance(weights, Tensor) or weights.ndim != 2:
                raise TypeError(
                    "inputs: expected the images for weights that are no tensor (B, P), got None — "
                    "call bias(weights, inputs)"
                )
            return suppress(weights, self.clip) if away else attend(weighty(weights), self.clip)
        call = read_call((inputs,), {})
        found = self._layout(call)
        source = self._source(call, found, weights, away)
        if source.looks:
            self._show(call, found, source)
        return source.bias()

    def grid(self, inputs: Tensor) -> PatchGrid:
        """The patches of images (B, C, H, W) that weights are given for: P of them."""
        return self._layout(read_call((inputs,), {})).grid

    def weights(self, inputs: Tensor) -> Tensor:
        """The concentration p (B, P) that the images (B, C, H, W) are prompted by."""
        return concentration(self.bias(None, inputs).exp(), smoothing=0)

    def extra_repr(self) -> str:
        """The options."""
        density = self.density if isinstance(self.density, str) else type(self.density).__name__
        return (
            f"strength={float(self.strength):g}, layers={self.layers!r}, heads={self.heads}, "
            f"queries={self.queries!r}, density={density!r}, clip={self.clip:g}"
        )

    def __getattr__(self, name: str) -> Any:
        """The model's own data, such as its config; not its methods, which nothing would steer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = None if name == "model" else getattr(self.model, name, None)
            if value is None or callable(value):
                raise
            return value

    def _aim(self, steering: Steering, call: ModelCall, weights: Any, away: bool) -> None:
        """Aim at the images of one call of the model."""
        found = self._layout(call)
        source = self._source(call, found, weights, away)

        @torch.compiler.disable
        def see(site: AttentionSite, made: AttentionCall) -> None:
            with apart():
                source.see(found.record(site, made))

        @torch.compiler.disable
        def bias() -> Tensor:
            with apart():
                patches = source.bias()
                exact = torch.promote_types(call.images.dtype, torch.float32)
                patches = patches.to(call.images.device, exact)
                strength = self.strength
                if isinstance(strength, Tensor):
                    strength = strength.to(patches)
                return found.grid.add_prefix(strength * patches)

        steering.aim(bias, found, (self._looked_at(found), see) if source.looks else None)

    def _source(
        self, call: ModelCall, found: ModelLayout, weights: Any, away: bool
    ) -> Given | OfRegion | OfPictures:
        """Who says what the bias of one call is."""
        grid, batch = found.grid, len(call.images)
        weights = self.density if weights is None else weights
        nats = self._away if away else lambda s: attend(s, self.clip)
        if callable(getattr(weights, "bias", None)):
            with apart():  # a cue may ask the model itself
                made = weights.bias(call.images)
            return Given(on_grid(made, grid, batch, "bias of the cue"))
        if isinstance(weights, str) or (callable(weights) and not isinstance(weights, Tensor)):
            needs = needs_of(weights)
            if needs and call.images.ndim == 4 and call.images.shape[1] not in PICTURE_CHANNELS:
                raise keypoint_channels_error(
                    call.images.shape[1],
                    'give weights, one a patch, or density="uniform"',
                )
            wanted = self.preprocessing or (lambda: Preprocessing.of(self.model))
            pixels = pixels_of(call.images.detach(), wanted, any_channels=not needs)
            return OfPictures(pixels, grid, read_density(weights), self.detector, self.seed, nats)
        if isinstance(weights, Region):
            grow, weights = weights.grow, coverage(weights, grid)
            if grow is not None:
                return OfRegion(weights.expand(batch, -1), grow, grid, nats)
        given = on_grid(weights, grid, batch)
        return Given(suppress(given, self.clip) if away else attend(weighty(given), self.clip))

    def _away(self, s: Tensor) -> Tensor:
        """The bias away from a density s (B, P), the greatest of each image for sure."""
        return suppress(s / s.amax(dim=1, keepdim=True).clamp(min=1e-12), self.clip)

    def _layout(self, call: ModelCall) -> ModelLayout:
        """Return the token layout for images of this size; found once for each model and size."""
        module = refuse(self.model)
        layout = model_layout(module, call, self.sites)
        layout.check_one_tower()
        prompts_by_model = isinstance(self.density, str) and self.density in prompts
        if self.queries != "class" and not prompts_by_model:
            return layout
        layout = with_readout(module, call, self.sites)
        if self.queries == "class" and not layout.class_tokens.any():
            raise UnsupportedModelError(
                f"{type(module).__name__}: expected a class token that the output is read from, "
                "for queries='class', got none — use queries='all' or 'patches'"
            )
        return layout

    def _looked_at(self, found: ModelLayout) -> int:
        """The layer that a density sees: the middle one, or the first that is steered."""
        count = len(found.selves)
        return min(count // 2, choose_layers(self.layers, count)[0])

    def _show(self, call: ModelCall, found: ModelLayout, source: Source) -> None:
        """Let a source see the layer that it wants; the pass ends there."""

        def see(site: AttentionSite, made: AttentionCall) -> None:
            with apart():
                source.see(found.record(site, made))
            raise _EnoughError

        layer = self._looked_at(found)
        nothing = torch.zeros(found.grid.tokens, device=call.images.device)
        args, kwargs = call.args, call.kwargs
        with apart(), torch.no_grad():
            try:
                with steer(self.model, nothing, layers=layer, layout=found, look=(layer, see)):
                    self.model(*args, **kwargs)
            except _EnoughError:
                pass


class _EnoughError(Exception):
    """Ends a pass of which all that was asked for is known."""


def _strength(strength: Any) -> float | Tensor:
    if isinstance(strength, Tensor):
        if strength.numel() != 1 or not bool(strength.detach().isfinite()):
            raise ValueError(f"strength: expected one finite number, got {strength.detach()}")
        return strength
    if not (isinstance(strength, (int, float)) and abs(strength) < float("inf")):
        raise ValueError(f"strength: expected a finite number, got {strength!r} — 0 does nothing")
    return float(strength)
