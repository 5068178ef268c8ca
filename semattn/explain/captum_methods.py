"""Captum's own methods on pixels, in semattn's form.

Captum's class does the work and its tensor is handed on untouched. What is added: pictures of any
kind, targets of every kind, the map on patches, bounded memory, noise that a seed decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..attention.frozen import quiet
from ..attention.recorder import GradientsKept
from ..attention.target import Target
from ..grid import PatchGrid
from ..utils.captum_library import attr
from .asked import asked, score_rows
from .base import Explainer, Maps, Run, check_finite, explainers

# From copies of images (R, C, H, W) and the number of the image of each (R,) to scores (R,).
Forward = Callable[[Tensor, Tensor], Tensor]

WINDOWS = 16  # of occlusion along a side of the image, at most about


class PixelExplainer(Explainer):
    """A method that gives one number for each pixel and channel, as Captum's do.

    A method overrides `pixels`. The map on pixels is the sum over channels, and may be negative;
    that on patches is its mean over each patch.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as `Explainer`, but for `layers` and `refine`, which have no meaning on pixels
    """

    uses_keypoints = False
    uses_readout = False
    usual_layers = "all"  # so that the grid is the finest

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
                f"layers: expected none for {self.name}, which explains the whole model, "
                f"got {layers!r} — leave it out"
            )
        super().__init__(model, refine=refine, **options)
        if refine != "none":
            raise ValueError(
                f"refine: expected 'none' for {self.name}, whose map is one of pixels, "
                f"got {refine!r} — leave it out"
            )

    def pixels(self, forward: Forward, inputs: Tensor, image: Tensor, grid: PatchGrid) -> Tensor:
        """Captum's attribution (B, C, H, W) of `inputs`.

        Parameters
        ----------
        forward : what is explained, given copies of the inputs and `image` expanded with them, as
            Captum expands its additional_forward_args
        inputs : (B, C, H, W), float32 at least; they ask for a gradient
        image : (B,), 0 … B-1
        grid : where the model's patches lie
        """
        raise NotImplementedError

    def maps(self, run: Run) -> Maps:
        """One pass for the target and the patches, then Captum's."""
        taken = run.record(layers=self.layers, grad="last")
        exact = torch.promote_types(run.inputs.dtype, torch.float32)
        with torch.inference_mode(False), quiet(run.model):
            inputs = run.inputs.detach().clone().to(exact).requires_grad_()
            image = torch.arange(len(inputs), device=inputs.device)
            forward = _forward(run, asked(run, taken), taken.is_blocked)
            with default_device("cpu"):  # Captum makes small tensors on it, and moves them
                attribution = self.pixels(forward, inputs, image, taken.grid).detach().to(exact)
        check_finite("map", attribution)
        with torch.no_grad():
            heat = attribution.sum(dim=1)
            made = self.from_patches(run, taken, lambda _: taken.grid.pool(heat))
        return Maps(taken, made.concentration, made.patches, heat, attribution)


def default_device(device: torch.device | str) -> AbstractContextManager[Any]:
    """Inside the ``with``, factory functions make their tensors on `device`."""
    device = torch.device(device)
    return nullcontext() if torch.get_default_device() == device else device


def _forward(run: Run, target: Target, is_blocked: bool) -> Forward:
    batch, callers = len(run.inputs), torch.get_default_device()

    def forward(copies: Tensor, image: Tensor) -> Tensor:
        extra = [
            one[image] if isinstance(one, Tensor) and one.ndim and len(one) == batch else one
            for one in run.extra_args
        ]
        with default_device(callers), GradientsKept() if is_blocked else nullcontext():
            output = run.model(copies.to(run.inputs.dtype), *extra)
        return score_rows(output, image, target, run.model, batch)

    return forward


@explainers.register("input-x-gradient")
class InputXGradient(PixelExplainer):
    """Each input times the gradient of the target with respect to it (arXiv 1605.01713).

    Parameters
    ----------
    model, options : as `PixelExplainer`

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> InputXGradient(vit).attribute(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 3, 64, 64])
    """

    name = "input-x-gradient"

    def pixels(self, forward: Forward, inputs: Tensor, image: Tensor, _grid: PatchGrid) -> Tensor:
        """`captum.attr.InputXGradient`."""
        method = attr.InputXGradient(forward)
        return method.attribute(inputs, additional_forward_args=image)


