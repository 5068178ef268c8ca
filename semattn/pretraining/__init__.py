"""Pre-training of masked autoencoders with guided masks, on transformers' model and trainer.

`pretrain` runs the complete training; `MaskedImages` is its data set, usable with other trainers.
transformers and accelerate are imported when a run starts; the extra `pretrain` installs them.
"""

from .data import EpochSampler, FixedMasks, MaskedImages, readable
from .models import SIZES, add_positions, build_model, features, load_model
from .reconstruction import Reconstruction, reconstruct
from .run import FILES, PretrainingRun, end_processes, pretrain

__all__ = [
    "FILES",
    "SIZES",
    "EpochSampler",
    "FixedMasks",
    "MaskedImages",
    "PretrainingRun",
    "Reconstruction",
    "add_positions",
    "build_model",
    "end_processes",
    "features",
    "load_model",
    "pretrain",
    "readable",
    "reconstruct",
]
