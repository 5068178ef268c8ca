"""Masks and loss weights for masked image modelling.

A policy turns the densities of images into `Masks`. `Masks` has the forms that trainers expect:
`noise` for MAE, `bool_masked_pos` for SimMIM and BEiT, `ids_keep`, `ids_restore` and `mask`. Random
numbers depend on the seed, the epoch and the image only, not on the batch or the process. This
package uses keypoints and densities; it must not import models or trainers.
"""

from .batch import densities_of, kamim_weight, loss_weights, mask_images
from .cache import KeypointCache
from .crop import Crop
from .masks import Masks, generator, num_visible
from .policies import (
    BlockwiseMasking,
    GuidedMasking,
    Masking,
    RandomMasking,
    Schedule,
    View,
    policies,
)

__all__ = [
    "BlockwiseMasking",
    "Crop",
    "GuidedMasking",
    "KeypointCache",
    "Masking",
    "Masks",
    "RandomMasking",
    "Schedule",
    "View",
    "densities_of",
    "generator",
    "kamim_weight",
    "loss_weights",
    "mask_images",
    "num_visible",
    "policies",
]
