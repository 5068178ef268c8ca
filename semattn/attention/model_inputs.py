"""Device and dtype that a model expects of its images.

Models may mix precisions (norm layers in float32 among bfloat16 blocks) and devices (layers that
are offloaded to the CPU or to the meta device), so one parameter does not speak for all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FIRST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def move_to_model(model: nn.Module, inputs: Tensor, *, prepared: bool = False) -> Tensor:
    """Return `inputs` on the device and in the dtype that `model` expects.

    Where all floating-point parameters share a device, the inputs are moved there; where they share
    a dtype, the inputs are cast to it. In a model that mixes devices or dtypes the caller's own
    tensor stays as it is in that respect, and inputs that semattn prepared from pictures follow the
    first convolution or linear layer, which is the patch embedding.

    Parameters
    ----------
    model : a vision transformer
    inputs : (B, C, H, W)
    prepared : whether semattn made `inputs` from pictures (`Images.prepared`)

    Examples
    --------
    >>> mixed = nn.Sequential(nn.Linear(2, 2).half(), nn.LayerNorm(2))
    >>> x = torch.zeros(1, 2)
    >>> move_to_model(mixed, x).dtype, move_to_model(mixed, x, prepared=True).dtype
    (torch.float32, torch.float16)
    """
    weights = [one for one in model.parameters() if _is_plain_float(one)]
    devices = {one.device for one in weights if not one.is_meta}
    dtypes = {one.dtype for one in weights}
    first = _first_weight(model) if prepared and max(len(devices), len(dtypes)) > 1 else None
    device, dtype = inputs.device, inputs.dtype
    if len(devices) == 1:
        (device,) = devices
    elif first is not None and not first.is_meta:
        device = first.device
    if len(dtypes) == 1:
        (dtype,) = dtypes
    elif first is not None:
        dtype = first.dtype
    return inputs.to(device=device, dtype=dtype)


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the first convolution or linear layer; the CPU where nothing tells."""
    weights = [_first_weight(model), *model.parameters()]
    devices = [one.device for one in weights if one is not None and not one.is_meta]
    return devices[0] if devices else torch.device("cpu")


def _first_weight(model: nn.Module) -> Tensor | None:
    """Weight of the first convolution or linear layer in the order of modules, if it has floats."""
    for module in model.modules():
        if isinstance(module, _FIRST_LAYERS) and _is_plain_float(module.weight):
            return module.weight
    return None


def _is_plain_float(weight: Tensor) -> bool:
    """Return whether inputs can have this dtype; 8-bit floats only store weights."""
    return weight.is_floating_point() and weight.dtype.itemsize > 1
