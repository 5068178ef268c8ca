"""Explainers that wrap Captum's attribution methods on pixels.

Captum computes the attribution, which is returned unchanged. The wrappers add all image and target
forms, the map on patches, bounded memory and seeded noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..attention.model_pass import KeepGradients, frozen
from ..attention.target import TargetLike
from ..grid import PatchGrid
from ..utils.library_imports import attr
from .base import Explainer, explainers
from .request import (
    AttributionRequest,
    RelevanceMap,
    score_copies,
    target_for_copies,
)

# Function from copies of images (R, C, H, W) and the image index of each (R,) to scores (R,).
Forward = Callable[[Tensor, Tensor], Tensor]

MAX_WINDOWS = 16  # approximate maximum of default occlusion windows along a side


class PixelExplainer(Explainer):
    """Base class of methods with one value per pixel and channel, as in Captum.

    Subclasses override `pixels`. The map on pixels is the sum over channels, and may be negative;
    the map on patches is its mean over each patch.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as for `Explainer`, except `layers` and `refine`, which do not apply to pixels
    """

    uses_keypoints = False
    starts_at_readout = False
    default_layers = "all"  # so that the grid is the finest

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        layers: None = None,
        refine: str = "none",
        **options: Any,
    ) -> None:
        if layers is not None:
            raise ValueError(
                f"layers: expected None for {self.name}, which explains the whole model, "
                f"got {layers!r} — leave it out"
            )
        super().__init__(model, refine=refine, **options)
        if refine != "none":
            raise ValueError(
                f"refine: expected 'none' for {self.name}, whose map has pixel resolution, "
                f"got {refine!r} — leave it out"
            )

    def pixels(
        self, forward: Forward, inputs: Tensor, image_index: Tensor, grid: PatchGrid
    ) -> Tensor:
        """Compute Captum's attribution (B, C, H, W) of `inputs`.

        Parameters
        ----------
        forward : function from copies of the inputs, and their `image_index`, to the scores; Captum
            expands `image_index` with the inputs, as additional_forward_args
        inputs : (B, C, H, W), at least float32, requires gradients
        image_index : (B,), 0 … B-1
        grid : patch grid of the model
        """
        raise NotImplementedError

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Run one pass for the target and the grid, then Captum's method."""
        record = request.record(layers=self.layers, grad="last")
        exact = torch.promote_types(request.inputs.dtype, torch.float32)
        with torch.inference_mode(False), frozen(request.model):
            inputs = request.inputs.detach().clone().to(exact).requires_grad_()
            image_index = torch.arange(len(inputs), device=inputs.device)
            forward = _forward(
                request, target_for_copies(request, record.prediction), record.is_blocked
            )
            with default_device("cpu"):  # Captum creates small tensors there, and moves them
                attribution = self.pixels(forward, inputs, image_index, record.grid)
                attribution = attribution.detach().to(exact)
        with torch.no_grad():
            heat_map = attribution.sum(dim=1)
            maps = self.from_patches(request, record, lambda _: record.grid.pool(heat_map))
        return replace(maps, heat_map=heat_map, attribution=attribution)


def default_device(device: torch.device | str) -> AbstractContextManager[Any]:
    """Return a context in which factory functions create their tensors on `device`."""
    device = torch.device(device)
    return nullcontext() if torch.get_default_device() == device else device


def _forward(request: AttributionRequest, target: TargetLike, is_blocked: bool) -> Forward:
    n_images, caller_device = len(request.inputs), torch.get_default_device()
    constants = [  # only the images are differentiated
        value.detach() if isinstance(value, Tensor) else value for value in request.extra_args
    ]

    def forward(copies: Tensor, image_index: Tensor) -> Tensor:
        extra = [
            value[image_index]
            if isinstance(value, Tensor) and value.ndim and len(value) == n_images
            else value
            for value in constants
        ]
        with default_device(caller_device), KeepGradients() if is_blocked else nullcontext():
            output = request.model(copies.to(request.inputs.dtype), *extra)
        return score_copies(output, image_index, target, request.model, n_images)

    return forward


