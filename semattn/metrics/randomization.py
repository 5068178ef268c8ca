"""Randomization tests: change of a map when the weights, or the target class, change.

A map that does not change when the weights are randomized does not depend on what the model learned
(Adebayo et al. 2018, arXiv 1810.03292). A map that is a product of factors is tested per factor,
because factors such as keypoints do not depend on the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..utils.registry import unknown_name_message

Maps = Tensor | Mapping[str, Tensor]
ORDERS = ("cascading", "independent", "full")
DRAWS = ("reset", "normal")
SIMILARITIES = ("spearman", "pearson", "ssim")


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """Compute the total variation distance (B,) of two maps (B, …).

    Half the sum of absolute differences of `|map| / sum |map|`: 0 for maps that are equal up to a
    factor, 1 for disjoint maps, NaN if a map is zero. For maps of two classes, this is the target
    sensitivity.

    Examples
    --------
    >>> total_variation(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])).tolist()
    [0.5]
    """
    maps = [values.abs().flatten(1) for values in _check_pair(first, second)]
    normalised = [values / values.sum(dim=1, keepdim=True) for values in maps]
    return (normalised[0] - normalised[1]).abs().sum(dim=1) / 2


def similarity(first: Tensor, second: Tensor, by: str = "spearman") -> Tensor:
    """Compute the similarity (B,) in [-1, 1] of maps (B, …); NaN if one is constant.

    Parameters
    ----------
    by : "spearman" (ties share their mean rank), "pearson", or, for (B, h, w), "ssim" (Wang et al.
        2004: each map scaled to [0, 1], mean over windows of 7x7 patches, or smaller ones for
        smaller maps)

    Examples
    --------
    >>> similarity(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 0.1, 0.2]])).tolist()
    [1.0]
    """
    if by not in SIMILARITIES:
        raise ValueError(unknown_name_message("by", by, SIMILARITIES))
    pair = _check_pair(first, second)
    is_defined = torch.ones(len(first), dtype=torch.bool, device="cpu")
    for values in pair:
        is_defined &= values.flatten(1).amax(dim=1) != values.flatten(1).amin(dim=1)
    if by == "ssim":
        return torch.where(is_defined, _ssim(*pair), torch.nan)
    pair = [values.flatten(1) for values in pair]
    if by == "spearman":
        from scipy.stats import rankdata

        pair = [torch.from_numpy(rankdata(values.numpy(), axis=1)) for values in pair]
    a, b = (values - values.mean(dim=1, keepdim=True) for values in pair)
    correlation = (a * b).sum(dim=1) / ((a * a).sum(dim=1) * (b * b).sum(dim=1)).sqrt()
    return torch.where(is_defined, correlation.clamp(-1, 1), torch.nan)


def randomized(
    model: nn.Module,
    order: str = "cascading",
    seed: int = 0,
    *,
    top_down: bool = True,
    draw: str = "reset",
) -> Iterator[tuple[str, nn.Module]]:
    """Yield a copy of a model with randomized layers, step by step from the output to the input.

    A layer is a module that directly owns parameters, in the order of ``model.named_modules()``.
    The model and the global random generators are unchanged, also after an exception. Each step
    modifies the same copy, so that a yielded copy is valid until the next step.

    Parameters
    ----------
    order : "cascading" (randomize one more layer per step), "independent" (only the current layer)
        or "full" (all layers at once, yielded under the name "all")
    seed : the values of a layer depend on the seed, not on the order and direction
    top_down : true for output to input, false for input to output
    draw : "reset" (`reset_parameters` of the layer, including its statistics; "normal" if it has
        none), or "normal" (each parameter from a normal distribution with its mean and standard
        deviation)

    Raises
    ------
    ValueError
        For an unknown order or draw.
    UnsupportedModelError
        If the model has no parameters or cannot be copied.

    Notes
    -----
    Values that equal their initial values do not change: with "reset", norm weights of 1; with
    "normal", parameters with constant values or a single value. A parameter shared by two layers is
    randomized with each.

    Examples
    --------
    >>> two = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> [name for name, other in randomized(two)]
    ['1', '0']
    """
    if order not in ORDERS:
        raise ValueError(unknown_name_message("order", order, ORDERS))
    if draw not in DRAWS:
        raise ValueError(unknown_name_message("draw", draw, DRAWS))
    if next(model.parameters(), None) is None:
        raise UnsupportedModelError(
            "model: expected parameters to randomize, got none — pass a trained model"
        )
    return _randomize_layers(model, order, seed, top_down, draw)


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
    """Run the model parameter randomisation test: similarity to the map of the original model.

    Parameters
    ----------
    explain : function from a model to maps (B, …) of the same images and classes, or to a mapping
        of named factors of a map, each of which is tested
    order, seed, top_down, draw : as for `randomized`
    by : as for `similarity`
    only : predicate of layer names for which maps are computed; None is all. All layers are
        randomized in any case

    Returns
    -------
    list
        For each layer, in the order of randomization, its name and the similarities (B,) by factor;
        a map without factors has the name "map".
    """
    if by not in SIMILARITIES:
        raise ValueError(unknown_name_message("by", by, SIMILARITIES))
    layers = randomized(model, order, seed, top_down=top_down, draw=draw)
    reference = _as_mapping(explain(model))
    results = []
    for name, randomized_model in layers:
        if only is None or only(name):
            maps = _as_mapping(explain(randomized_model))
            if maps.keys() != reference.keys():
                raise ValueError(
                    f"explain: expected maps {', '.join(reference)} for each model, got "
                    f"{', '.join(maps)} at {name} — return the same factors each time"
                )
            results.append(
                (name, {key: similarity(reference[key], maps[key], by) for key in reference})
            )
    return results


def _randomize_layers(
    model: nn.Module, order: str, seed: int, top_down: bool, draw: str
) -> Iterator[tuple[str, nn.Module]]:
    try:
        randomized_model = copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"model: expected one that copy.deepcopy can copy, got {type(error).__name__} — "
            "pass a model that stores no tensors of a forward pass"
        ) from error
    layers = [
        (name, module)
        for name, module in randomized_model.named_modules()
        if list(module.parameters(False))
    ]
    seeds = torch.randint(
        2**62, (len(layers),), generator=torch.Generator().manual_seed(seed), device="cpu"
    )
    seeded_layers = list(zip(layers, seeds.tolist(), strict=True))
    for (name, layer), layer_seed in reversed(seeded_layers) if top_down else seeded_layers:
        before = {key: value.detach().clone() for key, value in _own_state(layer).items()}
        _write_state(layer, _draw_parameters(layer, layer_seed, draw))
        if order != "full":
            yield name or "model", randomized_model
        if order == "independent":
            _write_state(layer, before)
    if order == "full":
        yield "all", randomized_model


def _draw_parameters(layer: nn.Module, seed: int, draw: str) -> dict[str, Tensor]:
    """Draw new values of a layer's own parameters on the CPU, so that they match on all devices."""
    if draw == "reset" and hasattr(layer, "reset_parameters"):
        # A copy, because reset_parameters may also reset submodules, which are layers of their own.
        layer_copy: Any = copy.deepcopy(layer).cpu()
        rng_state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            layer_copy.reset_parameters()
        finally:
            torch.set_rng_state(rng_state)
        return _own_state(layer_copy)
    rng, values = torch.Generator().manual_seed(seed), {}
    for key, parameter in layer.named_parameters(recurse=False):
        old_value = parameter.detach().cpu().double()
        noise = torch.randn(old_value.shape, generator=rng, dtype=torch.double, device="cpu")
        values[key] = old_value.mean() + old_value.std(correction=0) * noise
    return values


