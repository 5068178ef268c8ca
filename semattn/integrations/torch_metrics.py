"""Metrics of maps as metrics of torchmetrics.

They can be updated batch by batch, combined in a `MetricCollection`, logged by Lightning, and
merged over processes. This module imports torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingPackageError
from ..evaluation.measures import map_functions, measures
from ..metrics.faithfulness import Curves
from ..utils.registry import unknown_name_message

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise MissingPackageError(
        "map_metric: expected torchmetrics, got none — pip install torchmetrics"
    ) from error


class MapMetric(Metric):
    """Metric whose state is the value of each image; `map_metric` creates the right subclass.

    Parameters
    ----------
    name : name of the metric, as in `semattn bench`
    per_image : whether `compute` returns the values of all images, not their mean
    options : options of the function of the metric
    settings : settings of `torchmetrics.Metric`, such as `dist_sync_on_step`
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self, name: str, *, per_image: bool = False, options: dict[str, Any], **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.name, self.per_image, self.options = name, per_image, options
        self.function: Callable[..., Tensor] = map_functions[name][1]
        # A collection shares the states of metrics that have equal names and, after the first
        # batch, equal values. The name of the state therefore names the metric and its options.
        self.state = "_".join(["values", name, *(f"{key}_{options[key]}" for key in options)])
        self.add_state(self.state, default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool:
        """Return whether higher values are better."""
        return bool(measures[self.name].higher_is_better)

    def add(self, *inputs: Any) -> None:
        """Compute and store the values of a batch."""
        values = self.function(*inputs, **self.options)
        getattr(self, self.state).append(values.to(self.device, torch.float32))

    def compute(self) -> Tensor:
        """Return the mean over the images whose value is defined, NaN if there are none."""
        parts = getattr(self, self.state)
        parts = [parts] if isinstance(parts, Tensor) else parts  # a tensor after a merge
        values = torch.cat([torch.empty(0, device=self.device), *parts])
        if self.per_image:
            return values
        return values.cpu().double().nanmean().to(self.device, torch.float32)


class LocalizationMetric(MapMetric):
    """Metric of a map and the mask of the object."""

    def update(self, heat_map: Tensor, mask: Tensor) -> None:
        """Add a batch: maps (B, H, W), and bool masks (B, H, W), true on the object."""
        self.add(heat_map, mask)


class FaithfulnessMetric(MapMetric):
    """Metric of the deletion and insertion curves of a map."""

    def update(self, curve: Curves) -> None:
        """Add a batch: the result of `semattn.metrics.faithfulness.curves`."""
        self.add(curve)


class SparsenessMetric(MapMetric):
    """Metric of a map alone."""

    def update(self, patch_map: Tensor) -> None:
        """Add a batch: maps on patches (B, h, w)."""
        self.add(patch_map)


_CLASSES: dict[str, type[MapMetric]] = {
    "heat_map, mask": LocalizationMetric,
    "curve": FaithfulnessMetric,
    "patch_map": SparsenessMetric,
}


def map_metric(
    name: str, *, per_image: bool = False, tolerance: int | None = None, **settings: Any
) -> MapMetric:
    """Return a metric of maps for torchmetrics.

    Parameters
    ----------
    name : "ap", "pointing", "energy", "auroc", "iou-mean" or "iou-area", which are updated with
        ``(heat_map, mask)``; "insertion-deletion", "insertion", "deletion", "lerf-morf" or "aopc",
        with ``(curve)``; "gini" or "complexity", with ``(patch_map)``
    per_image : whether `compute` returns the values of all images, (N,), not their mean. Undefined
        values, such as those of an empty mask, are NaN, and do not count for the mean
    tolerance : of "pointing", in pixels
    settings : settings of `torchmetrics.Metric`, such as `dist_sync_on_step`

    Notes
    -----
    The state is one float32 number for each image, which is concatenated over processes. A
    `DistributedSampler` repeats images to fill the last batch; these count twice.

    Examples
    --------
    >>> metric = map_metric("pointing", tolerance=1)
    >>> mask = torch.tensor([[[True, False, False]], [[True, False, False]]])
    >>> metric.update(torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]), mask)
    >>> metric.compute()
    tensor(0.5000)
    """
    if name not in map_functions:
        raise ValueError(unknown_name_message("metric", name, map_functions))
    if tolerance is not None and name != "pointing":
        raise ValueError(f"tolerance: expected the metric 'pointing', got {name!r} — leave it out")
    options = {} if tolerance is None else {"tolerance": tolerance}
    return _CLASSES[map_functions[name][0]](name, per_image=per_image, options=options, **settings)
