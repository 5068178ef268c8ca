"""Masked autoencoders pre-trained with guided masks: transformers' model and trainer, our masks.

`pretrain` is the whole run; `MaskedImages` is its data set, for other trainers. transformers and
accelerate are imported when a run starts, and are the extra `pretrain`.
"""

from .data import FixedMasks, MaskedImages, Order, readable
from .models import SIZES, build_model, features
from .positions import add_positions
from .reconstruction import Reconstruction, reconstruct
from .run import FILES, Pretrained, pretrain

__all__ = [
    "FILES",
    "SIZES",
    "FixedMasks",
    "MaskedImages",
    "Order",
    "Pretrained",
    "Reconstruction",
    "add_positions",
    "build_model",
    "features",
    "pretrain",
    "readable",
    "reconstruct",
]