@explainers.register("input-x-gradient")
class InputXGradient(PixelExplainer):
    """Input times the gradient of the target with respect to it (arXiv 1605.01713).

    Parameters
    ----------
    model, options : as for `PixelExplainer`

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> InputXGradient(vit).attribute(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 3, 64, 64])
    """

    name = "input-x-gradient"

    def pixels(
        self, forward: Forward, inputs: Tensor, image_index: Tensor, _grid: PatchGrid
    ) -> Tensor:
        """Call `captum.attr.InputXGradient`."""
        method = attr.InputXGradient(forward)
        return method.attribute(inputs, additional_forward_args=image_index)


@explainers.register("integrated-gradients")
class IntegratedGradients(PixelExplainer):
    """Gradients integrated along the line from a baseline to the input (arXiv 1703.01365).

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    n_steps : number of steps of the Gauss-Legendre integral
    baselines : a number, or a tensor that broadcasts with the inputs; None is 0, which for
        normalised inputs is the mean colour
    internal_batch_size : images per forward pass, at least the batch size
    options : as for `PixelExplainer`

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> IntegratedGradients(vit, n_steps=4).attribute(torch.zeros(1, 3, 64, 64), target=3).sum()
    tensor(0.)
    """

    name = "integrated-gradients"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        n_steps: int = 50,
        baselines: float | Tensor | None = None,
        internal_batch_size: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        _check_counts(n_steps=n_steps, internal_batch_size=internal_batch_size)
        self.n_steps = n_steps
        self.baselines = baselines
        self.internal_batch_size = internal_batch_size

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "n_steps": self.n_steps,
            "baselines": _describe_baselines(self.baselines),
            "internal_batch_size": self.internal_batch_size,
        }

    def pixels(
        self, forward: Forward, inputs: Tensor, image_index: Tensor, _grid: PatchGrid
    ) -> Tensor:
        """Call `captum.attr.IntegratedGradients`."""
        return attr.IntegratedGradients(forward).attribute(
            inputs,
            baselines=_expand_baselines(self.baselines, inputs),
            additional_forward_args=image_index,
            n_steps=self.n_steps,
            internal_batch_size=max(self.internal_batch_size, len(inputs)),
        )


@explainers.register("smooth-grad")
class SmoothGrad(PixelExplainer):
    """Magnitude of the gradient, averaged over noisy copies of the image (arXiv 1706.03825).

    Captum's NoiseTunnel with Saliency.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    nt_samples : number of noisy copies of each image
    noise : standard deviation of the noise, as a fraction of the image's range of values
    nt_samples_batch_size : copies per forward pass
    options : as for `PixelExplainer`; the noise depends on the seed only, so that it is the same
        for every image, batch and device

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> bool((SmoothGrad(vit, nt_samples=2).attribute(x, target=3) >= 0).all())
    True
    """

    name = "smooth-grad"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        nt_samples: int = 20,
        noise: float = 0.15,
        nt_samples_batch_size: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        _check_counts(nt_samples=nt_samples, nt_samples_batch_size=nt_samples_batch_size)
        if not (noise >= 0 and math.isfinite(noise)):
            raise ValueError(f"noise: expected a finite number >= 0, got {noise}")
        self.nt_samples = nt_samples
        self.noise = noise
        self.nt_samples_batch_size = nt_samples_batch_size

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "nt_samples": self.nt_samples,
            "noise": self.noise,
            "nt_samples_batch_size": self.nt_samples_batch_size,
        }

    def pixels(
        self, forward: Forward, inputs: Tensor, image_index: Tensor, _grid: PatchGrid
    ) -> Tensor:
        """Call `captum.attr.NoiseTunnel` with `captum.attr.Saliency`, image by image."""
        tunnel = attr.NoiseTunnel(attr.Saliency(forward))
        attributions = []
        for image_inputs, index in zip(inputs.detach().split(1), image_index.split(1), strict=True):
            with _SeededNoise(self.seed):
                attribution = tunnel.attribute(
                    image_inputs,
                    nt_samples=self.nt_samples,
                    nt_samples_batch_size=self.nt_samples_batch_size,
                    stdevs=float(self.noise * (image_inputs.max() - image_inputs.min())),
                    additional_forward_args=index,
                )
            attributions.append(attribution)
        return torch.cat(attributions)


