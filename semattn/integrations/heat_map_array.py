"""Attributions as the arrays of heat maps that other libraries take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MAX_CLASSES = 2**31  # the model's number of classes is checked later, with the target


def heat_map_array(attribution: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    """Sum an attribution (B, C, H, W) over channels, and return a float32 array (B, H, W)."""
    assert isinstance(attribution, Tensor)
    return attribution.detach().sum(dim=1).to("cpu", torch.float32).numpy()
