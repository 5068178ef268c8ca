"""The rows of a comparison: every explainer by its name, with another density, and peers' own code.

A method is a function of the model, one prepared image and its class; it gives a map of the pixels
and one of the patches. `NAME` is an explainer of semattn at its defaults, `NAME:DENSITY` the same
with another density ("uniform": the model alone), `NAME:OPTION=VALUE` with another option, and
`PEER/METHOD` another library's own code. `ROW+grown` is any of them with its values shared among
patches of like keys, as `SIFTPatchInterrelation` shares its own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..affinity import GROWTH, walked
from ..attention import record
from ..attention.target import Target
from ..density import densities
from ..errors import SemattnError, UnsupportedModelError
from ..explain import explainers
from ..explain.refine import refinements
from ..grid import PatchGrid
from ..images import Images
from ..utils.registry import Registry, choices

peers = Registry("method")
"""`PEER/METHOD` to a function (model, inputs (1, C, H, W), class, grid) that gives (H, W)."""

DEFAULT = (
    "sift-patch-interrelation", "sift-patch-interrelation:uniform",
    "sift-patch-interrelation:sobel", "attention-rollout", "grad-cam", "keypoint-density", "center",
    "random",
)  # fmt: skip


GROWN = "grown"


class Map(NamedTuple):
    """A map of one image: `heat` (1, H, W), `patches` (1, P), and the grid of the patches."""

    heat: Tensor
    patches: Tensor
    grid: PatchGrid


Method = Callable[[nn.Module, Images, Target], Map]
Peer = Callable[[nn.Module, Tensor, int, PatchGrid], Tensor]


def method(name: str, refine: str = "none", seed: int = 0) -> Method:
    """The method of a name.

    Parameters
    ----------
    name : as above
    refine : in `semattn.explain.refinements`; of peers, their map pooled to patches is refined
    seed : of methods that draw at random

    Raises
    ------
    ValueError
        For an unknown name; the message tells the nearest.
    """
    refinements.ensure(refine)
    row, plus, after = name.partition("+")
    if plus:
        if after != GROWN:
            raise ValueError(choices("method", after, [GROWN]) + f" behind + of {row}")
        return _grown(row, method(row, seed=seed), refine)
    if "/" in name:
        return _peer(name, peers.ensure(name), refine)
    base, *parts = name.split(":")
    if base not in explainers:
        raise ValueError(choices("method", base, [*explainers, *peers]))
    options: dict[str, Any] = {"refine": refine, "seed": seed}
    for part in parts:
        key, given, value = part.partition("=")
        if given:
            options[key] = _literal(value)
        else:
            densities.ensure(part)
            options["density"] = part
    made_of = explainers[base]
    made_of(**options)  # a wrong option is told at once

    def run(model: nn.Module, images: Images, target: Target) -> Map:
        made = made_of(**options).explain(
            model, images.inputs, target=target, manifest={"made": "elsewhere"}
        )
        return Map(made.heat, made.patch_map.flatten(1), made.grid)

    return run


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _grown(row: str, inner: Method, refine: str) -> Method:
    def run(model: nn.Module, images: Images, target: Target) -> Map:
        made = inner(model, images, target)
        with torch.no_grad():
            taken = record(model, images.inputs, layers="last-half", grad=False)
        if taken.grid.shape != made.grid.shape:
            raise UnsupportedModelError(
                f"{row}: expected a map of {taken.grid.shape} patches to grow, got "
                f"{made.grid.shape} — leave +{GROWN} out"
            )
        even = walked(taken.half_way(), taken.grid, made.patches[..., None], GROWTH)
        if even is None:
            raise UnsupportedModelError(
                f"{row}: expected a layer that keeps its keys, got one that makes its own softmax "
                f"— leave +{GROWN} out"
            )
        patches = even[..., 0]
        if refine != "none":
            patches = patches - patches.amin(dim=1, keepdim=True)
        return Map(refinements[refine](patches, images.pixels, made.grid), patches, made.grid)

    return run


def _peer(name: str, call: Peer, refine: str) -> Method:
    def run(model: nn.Module, images: Images, target: Target) -> Map:
        from .grids import grid_of

        if not isinstance(target, int):
            raise UnsupportedModelError(
                f"{name}: expected a model with an output for each class, got one with a single "
                "output — only semattn's own methods explain its two answers"
            )
        grid = grid_of(model, images.inputs)
        try:
            heat = call(model, images.inputs, target, grid)[None].detach().float()
        except SemattnError:
            raise
        except Exception as error:  # another library's: a row that says why, not the end of the run
            raise UnsupportedModelError(
                f"{name}: expected a map, got {type(error).__name__}: "
                f"{' '.join(str(error).split())} — leave this row out"
            ) from error
        patches = grid.pool(heat)
        if refine != "none":
            lifted = patches - patches.amin(dim=1, keepdim=True)
            heat = refinements[refine](lifted, images.pixels, grid)
        return Map(heat, patches, grid)

    return run
