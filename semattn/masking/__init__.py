"""Masks, targets and loss weights for masked image modelling.

A policy turns the densities of images into `Masks`. `Masks` has the forms that trainers expect:
`noise` for MAE, `bool_masked_pos` for SimMIM and BEiT, `ids_keep`, `ids_restore` and `mask`. Random
numbers depend on the seed, the epoch and the image only, not on the batch or the process.
`descriptor_targets` computes what the masked patches are predicted as, `patch_targets` the same
for normalised inputs, `masked_target_loss` the loss. This package uses keypoints and densities; it
must not import models or trainers.
"""

from .batch import densities_of, mask_images
from .cache import KeypointCache
from .crop import Crop
from .dense_descriptors import dense_colour, dense_hog, dense_rootsift, normalised_pixels
from .descriptor_targets import descriptor_targets, split_parts, target_length, target_parts
from .descriptor_words import DescriptorWords, fit_words, load_words
from .masks import Masks, generator, num_visible
from .patch_targets import output_length, patch_targets
from .policies import (
    BlockwiseMasking,
    GuidedMasking,
    Masking,
    RandomMasking,
    Schedule,
    View,
    policies,
)
from .target_loss import LOSS_WEIGHTS, kamim_weight, loss_weights, masked_target_loss

__all__ = [
    "LOSS_WEIGHTS",
    "BlockwiseMasking",
    "Crop",
    "DescriptorWords",
    "GuidedMasking",
    "KeypointCache",
    "Masking",
    "Masks",
    "RandomMasking",
    "Schedule",
    "View",
    "dense_colour",
    "dense_hog",
    "dense_rootsift",
    "densities_of",
    "descriptor_targets",
    "fit_words",
    "generator",
    "kamim_weight",
    "load_words",
    "loss_weights",
    "mask_images",
    "masked_target_loss",
    "normalised_pixels",
    "num_visible",
    "output_length",
    "patch_targets",
    "policies",
    "split_parts",
    "target_length",
    "target_parts",
]
