"""Arms of the comparison of targets, and the learning rate that development seeds gave each arm.

The only file of the study that depends on the names of targets and loss weights in the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semattn.masking import (
    DescriptorWords,
    descriptor_targets,
    fit_words,
    loss_weights,
)

from .target_controls import CONTROL_TARGETS, gradient_energy, shift_counts

FIRST_FRESH_SEED = 21  # smaller seeds are development seeds
WINDOW = 16.0  # side of SIFT's window, pixels
WORDS, WORD_IMAGES = 512, 1000  # number of words, and images of the sample that they are fitted to

# Learning rates of development seed 0, as k-NN + linear probe, %. Two epochs at 2.5e-4, 5e-4, 1e-3
# and 2e-3: SIFT 62.5, 67.3, 63.9, 59.1; HOG –, 64.4, 58.9, 56.6; random filters 61.0, 54.6, 57.8,
# 49.9; pixels –, 60.3, 58.0, 60.7. Five epochs decide for pixels: –, 66.3, 67.1, 66.3. The arms
# that were not tried have the rate of the arm that they change.
RATE, PIXELS_RATE = 5e-4, 1e-3


@dataclass(frozen=True)
class TargetArm:
    """Target, loss weight and masks of an arm.

    Parameters
    ----------
    target : a target of the library, a name in `CONTROL_TARGETS`, or "words"
    weight : a loss weight of the library, "energy" or "shifted" ("keypoints-linear" of gradient
        energy, and of the keypoints of another place of the image)
    masks : a name in `acceleration.ARMS`
    learning_rate : of AdamW for a batch of 32, see `RATE` and `PIXELS_RATE`
    control : tests which property of a target causes a gain; not a method to use
    """

    target: str
    weight: str = "none"
    masks: str = "random"
    learning_rate: float = RATE
    control: bool = False

    @property
    def needs_keypoints(self) -> bool:
        """True if the weight or the masks depend on keypoints."""
        return self.weight not in ("none", "energy") or self.masks != "random"


DECISIVE = ("pixels", "SIFT", "HOG", "SIFT weighted", "random filters", "shuffled orientations")

TARGET_ARMS: dict[str, TargetArm] = {
    "pixels": TargetArm("pixels", learning_rate=PIXELS_RATE),
    "SIFT": TargetArm("sift"),
    "HOG": TargetArm("hog"),
    "SIFT weighted": TargetArm("sift", "keypoints-linear"),
    "random filters": TargetArm("random filters", learning_rate=2.5e-4, control=True),
    "shuffled orientations": TargetArm("shuffled orientations", control=True),
    "without orientations": TargetArm("without orientations", control=True),
    "other image's SIFT": TargetArm("other image", control=True),
    "blurred pixels": TargetArm("blurred pixels", learning_rate=PIXELS_RATE, control=True),
    "Sobel magnitude": TargetArm("sobel", control=True),
    "raw pixels": TargetArm("raw pixels", learning_rate=PIXELS_RATE),
    "SIFT+pixels": TargetArm("sift+pixels"),
    "SIFT+colour": TargetArm("sift+colour"),
    "words": TargetArm("words"),
    "SIFT, saturating weights": TargetArm("sift", "keypoints"),
    "SIFT, weighted by energy": TargetArm("sift", "energy", control=True),
    "SIFT, weighted by shifted keypoints": TargetArm("sift", "shifted", control=True),
    "SIFT, rich patches masked": TargetArm("sift", masks="SIFT-rich"),
    "SIFT, poor patches masked": TargetArm("sift", masks="SIFT-poor"),
    "SIFT, scheduled masks": TargetArm("sift", masks="SIFT-scheduled"),
}


def fit_arm_words(arm: TargetArm, sample: Tensor, patch_size: int, seed: int) -> Any:
    """Fit the words of an arm to a sample of images (n, 3, H, W); None for other targets."""
    if arm.target != "words":
        return None
    patches = len(sample) * (sample.shape[-1] // patch_size) ** 2
    return fit_words(
        sample, min(WORDS, patches // 4), "sift", patch_size=patch_size, window=WINDOW, seed=seed
    )


def targets_of(
    arm: TargetArm,
    images: Tensor,
    patch_size: int,
    generator: torch.Generator,
    words: DescriptorWords | None = None,
) -> Tensor:
    """Return the targets (B, P, D) of images in [0, 1], or words (B, P)."""
    if words is not None:
        return words.targets(images)
    if arm.target in CONTROL_TARGETS:
        return CONTROL_TARGETS[arm.target](images, patch_size, WINDOW, generator)
    return descriptor_targets(images, arm.target, patch_size=patch_size, window=WINDOW)


def head_length(arm: TargetArm, patch_size: int, words: DescriptorWords | None = None) -> int:
    """Return the number of values that the head predicts for a patch."""
    if words is not None:
        return len(words)
    blank = torch.zeros(2, 3, 4 * patch_size, 4 * patch_size)
    return targets_of(arm, blank, patch_size, torch.Generator()).shape[-1]


def weights_of(
    arm: TargetArm, images: Tensor, counts: Tensor | None, patch_size: int
) -> Tensor | None:
    """Return the loss weights (B, P) of images in [0, 1] with keypoint counts (B, P), or None."""
    if arm.weight == "energy":
        return loss_weights("keypoints-linear", gradient_energy(images, patch_size))
    if arm.weight != "none" and counts is None:
        raise ValueError(f"counts: expected keypoint counts for the weight {arm.weight}, got none")
    if arm.weight == "shifted":
        shape = (images.shape[-2] // patch_size, images.shape[-1] // patch_size)
        return loss_weights("keypoints-linear", shift_counts(counts, shape))
    return None if arm.weight == "none" else loss_weights(arm.weight, counts)
