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
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..utils.registry import choices

Maps = Tensor | Mapping[str, Tensor]
ORDERS = ("cascading", "independent", "full")
DRAWS = ("reset", "normal")
SIMILARITIES = ("spearman", "pearson", "ssim")


def moved(one: Tensor, other: Tensor) -> Tensor:
    """The part of each map (B, …) that is elsewhere in another: their total variation distance.

    Half the sum of differences of `|map| / sum |map|`: 0 where they are the same but for a factor,
    1 where they share no patch; NaN where one is zero everywhere. Of maps for two classes this is
    the target sensitivity.

    Examples
    --------
    >>> moved(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])).tolist()
    [0.5]
    """
    maps = [values.abs().flatten(1) for values in _pair(one, other)]
    shares = [values / values.sum(dim=1, keepdim=True) for values in maps]
    return (shares[0] - shares[1]).abs().sum(dim=1) / 2


def similarity(one: Tensor, other: Tensor, by: str = "spearman") -> Tensor:
    """How alike maps (B, …) are: (B,) in [-1, 1]; NaN where one is even.

    Parameters
    ----------
    by : "spearman" (ranks; equals share theirs), "pearson", or, for (B, h, w), "ssim" (Wang et
        al. 2004: each map between 0 and 1 by its own range, the mean over all windows of 7 patches,
        or as many as fit)

    Examples
    --------
    >>> similarity(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])).tolist()
    [1.0]
    """
    if by not in SIMILARITIES:
        raise ValueError(choices("by", by, SIMILARITIES))
    pair = _pair(one, other)
    uneven = torch.ones(len(one), dtype=torch.bool, device="cpu")
    for values in pair:
        uneven &= values.flatten(1).amax(dim=1) != values.flatten(1).amin(dim=1)
    if by == "ssim":
        return torch.where(uneven, _ssim(*pair), torch.nan)
    pair = [values.flatten(1) for values in pair]
    if by == "spearman":
        from scipy.stats import rankdata

        pair = [torch.from_numpy(rankdata(values.numpy(), axis=1)) for values in pair]
    a, b = (values - values.mean(dim=1, keepdim=True) for values in pair)
    found = (a * b).sum(dim=1) / ((a * a).sum(dim=1) * (b * b).sum(dim=1)).sqrt()
    return torch.where(uneven, found.clamp(-1, 1), torch.nan)


def randomized(
    model: nn.Module,
    order: str = "cascading",
    seed: int = 0,
    *,
    top_down: bool = True,
    draw: str = "reset",
) -> Iterator[tuple[str, nn.Module]]:
    """A copy of a model with more and more, or other, layers drawn anew, from the output down.

    A layer is a module with parameters of its own, in the order in which the model lists them. The
    model itself and the generators of random numbers are not touched, whatever happens. The copy
    that comes is good until the next is asked for.

    Parameters
    ----------
    order : "cascading" (all layers from the first drawn to this), "independent" (this one alone)
        or "full" (all at once, under the name "all")
    seed : a layer is drawn alike in every order and direction
    top_down : from the output to the input; False is the other way
    draw : "reset" (as the layer's own `reset_parameters` draws it, with its statistics; "normal"
        where it has none), or "normal" (each parameter from a normal distribution of its own mean
        and standard deviation: only what was learned changes)

    Raises
    ------
    ValueError
        For another order or draw.
    UnsupportedModelError
        For a model without parameters, or one that cannot be copied.

    Notes
    -----
    What a new layer would have anyway does not change: by "reset" a norm's weights of 1, by
    "normal" a parameter of equal numbers, or of one. A parameter that two layers share is drawn
    with each.

    Examples
    --------
    >>> two = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> [name for name, other in randomized(two)]
    ['1', '0']
    """
    if order not in ORDERS:
        raise ValueError(choices("order", order, ORDERS))
    if draw not in DRAWS:
        raise ValueError(choices("draw", draw, DRAWS))
    if next(model.parameters(), None) is None:
        raise UnsupportedModelError(
            "model: expected parameters to draw anew, got none — give the model that learned"
        )
    return _randomized(model, order, seed, top_down, draw)


