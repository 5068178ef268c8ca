"""Randomization: what is left of a map when the model, or the class, is another one.

A map that does not change when the weights are drawn anew owes nothing to what the model learned
(Adebayo et al. 2018, arXiv 1810.03292). What is a product of several factors is judged by each:
keypoints cannot vanish when weights do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from ..errors import ShapeError
from ..registry import choices

Maps = Tensor | Mapping[str, Tensor]
ORDERS = ("cascading", "independent")


def moved(one: Tensor, other: Tensor) -> Tensor:
    """The part of each map (B, …) that is elsewhere in another: their total variation distance.

    Half the sum of differences of |map| / sum |map|: 0 where they are the same but for a factor,
    1 where they share no patch; NaN where one is zero everywhere. Of maps for two classes this is
    the target sensitivity.

    Examples
    --------
    >>> moved(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])).tolist()
    [0.5]
    """
    if one.shape != other.shape:
        raise ShapeError(
            f"maps: expected two of one shape, got {tuple(one.shape)} and {tuple(other.shape)}"
        )
    maps = [values.detach().to("cpu", torch.float64).abs().flatten(1) for values in (one, other)]
    shares = [values / values.sum(dim=1, keepdim=True) for values in maps]
    return (shares[0] - shares[1]).abs().sum(dim=1) / 2


def similarity(one: Tensor, other: Tensor, by: str = "spearman") -> Tensor:
    """How alike maps (B, …) are: (B,) in [-1, 1]; NaN where one is even.

    Parameters
    ----------
    by : "spearman" (ranks; equals share theirs) or "pearson"
    """
    if by not in ("spearman", "pearson"):
        raise ValueError(choices("by", by, ("spearman", "pearson")))
    if one.shape != other.shape:
        raise ShapeError(
            f"maps: expected two of one shape, got {tuple(one.shape)} and {tuple(other.shape)}"
        )
    pair = [values.detach().cpu().double().flatten(1) for values in (one, other)]
    if by == "spearman":
        pair = [torch.from_numpy(rankdata(values.numpy(), axis=1)) for values in pair]
    a, b = (values - values.mean(dim=1, keepdim=True) for values in pair)
    scale = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(scale > 0, (a * b).sum(dim=1) / scale, torch.nan)


def randomized(
    model: nn.Module, order: str = "cascading", seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a model with more and more, or other, layers drawn anew, from the output down.

    A layer is a module with parameters of its own. Each of its parameters is drawn from a normal
    distribution of its own mean and standard deviation, so that nothing but what was learned
    changes. The model itself is not touched; the copy that comes is good until the next is asked
    for.

    Parameters
    ----------
    order : "cascading" (all layers from the last one to this) or "independent" (this one alone)
    """
    if order not in ORDERS:
        raise ValueError(choices("order", order, ORDERS))
    made = copy.deepcopy(model)
    layers = [(name, one) for name, one in made.named_modules() if list(one.parameters(False))]
    chance = torch.Generator().manual_seed(seed)
    for name, layer in reversed(layers):
        kept = {key: one.detach().clone() for key, one in layer.named_parameters(recurse=False)}
        with torch.no_grad():
            for one in layer.parameters(recurse=False):
                noise = torch.randn(one.shape, generator=chance)
                spread = one.float().std(correction=0)
                one.copy_(one.float().mean() + spread * noise.to(one.device))
        yield name or "model", made
        if order == "independent":
            with torch.no_grad():
                for key, one in layer.named_parameters(recurse=False):
                    one.copy_(kept[key])


def mprt(
    explain: Callable[[nn.Module], Maps],
    model: nn.Module,
    *,
    order: str = "cascading",
    by: str = "spearman",
    seed: int = 0,
    only: Callable[[str], bool] | None = None,
) -> list[tuple[str, dict[str, Tensor]]]:
    """Model parameter randomisation test: similarity to the map of the model as it is.

    Parameters
    ----------
    explain : from a model to maps (B, …) of the same images and classes; or to several by name,
        the factors of a map, each of which is judged
    only : which layers, by name, maps are made for; None is all, and all are drawn anew

    Returns
    -------
    list
        For each layer from the output down, its name and the similarities (B,) by factor; a map
        without factors is called "map".
    """
    first = _named(explain(model))
    found = []
    for name, other in randomized(model, order, seed):
        if only is None or only(name):
            maps = _named(explain(other))
            found.append((name, {key: similarity(first[key], maps[key], by) for key in first}))
    return found


def _named(maps: Any) -> Mapping[str, Tensor]:
    return maps if isinstance(maps, Mapping) else {"map": maps}
