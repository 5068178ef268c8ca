"""`AttributionRequest`, the input of an explainer for one batch, and `Maps`, its result."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..attention import AttentionRecord, record
from ..attention.model_call import as_arguments
from ..attention.target import Target
from ..errors import UnsupportedModelError
from ..images import Images
from ..keypoints import Keypoints


@dataclass(frozen=True)
class AttributionRequest:
    """Input of an explainer for one batch: model, inputs and target, and the images for display.

    `pending_keypoints` is the running keypoint detection, None if no keypoints are needed.
    `readout` is "score" or "output", as for `semattn.record`.
    """

    model: nn.Module
    inputs: Tensor
    target: Target
    extra: Any
    images: Images
    pending_keypoints: Future[list[Keypoints]] | None
    sites: Sequence[str] | None = None
    readout: str = "score"

    @property
    def extra_args(self) -> tuple[Any, ...]:
        """The arguments of the model after its images."""
        return as_arguments(self.extra)

    def record(self, **options: Any) -> AttentionRecord:
        """Run `semattn.record` with `options` on this batch, and check that logits are finite."""
        arguments = {
            "target": self.target,
            "additional_forward_args": self.extra_args,
            "sites": self.sites,
            "readout": self.readout,
        } | options
        attention = record(self.model, arguments.pop("inputs", self.inputs), **arguments)
        check_finite("model output", attention.logits)
        return attention

    def keypoints(self) -> list[Keypoints]:
        """Wait for the keypoints of each image; an empty list if none are needed."""
        return self.pending_keypoints.result() if self.pending_keypoints else []


@dataclass(frozen=True)
class Maps:
    """Result of an explainer: a value per patch (B, P), and per pixel (B, H, W).

    `attribution` (B, C, H, W) is set by methods that distinguish channels; it sums to `heat_map`
    over the channels. `notes` are sentences that a reader of the map must know.
    """

    record: AttentionRecord
    concentration: Tensor
    patches: Tensor
    heat_map: Tensor
    attribution: Tensor | None = None
    notes: tuple[str, ...] = ()


def check_finite(name: str, values: Tensor) -> None:
    """Raise UnsupportedModelError for NaN or infinity in `values` (B, …)."""
    is_finite = values.isfinite().reshape(len(values), -1).all(dim=1)
    not_finite = (~is_finite).nonzero().flatten().tolist()
    if not_finite:
        raise UnsupportedModelError(
            f"{name}: expected finite numbers, got NaN or infinity for image {not_finite[0]} — "
            "check the model's weights, or run it in float32"
        )
