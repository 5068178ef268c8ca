"""Rows of a comparison: explainers by name, other densities and options, and peers' own code.

A method is a function of the model, one prepared image and its class; it returns a map of the
pixels and one of the patches. `NAME` is an explainer of semattn with its defaults, `NAME:DENSITY`
uses another density ("uniform": the model only), `NAME:OPTION=VALUE` another option, and
`PEER/METHOD` the code of another library. `ROW+refined` adds affinity refinement to any row, as in
`SIFTPatchInterrelation`.
"""

from __future__ import annotations

import ast
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..affinity import DEFAULT_AFFINITY, random_walk
from ..attention import record
from ..attention.target import TargetLike
from ..density import densities
from ..errors import SemattnError, UnsupportedModelError
from ..explain import explainers
from ..explain.refine import refinements
from ..grid import PatchGrid
from ..images import Images
from ..utils.registry import Registry, unknown_name_message

peers: Registry[Peer] = Registry("method")
"""`PEER/METHOD` to a function (model, inputs (1, C, H, W), class, grid) that gives (H, W)."""

DEFAULT = (
    "sift-patch-interrelation", "sift-patch-interrelation:uniform",
    "sift-patch-interrelation:sobel", "attention-rollout", "grad-cam", "keypoint-density", "center",
    "random",
)  # fmt: skip


REFINED = "refined"


class Map(NamedTuple):
    """Map of one image: `heat_map` (1, H, W), `patches` (1, P), and the patch grid.

    `conservation` (1,) is that of the `Explanation`, None for methods that do not distribute the
    score.
    """

    heat_map: Tensor
    patches: Tensor
    grid: PatchGrid
    conservation: Tensor | None = None


Method = Callable[[nn.Module, Images, TargetLike], Map]
Peer = Callable[[nn.Module, Tensor, int, PatchGrid], Tensor]


def method(name: str, refine: str = "none", seed: int = 0) -> Method:
    """Return the method of a name.

    Parameters
    ----------
    name : see above
    refine : name in `semattn.explain.refinements`; a peer's map is pooled to patches and refined
    seed : of random methods

    Raises
    ------
    ValueError
        For an unknown name; the message suggests the nearest one.
    """
    refinements.resolve(refine)
    row, has_suffix, suffix = name.partition("+")
    if has_suffix:
        if suffix != REFINED:
            raise ValueError(unknown_name_message("method", suffix, [REFINED]) + f" after {row}+")
        return _refined(row, method(row, seed=seed), refine)
    if "/" in name:
        return _peer(name, peers.resolve(name), refine)
    base, *parts = name.split(":")
    if base not in explainers:
        raise ValueError(unknown_name_message("method", base, [*explainers, *peers]))
    options: dict[str, Any] = {"refine": refine, "seed": seed}
    for part in parts:
        key, has_value, value = part.partition("=")
        if has_value:
            options[key] = _literal(value)
        else:
            densities.resolve(part)
            options["density"] = part
    explainer_class = explainers[base]
    explainer_class(**options)  # raises for a wrong option

    def run(model: nn.Module, images: Images, target: TargetLike) -> Map:
        explanation = explainer_class(**options).explain(
            model, images.inputs, target=target, manifest={"made": "elsewhere"}
        )
        return Map(
            explanation.heat_map, explanation.patch_map.flatten(1), explanation.grid,
            explanation.conservation,
        )  # fmt: skip

    return run


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _refined(row: str, inner: Method, refine: str) -> Method:
    def run(model: nn.Module, images: Images, target: TargetLike) -> Map:
        inner_map = inner(model, images, target)
        with torch.no_grad():
            attention = record(model, images.inputs, layers="last-half", grad=False)
        if attention.grid.shape != inner_map.grid.shape:
            raise UnsupportedModelError(
                f"{row}: expected a map of {attention.grid.shape} patches, got "
                f"{inner_map.grid.shape} — remove +{REFINED}"
            )
        refined = random_walk(
            attention.middle_layer(), attention.grid, inner_map.patches[..., None], DEFAULT_AFFINITY
        )
        if refined is None:
            raise UnsupportedModelError(
                f"{row}: expected an attention layer whose keys can be recorded, got a layer with "
                f"its own softmax — remove +{REFINED}"
            )
        patches = refined[..., 0]
        if refine != "none":
            patches = patches - patches.amin(dim=1, keepdim=True)
        heat_map = inner_map.grid.upsample(patches)
        heat_map = refinements[refine](heat_map, images.pixels, inner_map.grid)
        return Map(heat_map, patches, inner_map.grid)

    return run


def _peer(name: str, call: Peer, refine: str) -> Method:
    def run(model: nn.Module, images: Images, target: TargetLike) -> Map:

        if not isinstance(target, int):
            raise UnsupportedModelError(
                f"{name}: expected a model with an output for each class, got one with a single "
                "output — only semattn's own methods explain its two answers"
            )
        grid = grid_of(model, images.inputs)
        try:
            heat_map = call(model, images.inputs, target, grid)[None].detach().float()
        except SemattnError:
            raise
        except Exception as error:  # an error of another library refuses one row, not the run
            raise UnsupportedModelError(
                f"{name}: expected a map, got {type(error).__name__}: "
                f"{' '.join(str(error).split())} — remove this method"
            ) from error
        patches = grid.pool(heat_map)
        if refine != "none":
            shifted = patches - patches.amin(dim=1, keepdim=True)
            heat_map = refinements[refine](grid.upsample(shifted), images.pixels, grid)
        return Map(heat_map, patches, grid)

    return run


_GRIDS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], PatchGrid]] = (
    weakref.WeakKeyDictionary()
)


def grid_of(model: nn.Module, inputs: Tensor) -> PatchGrid:
    """Return the patch grid that `semattn.record` finds for `inputs` (B, C, H, W)."""
    grids = _GRIDS.setdefault(model, {})
    size = tuple(inputs.shape[1:])
    if size not in grids:
        grids[size] = record(model, inputs[:1], grad=False).grid
    return grids[size]