def _own_state(layer: nn.Module) -> dict[str, Tensor]:
    """Return a layer's own parameters and buffers, without those of submodules."""
    return {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers("", False))}


def _write_state(layer: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, tensor in _own_state(layer).items():
            if key in values:
                tensor.copy_(values[key])


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    if x.ndim != 3 or min(x.shape[1:]) < 3:
        raise ShapeError(
            f"maps: expected (B, h, w) of at least 3x3 for ssim, got {tuple(x.shape)} — "
            "use by='spearman'"
        )
    low, high = (
        [getattr(values, end)((1, 2), keepdim=True) for values in (x, y)]
        for end in ("amin", "amax")
    )
    a, b = (
        ((values - least) / (most - least))[:, None]
        for values, least, most in zip((x, y), low, high, strict=True)
    )
    window = min(7, *(size - 1 + size % 2 for size in x.shape[1:]))

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    correction = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    variance_sum = correction * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    covariance = correction * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    ssim = ssim / ((mean_a**2 + mean_b**2 + c1) * (variance_sum + c2))
    return ssim.mean(dim=(1, 2, 3))


def _check_pair(first: Tensor, second: Tensor) -> list[Tensor]:
    if first.shape != second.shape or first.ndim < 2:
        raise ShapeError(
            f"maps: expected two maps of the same shape (B, …), got {tuple(first.shape)} and "
            f"{tuple(second.shape)} — compare maps of the same images on one grid"
        )
    return [values.detach().cpu().double() for values in (first, second)]


def _as_mapping(maps: Any) -> Mapping[str, Tensor]:
    return maps if isinstance(maps, Mapping) else {"map": maps}
