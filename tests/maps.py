"""Maps of every explainer on tiny models, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from semattn import explainers
from semattn.errors import SemattnError

TARGET = 1
TOLERANCE = 1e-5  # of the maximum of the expected map

# Options that make a method quick on tiny models.
QUICK: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"n_steps": 3},
    "smooth-grad": {"nt_samples": 2},
    "occlusion": {"window": (16, 16), "stride": (16, 16)},
    "transition-attention": {"steps": 3},
}
CONTROLS = ("keypoint-density", "random", "center")  # ignore the model
METHODS = [name for name in explainers if name not in CONTROLS]


def patch_map(
    name: str, model: nn.Module, x: Tensor, target: Any = TARGET, **options: Any
) -> Tensor:
    """Return the map (B, h, w) of an explainer."""
    return explainers[name](**QUICK.get(name, {}), **options).patch_map(model, x, target=target)


def difference(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest expected value."""
    value, expected = value.detach(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def assert_same(value: Tensor, expected: Tensor) -> None:
    """Fail unless two maps agree to `TOLERANCE`."""
    assert value.shape == expected.shape
    apart = difference(value, expected)
    assert apart <= TOLERANCE, f"differs by {apart:.1e}"


def attempt(function: Callable[[], Tensor]) -> tuple[Tensor, None] | tuple[None, SemattnError]:
    """Return the value of a function, or the error by which semattn refuses."""
    try:
        return function(), None
    except SemattnError as error:
        return None, error
