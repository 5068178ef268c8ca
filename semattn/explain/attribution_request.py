"""One batch on its way through a method, and the maps that come out of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..attention import AttentionRecord, record
from ..attention.target import Target
from ..errors import UnsupportedModelError
from ..images import Images
from ..keypoints import Keypoints


@dataclass(frozen=True)
class Run:
    """One batch on its way through a method: what the model gets, and what a person sees of it."""

    model: nn.Module
    inputs: Tensor
    target: Target
    extra: Any
    images: Images
    found: Future[list[Keypoints]] | None
    sites: Sequence[str] | None = None
    readout: str = "score"

    @property
    def extra_args(self) -> tuple[Any, ...]:
        """What the model takes after its images."""
        if self.extra is None:
            return ()
        return self.extra if isinstance(self.extra, tuple) else (self.extra,)

    def record(self, **options: Any) -> AttentionRecord:
        """`semattn.record` of this run; options as there."""
        chosen = {
            "target": self.target,
            "additional_forward_args": self.extra_args,
            "sites": self.sites,
            "readout": self.readout,
        } | options
        taken = record(self.model, chosen.pop("inputs", self.inputs), **chosen)
        check_finite("model output", taken.logits)
        return taken

    def keypoints(self) -> list[Keypoints]:
        """Those of each image, once they are found; none if nothing asked for them."""
        return self.found.result() if self.found else []


@dataclass(frozen=True)
class Maps:
    """What a method makes of a run: one number a patch (B, P), and one a pixel (B, H, W).

    `attribution` (B, C, H, W) is set by a method that tells the channels apart; it sums to `heat`.
    `notes` are sentences that a reader of the map must know.
    """

    taken: AttentionRecord
    concentration: Tensor
    patches: Tensor
    heat: Tensor
    attribution: Tensor | None = None
    notes: tuple[str, ...] = ()


def check_finite(name: str, values: Tensor) -> None:
    """Raise UnsupportedModelError for NaN or infinity in `values` (B, …)."""
    finite = values.isfinite().reshape(len(values), -1).all(dim=1)
    broken = (~finite).nonzero().flatten().tolist()
    if broken:
        raise UnsupportedModelError(
            f"{name}: expected finite numbers, got NaN or infinity for image {broken[0]} — "
            "check the model's weights, or run it in float32"
        )
