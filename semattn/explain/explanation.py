"""`Explanation`: the result of an explainer for a batch of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..grid import PatchGrid
from ..images import Images
from ..keypoints import Keypoints
from ..targets import OutputMeaning


@dataclass(frozen=True)
class Explanation:
    """Heat maps of a batch of images, with the data that they were computed from.

    `heat_map` (B,H,W) is the map on pixels and `patch_map` (B,h,w) the map on patches, both
    non-negative and unnormalised. `concentration` (B,P) is the keypoint concentration p, float64 on
    the CPU, with rows that sum to 1. `target` (B,) holds the explained classes; it is None if the
    explained output is not a class, and `target_description` then describes it. `notes` are
    sentences that a reader of the map must know. `attribution` (B,C,H,W) is set by methods that
    distinguish channels, and sums to `heat_map`; Captum's methods may return negative values.
    `output` is the meaning of the model's output.
    """

    heat_map: Tensor
    patch_map: Tensor
    images: Images
    keypoints: list[Keypoints]
    concentration: Tensor
    grid: PatchGrid
    logits: Tensor
    target: Tensor | None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    attribution: Tensor | None = None
    target_description: str = ""
    output: OutputMeaning = field(default_factory=OutputMeaning)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.heat_map)

    @property
    def outputs(self) -> int:
        """The number of outputs per image."""
        return 1 if self.logits.ndim == 1 else self.logits.shape[1]

    def label(self, number: int) -> str:
        """Return the name of output `number`, or the number if the model has no class names.

        The single output of a binary model has the name of its positive answer.
        """
        binary = self.output.is_binary(self.outputs)
        return self.output.label(1 if binary else number, self.classes, self.outputs)

    def answer_label(self, number: int) -> str:
        """Return the name of answer `number`: a class, or the negative or positive answer."""
        return self.output.label(number, self.classes, self.outputs)

    def predicted(self) -> Tensor | None:
        """Return the predicted answer of each image, (B,); None for features and regressions."""
        return self.output.predicted(self.logits.detach())

    def share_text(self, index: int, answer: int) -> str:
        """Return the probability of an answer as text, "93.1 %", or its value if it has none."""
        return self.output.share_text(self.logits[index], answer)

    def target_answer(self, index: int) -> int | None:
        """Return the explained answer of image `index`; None if it is not a class."""
        if self.target is None:
            return None
        return 1 if self.output.is_binary(self.outputs) else int(self.target[index])
