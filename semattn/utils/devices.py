"""Choice of the device that a model runs on, and the name of it that a user recognises.

This module imports neither models nor images.
"""

from __future__ import annotations

import torch

AUTO = "auto"


def resolve_device(device: str | torch.device = AUTO) -> torch.device:
    """Return a device of this machine.

    Parameters
    ----------
    device : name of a device; "auto" is CUDA if there is one, else MPS (Apple), else the CPU

    Raises
    ------
    ValueError
        For a device that this machine lacks, or on which no tensor can be created.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    name = best_device() if device == AUTO else device
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: expected a device of this machine, got {str(name)!r} — --device cpu always "
            "works"
        ) from error
    return torch.device(name)


def best_device() -> str:
    """Return the type of the fastest kind of device: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """Return the name of a device for a user, with the product name of a CUDA device.

    Examples
    --------
    >>> device_name(torch.device("cpu"))
    'cpu'
    """
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