@explainers.register("integrated-gradients")
class IntegratedGradients(PixelExplainer):
    """Gradients along the straight way from a baseline to the input (arXiv 1703.01365).

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    n_steps : of the integral, Gauss-Legendre
    baselines : a number, or a tensor that broadcasts with the inputs; None is 0, which for
        normalised inputs is the mean colour
    internal_batch_size : images in the model at once, one of each at least
    options : as `PixelExplainer`

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
        """What this explainer was set to, ready for JSON."""
        return super().parameters() | {
            "n_steps": self.n_steps,
            "baselines": _baseline(self.baselines),
            "internal_batch_size": self.internal_batch_size,
        }

    def pixels(self, forward: Forward, inputs: Tensor, image: Tensor, _grid: PatchGrid) -> Tensor:
        """`captum.attr.IntegratedGradients`."""
        return attr.IntegratedGradients(forward).attribute(
            inputs,
            baselines=_like(self.baselines, inputs),
            additional_forward_args=image,
            n_steps=self.n_steps,
            internal_batch_size=max(self.internal_batch_size, len(inputs)),
        )


@explainers.register("smooth-grad")
class SmoothGrad(PixelExplainer):
    """The gradient's magnitude, averaged over noisy copies of the image (arXiv 1706.03825).

    Captum's NoiseTunnel over its Saliency.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    nt_samples : noisy copies of each image
    noise : standard deviation of the noise, as a part of the image's range of values
    nt_samples_batch_size : copies in the model at once
    options : as `PixelExplainer`; the seed alone decides what is drawn, so that every image meets
        the same noise, in any batch and on any device

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
        """What this explainer was set to, ready for JSON."""
        return super().parameters() | {
            "nt_samples": self.nt_samples,
            "noise": self.noise,
            "nt_samples_batch_size": self.nt_samples_batch_size,
        }

    def pixels(self, forward: Forward, inputs: Tensor, image: Tensor, _grid: PatchGrid) -> Tensor:
        """`captum.attr.NoiseTunnel` over `captum.attr.Saliency`, image by image."""
        tunnel = attr.NoiseTunnel(attr.Saliency(forward))
        made = []
        for one, number in zip(inputs.detach().split(1), image.split(1), strict=True):
            with _SeededNoise(self.seed):
                found = tunnel.attribute(
                    one,
                    nt_samples=self.nt_samples,
                    nt_samples_batch_size=self.nt_samples_batch_size,
                    stdevs=float(self.noise * (one.max() - one.min())),
                    additional_forward_args=number,
                )
            made.append(found)
        return torch.cat(made)


class _SeededNoise(TorchFunctionMode):
    """Lets `torch.normal` draw by a seed of its own, in this thread: global chance stays as it is.

    It draws on the CPU, so that every device meets the same noise.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.normal and "generator" not in kwargs:
            mean, deviation = args
            drawn = torch.normal(mean, deviation.cpu(), generator=self.generator)
            return drawn.to(deviation.device)
        return func(*args, **kwargs)


@explainers.register("occlusion")
class Occlusion(PixelExplainer):
    """How much the target falls when a window is covered (arXiv 1311.2901).

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    window : (height, width) of what is covered, pixels; None is one patch, or several where
        patches are finer than a sixteenth of the image's side
    stride : (down, across), pixels; None is half a window
    baselines : what covers it, a number or a tensor that broadcasts with the inputs; None is 0,
        which for normalised inputs is the mean colour
    perturbations_per_eval : windows in the model at once, of every image of the batch
    options : as `PixelExplainer`

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
        """What this explainer was set to, ready for JSON."""
        return super().parameters() | {
            "window": self.window,
            "stride": self.stride,
            "baselines": _baseline(self.baselines),
            "perturbations_per_eval": self.perturbations_per_eval,
        }

    def pixels(self, forward: Forward, inputs: Tensor, image: Tensor, grid: PatchGrid) -> Tensor:
        """`captum.attr.Occlusion`."""
        window = self.window or _window(grid)
        stride = self.stride or (max(window[0] // 2, 1), max(window[1] // 2, 1))
        channels, *sides = inputs.shape[1:]
        for covers, moves, side in zip(window, stride, sides, strict=True):
            if covers > side or moves > covers:
                raise ValueError(
                    f"window, stride: expected stride <= window <= image, got strides {stride}, "
                    f"windows {window} on {sides[0]}x{sides[1]} — some pixels are never covered"
                )
        return attr.Occlusion(forward).attribute(
            inputs.detach(),
            sliding_window_shapes=(channels, *window),
            strides=(channels, *stride),
            baselines=_like(self.baselines, inputs),
            additional_forward_args=image,
            perturbations_per_eval=self.perturbations_per_eval,
        )


def _window(grid: PatchGrid) -> tuple[int, int]:
    """Whole patches, about a sixteenth of the image's sides."""
    rows, columns = (max(1, round(count / WINDOWS)) for count in grid.shape)
    return math.ceil(rows * grid.cell[0]), math.ceil(columns * grid.cell[1])


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected 1 at least, got {count}")


def _like(baselines: float | Tensor | None, inputs: Tensor) -> float | Tensor | None:
    """Baselines as Captum takes them: a tensor has the shape of the inputs."""
    if not isinstance(baselines, Tensor):
        return baselines
    return baselines.detach().to(inputs).expand_as(inputs)


def _baseline(given: float | Tensor | None) -> Any:
    return f"given {tuple(given.shape)}" if isinstance(given, Tensor) else given
