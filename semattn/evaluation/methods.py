"""The rows of a comparison: every explainer by its name, with another density, and peers' own code.

A method is a function of the model, one prepared image and its class; it gives a map of the pixels
and one of the patches. `NAME` is an explainer of semattn at its defaults, `NAME:DENSITY` the same
with another density ("uniform": the model alone), and `PEER/METHOD` another library's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..density import densities
from ..errors import SemattnError, UnsupportedModelError
from ..explain import explainers
from ..explain.refine import refinements
from ..grid import PatchGrid
from ..images import Images
from ..registry import Registry, choices

peers = Registry("method")
"""`PEER/METHOD` to a function (model, inputs (1, C, H, W), class, grid) that gives (H, W)."""

DEFAULT = (
    "sift-patch-interrelation", "sift-patch-interrelation:uniform",
    "sift-patch-interrelation:sobel", "attention-rollout", "grad-cam", "keypoint-density", "center",
    "random",
)  # fmt: skip


class Map(NamedTuple):
    """A map of one image: `heat` (1, H, W), `patches` (1, P), and the grid of the patches."""

    heat: Tensor
    patches: Tensor
    grid: PatchGrid


Method = Callable[[nn.Module, Images, int], Map]
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
    if "/" in name:
        return _peer(name, peers.ensure(name), refine)
    base, _, density = name.partition(":")
    if base not in explainers:
        raise ValueError(choices("method", base, [*explainers, *peers]))
    options: dict[str, Any] = {"refine": refine, "seed": seed}
    if density:
        densities.ensure(density)
        options["density"] = density

    def run(model: nn.Module, images: Images, target: int) -> Map:
        made = explainers[base](**options).explain(
            model, images.inputs, target=target, manifest={"made": "elsewhere"}
        )
        return Map(made.heat, made.patch_map.flatten(1), made.grid)

    return run


def _peer(name: str, call: Peer, refine: str) -> Method:
    def run(model: nn.Module, images: Images, target: int) -> Map:
        from .grids import grid_of

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