def mprt(
    explain: Callable[[nn.Module], Maps],
    model: nn.Module,
    *,
    order: str = "cascading",
    by: str = "spearman",
    seed: int = 0,
    top_down: bool = True,
    draw: str = "reset",
    only: Callable[[str], bool] | None = None,
) -> list[tuple[str, dict[str, Tensor]]]:
    """Model parameter randomisation test: similarity to the map of the model as it is.

    Parameters
    ----------
    explain : from a model to maps (B, …) of the same images and classes; or to several by name,
        the factors of a map, each of which is judged
    order, seed, top_down, draw : as for `randomized`
    by : as for `similarity`
    only : which layers, by name, maps are made for; None is all, and all are drawn anew

    Returns
    -------
    list
        For each layer, in the order of drawing, its name and the similarities (B,) by factor; a map
        without factors is called "map".
    """
    if by not in SIMILARITIES:
        raise ValueError(choices("by", by, SIMILARITIES))
    layers = randomized(model, order, seed, top_down=top_down, draw=draw)
    first = _named(explain(model))
    found = []
    for name, other in layers:
        if only is None or only(name):
            maps = _named(explain(other))
            if maps.keys() != first.keys():
                raise ValueError(
                    f"explain: expected maps {', '.join(first)} of every model, got "
                    f"{', '.join(maps)} at {name} — return the same factors each time"
                )
            found.append((name, {key: similarity(first[key], maps[key], by) for key in first}))
    return found


def _randomized(
    model: nn.Module, order: str, seed: int, top_down: bool, draw: str
) -> Iterator[tuple[str, nn.Module]]:
    try:
        made = copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"model: expected one that copy.deepcopy can copy, got {type(error).__name__} — "
            "give one that keeps no tensors of a pass"
        ) from error
    layers = [(name, one) for name, one in made.named_modules() if list(one.parameters(False))]
    seeds = torch.randint(
        2**62, (len(layers),), generator=torch.Generator().manual_seed(seed), device="cpu"
    )
    drawn = list(zip(layers, seeds.tolist(), strict=True))
    for (name, layer), own in reversed(drawn) if top_down else drawn:
        before = {key: one.detach().clone() for key, one in _state(layer).items()}
        _write(layer, _anew(layer, own, draw))
        if order != "full":
            yield name or "model", made
        if order == "independent":
            _write(layer, before)
    if order == "full":
        yield "all", made


def _anew(layer: nn.Module, seed: int, draw: str) -> dict[str, Tensor]:
    """New values for a layer's own parameters, drawn on the CPU, so alike on every device."""
    if draw == "reset" and hasattr(layer, "reset_parameters"):
        # A copy, since it may reset the modules inside as well, which are layers of their own.
        fresh: Any = copy.deepcopy(layer).cpu()
        kept = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            fresh.reset_parameters()
        finally:
            torch.set_rng_state(kept)
        return _state(fresh)
    chance, made = torch.Generator().manual_seed(seed), {}
    for key, one in layer.named_parameters(recurse=False):
        was = one.detach().cpu().double()
        noise = torch.randn(was.shape, generator=chance, dtype=torch.double, device="cpu")
        made[key] = was.mean() + was.std(correction=0) * noise
    return made


def _state(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters and statistics, not those of the modules inside."""
    return {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers("", False))}


def _write(layer: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, one in _state(layer).items():
            if key in values:
                one.copy_(values[key])


def _ssim(one: Tensor, other: Tensor) -> Tensor:
    if one.ndim != 3 or min(one.shape[1:]) < 3:
        raise ShapeError(
            f"maps: expected (B, h, w) of 3 by 3 at least for ssim, got {tuple(one.shape)} — "
            "compare them by 'spearman'"
        )
    low, high = (
        [getattr(values, end)((1, 2), keepdim=True) for values in (one, other)]
        for end in ("amin", "amax")
    )
    a, b = (
        ((values - least) / (most - least))[:, None]
        for values, least, most in zip((one, other), low, high, strict=True)
    )
    side = min(7, *(size - 1 + size % 2 for size in one.shape[1:]))

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, side, stride=1)

    sample = side**2 / (side**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    spread = sample * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    common = sample * (mean(a * b) - mean_a * mean_b)
    first, second = 0.01**2, 0.03**2
    alike = (2 * mean_a * mean_b + first) * (2 * common + second)
    alike = alike / ((mean_a**2 + mean_b**2 + first) * (spread + second))
    return alike.mean(dim=(1, 2, 3))


def _pair(one: Tensor, other: Tensor) -> list[Tensor]:
    if one.shape != other.shape or one.ndim < 2:
        raise ShapeError(
            f"maps: expected two of one shape (B, …), got {tuple(one.shape)} and "
            f"{tuple(other.shape)} — compare maps of the same images on one grid"
        )
    return [values.detach().cpu().double() for values in (one, other)]


def _named(maps: Any) -> Mapping[str, Tensor]:
    return maps if isinstance(maps, Mapping) else {"map": maps}
