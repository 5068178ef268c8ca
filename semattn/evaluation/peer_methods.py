"""Code of other libraries as rows: Captum, and optional packages.

They run as documented for vision transformers: pytorch-grad-cam on the norm before the last
attention of timm models, fast-vit-rollout on timm models without fused attention, torchcam's
LeGrad on all blocks of torchvision models, and relevance propagation by hilrp on plain timm models.
Other models are refused. hilrp (based on lxt and zennit) replaces methods of classes, including
torch's GELU and LayerNorm, and does not restore them; this module restores them after each map.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MissingPackageError, SemattnError, UnsupportedModelError
from ..grid import PatchGrid
from .methods import peers

SEEN = 8  # samples of GradientShap
# With its dependencies it would bring a second build of OpenCV.
INSTALL_GRAD_CAM = "pip install 'semattn[bench]' && pip install --no-deps grad-cam"


def _package(name: str, project: str, command: str = "") -> Any:
    """Import a package of another project; `command` installs it, by default `pip install`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"methods: expected the package {project}, got {error} — "
            f"{command or f'pip install {project}'}"
        ) from error


def _last_norm(model: nn.Module) -> nn.Module:
    """Return the norm before the last attention, the usual target layer of CAM methods."""
    try:
        norm: nn.Module = model.get_submodule("blocks")[-1].norm1  # type: ignore[index]
    except (AttributeError, TypeError, IndexError) as error:
        raise UnsupportedModelError(
            f"methods: expected a model with blocks[-1].norm1 for a peer's CAM, got "
            f"{type(model).__name__} — remove this method"
        ) from error
    return norm


