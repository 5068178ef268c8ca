"""What an explanation is, once it is made."""

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
    """A map of a batch of images, with all that it was made from.

    `heat` (B,H,W) is the map on pixels and `patch_map` (B,h,w) the same on patches, both
    non-negative and unnormalised; `concentration` (B,P) is the density p, float64 on the CPU,
    rows summing to 1;
    `target` (B,) holds the explained classes, None where it is no class that was explained;
    `explains` then says what, in a few words. `notes` are sentences that a reader must know.
    `attribution` (B,C,H,W) is set by methods that tell the channels apart, and sums to `heat`;
    those of Captum may be negative. `output` says what the model's output is.
    """

    heat: Tensor
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
    explains: str = ""
    output: OutputMeaning = field(default_factory=OutputMeaning)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.heat)

    @property
    def outputs(self) -> int:
        """The number of outputs of an image."""
        return 1 if self.logits.ndim == 1 else self.logits.shape[1]

    def label(self, number: int) -> str:
        """The name of output `number`, or the number where the model names no classes.

        The one output of a binary model has the name of its positive answer.
        """
        binary = self.output.is_binary(self.outputs)
        return self.output.label(1 if binary else number, self.classes, self.outputs)

    def answer_label(self, number: int) -> str:
        """The name of answer `number`: of a class, or of the negative or positive answer."""
        return self.output.label(number, self.classes, self.outputs)

    def predicted(self) -> Tensor | None:
        """The predicted answer of each image, (B,); None for features and plain numbers."""
        return self.output.predicted(self.logits.detach())

    def share_text(self, index: int, answer: int) -> str:
        """The share of an answer as a text: "93.1 %", or the number where it has no share."""
        return self.output.share_text(self.logits[index], answer)

    def target_answer(self, index: int) -> int | None:
        """The answer that was explained of image `index`; None where it was no class."""
        if self.target is None:
            return None
        return 1 if self.output.is_binary(self.outputs) else int(self.target[index])
