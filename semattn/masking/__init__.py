"""Masks for masked image modelling: which patches are hidden, and how much each one counts.

A policy turns the densities of images into `Masks`, which hold what trainers take: `noise` for MAE,
`bool_masked_pos` for SimMIM and BEiT, `ids_keep`, `ids_restore` and `mask`. What is drawn by chance
depends on the seed, the epoch and the image alone, never on its batch or its process. Knows
keypoints and densities; knows nothing of models or trainers.
"""

from .cache import KeypointCache
from .crop import Crop
from .guided import GuidedMasking, Schedule
from .images import densities_of, mask_images
from .masks import Masks, generator, kept
from .policies import BlockwiseMasking, Masking, RandomMasking, View, policies
from .weights import kamim_weight, loss_weights

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
    "kept",
    "loss_weights",
    "mask_images",
    "policies",
]