def _cam(name: str) -> None:
    @peers.register(f"pytorch-grad-cam/{name}")
    def cam(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
        if grid.is_partial:  # the library stretches its map over the whole image
            raise UnsupportedModelError(
                f"pytorch-grad-cam/{name}: expected patches that cover the image, got a model that "
                "crops or pads it — remove this method"
            )
        library = _package("pytorch_grad_cam", "grad-cam", INSTALL_GRAD_CAM)
        targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")

        def reshape(tokens: Tensor) -> Tensor:
            return grid.fold(tokens[:, grid.prefix :].transpose(1, 2))

        with getattr(library, name)(
            model=model, target_layers=[_last_norm(model)], reshape_transform=reshape
        ) as cam_method:
            cam_targets = [targets.ClassifierOutputTarget(target)]
            heat_map = cam_method(input_tensor=inputs.clone(), targets=cam_targets)
        return torch.from_numpy(heat_map[0])


for _name in ("GradCAM", "HiResCAM", "EigenCAM", "ScoreCAM", "LayerCAM"):
    _cam(_name)


@peers.register("fast-vit-rollout/rollout")
def _rollout(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
    library = _package("fast_vit_rollout", "fast-vit-rollout")
    model_copy = copy.deepcopy(model)  # the library does not remove its hooks
    for module in model_copy.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    rolled = library.ViTAttentionRollout(model_copy)(inputs)
    return grid.upsample(rolled[:, 0, -grid.patches :])[0]


@peers.register("torchcam/LeGrad")
def _legrad(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
    library = _package("torchcam.methods", "torchcam")
    encoder = getattr(model, "encoder", None)
    blocks = list(getattr(encoder, "layers", ()))
    if not blocks or not hasattr(blocks[0], "self_attention"):
        raise UnsupportedModelError(
            f"torchcam/LeGrad: expected a vision transformer of torchvision, got "
            f"{type(model).__name__} — use legrad, which gives the same map on those"
        )
    with library.LeGrad(model, blocks, grid_shape=grid.shape) as extractor:
        scores = model(inputs)
        (attribution,) = extractor(target, scores)
    return grid.upsample(attribution.flatten(1))[0]


def _captum(name: str) -> Callable[[Any], Any]:
    """Register a function (attr, model, inputs, target, grid) that returns (1, C, H, W)."""

    def enter(call: Callable[..., Tensor]) -> Any:
        @peers.register(f"captum/{name}")
        def run(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
            attr = importlib.import_module("captum.attr")
            before = np.random.get_state()  # noqa: NPY002 (Captum draws from it)
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    np.random.seed(0)  # noqa: NPY002
                    return call(attr, model, inputs, target, grid)[0].detach().abs().sum(0)
            finally:
                np.random.set_state(before)  # noqa: NPY002

        return run

    return enter


@_captum("IntegratedGradients")
def _ig(attr: Any, model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Any:
    return attr.IntegratedGradients(model).attribute(
        inputs, target=target, n_steps=32, internal_batch_size=8
    )


@_captum("SmoothGrad")
def _smooth(attr: Any, model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Any:
    noise_tunnel = attr.NoiseTunnel(attr.Saliency(model))
    noise_scale = 0.15 * float(inputs.max() - inputs.min())
    return noise_tunnel.attribute(
        inputs, target=target, nt_type="smoothgrad", nt_samples=16, nt_samples_batch_size=8,
        stdevs=noise_scale,
    )  # fmt: skip


@_captum("GradientShap")
def _shap(attr: Any, model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Any:
    blurred = torch.nn.functional.avg_pool2d(inputs, 31, 1, 15, count_include_pad=False)
    return attr.GradientShap(model).attribute(
        inputs, baselines=torch.cat([blurred, torch.zeros_like(inputs)]), n_samples=SEEN,
        stdevs=0.1, target=target,
    )  # fmt: skip


def _patches_as_features(inputs: Tensor, grid: PatchGrid) -> Tensor:
    """Return the patch number of each pixel (1, 1, H, W); other pixels are one more feature."""
    numbers = torch.arange(grid.patches, dtype=torch.float32, device="cpu")[None]
    features = grid.upsample(numbers, mode="nearest-exact").long()
    if grid.is_partial:
        rows, columns = grid.visible_part
        is_seen = torch.zeros_like(features, dtype=torch.bool)
        is_seen[:, rows, columns] = True
        features[~is_seen] = grid.patches
    return features[:, None].to(inputs.device)


@_captum("Occlusion")
def _occlusion(attr: Any, model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Any:
    side = (round(2 * grid.cell[0]), round(2 * grid.cell[1]))
    with torch.no_grad():
        return attr.Occlusion(model).attribute(
            inputs, target=target, sliding_window_shapes=(inputs.shape[1], *side),
            strides=(inputs.shape[1], round(grid.cell[0]), round(grid.cell[1])),
            perturbations_per_eval=16,
        )  # fmt: skip


@_captum("KernelShap")
def _kernel(attr: Any, model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Any:
    with torch.no_grad():
        return attr.KernelShap(model).attribute(
            inputs, target=target, feature_mask=_patches_as_features(inputs, grid),
            n_samples=2 * grid.patches, perturbations_per_eval=16,
        )  # fmt: skip


MODES = {"hilrp/AttnLRP": "attnlrp", "hilrp/CP-LRP": "cp"}
"""Row to hilrp's name of the rules for attention: AttnLRP (arXiv 2402.05602), or its default."""
PARTS = ("hilrp", "hilrp.vit_lxt", "zennit.core")


def _backend(row: str) -> list[Any]:
    try:
        return [importlib.import_module(package) for package in PARTS]
    except ImportError as error:
        raise SemattnError(
            f"{row}: expected the packages hilrp, lxt and zennit to import, got "
            f"{type(error).__name__}: {' '.join(str(error).split())} — on Python >= 3.11.11, "
            "pip install hilrp 'transformers<5', or remove this method"
        ) from error


@contextlib.contextmanager
def put_back(owners: Iterable[Any]) -> Iterator[None]:
    """Undo every attribute that is set, replaced or added on classes and modules inside."""
    before = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes in before:
            for name in set(vars(owner)) - set(attributes):
                delattr(owner, name)
            for name, value in attributes.items():
                if vars(owner)[name] is not value:
                    setattr(owner, name, value)


def _register(row: str, mode: str) -> None:
    @peers.register(row)
    def relevance(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
        library, port, zennit = _backend(row)
        if not any(type(module) is port.Attention for module in model.modules()):
            raise UnsupportedModelError(
                f"{row}: expected a plain vision transformer of timm, got {type(model).__name__} — "
                "remove this method"
            )
        model_copy = copy.deepcopy(model)  # parameters of the copy keep gradients
        with put_back([port, zennit.BasicHook, *port.VIT_PATCH_MAP]):
            result = library.attribute(
                model_copy, inputs, target=target, arch="vit", attn_mode=mode
            )
        return result["pixel_map"]


for _row, _mode in MODES.items():
    _register(_row, _mode)