class _SeededNoise(TorchFunctionMode):
    """Context in which `torch.normal` of this thread uses its own seeded generator.

    The global generator is unchanged. The noise is drawn on the CPU, so that it is the same on
    every device.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.normal and "generator" not in kwargs:
            mean, std = args
            noise = torch.normal(mean, std.cpu(), generator=self.generator)
            return noise.to(std.device)
        return func(*args, **kwargs)


@explainers.register("occlusion")
class Occlusion(PixelExplainer):
    """Decrease of the target score when a window is occluded (arXiv 1311.2901).

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    window : (height, width) of the window in pixels; None is one patch, or several patches if they
        are smaller than a sixteenth of the image's side
    stride : (vertical, horizontal) in pixels; None is half a window
    baselines : values inside the window, a number or a tensor that broadcasts with the inputs; None
        is 0, which for normalised inputs is the mean colour
    perturbations_per_eval : windows per forward pass, for every image of the batch
    options : as for `PixelExplainer`

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> Occlusion(vit, stride=(16, 16)).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "occlusion"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        baselines: float | Tensor | None = None,
        perturbations_per_eval: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        _check_counts(perturbations_per_eval=perturbations_per_eval)
        for name, sides in (("window", window), ("stride", stride)):
            if sides is not None and not (len(sides) == 2 and min(sides) > 0):
                raise ValueError(f"{name}: expected (height, width) in pixels, got {sides}")
        self.window = window
        self.stride = stride
        self.baselines = baselines
        self.perturbations_per_eval = perturbations_per_eval

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "window": self.window,
            "stride": self.stride,
            "baselines": _describe_baselines(self.baselines),
            "perturbations_per_eval": self.perturbations_per_eval,
        }

    def pixels(
        self, forward: Forward, inputs: Tensor, image_index: Tensor, grid: PatchGrid
    ) -> Tensor:
        """Call `captum.attr.Occlusion`."""
        window = self.window or _default_window(grid)
        stride = self.stride or (max(window[0] // 2, 1), max(window[1] // 2, 1))
        channels, *sides = inputs.shape[1:]
        for window_side, step, side in zip(window, stride, sides, strict=True):
            if window_side > side or step > window_side:
                raise ValueError(
                    f"window, stride: expected stride <= window <= image, got strides {stride}, "
                    f"windows {window} on {sides[0]}x{sides[1]} — choose them so that every pixel "
                    "is covered"
                )
        return attr.Occlusion(forward).attribute(
            inputs.detach(),
            sliding_window_shapes=(channels, *window),
            strides=(channels, *stride),
            baselines=_expand_baselines(self.baselines, inputs),
            additional_forward_args=image_index,
            perturbations_per_eval=self.perturbations_per_eval,
        )


def _default_window(grid: PatchGrid) -> tuple[int, int]:
    """Return a window of full patches, about a sixteenth of the image's sides."""
    rows, columns = (max(1, round(count / MAX_WINDOWS)) for count in grid.shape)
    return math.ceil(rows * grid.cell[0]), math.ceil(columns * grid.cell[1])


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")


def _expand_baselines(baselines: float | Tensor | None, inputs: Tensor) -> float | Tensor | None:
    """Expand a tensor of baselines to the shape of the inputs, as Captum requires."""
    if not isinstance(baselines, Tensor):
        return baselines
    return baselines.detach().to(inputs).expand_as(inputs)


def _describe_baselines(baselines: float | Tensor | None) -> Any:
    return f"given {tuple(baselines.shape)}" if isinstance(baselines, Tensor) else baselines
