"""The processors that a process may take."""

from __future__ import annotations

import os

import torch
from torch import nn


def own_cores() -> int:
    """The share of this process in the machine's; torchrun says how many processes share it."""
    return (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def spare_cores(model: nn.Module) -> int:
    """Those that a model leaves of them; one at least for a model that runs elsewhere."""
    if any(weight.device.type != "cpu" for weight in model.parameters()):
        return max(1, own_cores() - 1)
    return max(0, own_cores() - torch.get_num_threads())
