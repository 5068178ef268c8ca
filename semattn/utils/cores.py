"""Number of processor cores that a process may use."""

from __future__ import annotations

import os

import torch
from torch import nn


def own_cores() -> int:
    """Return the cores of the machine, divided by the number of processes of torchrun."""
    return (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def spare_cores(model: nn.Module) -> int:
    """Return the cores that a model on the CPU leaves free; at least 1 for other devices."""
    if any(weight.device.type != "cpu" for weight in model.parameters()):
        return max(1, own_cores() - 1)
    return max(0, own_cores() - torch.get_num_threads())
