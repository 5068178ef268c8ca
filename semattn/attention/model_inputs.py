"""Device and dtype that a model expects of its images.

Models may mix dtypes (norm layers in float32 among bfloat16 blocks) and devices (layers that are
offloaded to the CPU or to the meta device), so a single parameter is not enough to decide.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FIRST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def move_to_model(model: nn.Module, inputs: Tensor, *, prepared: bool = False) -> Tensor:
    """Return `inputs` on the device and in the dtype that `model` expects.

    If all floating-point parameters share a device, the inputs are moved to it; if they share a
    dtype, the inputs are cast to it. In a model that mixes devices or dtypes, a tensor of the
    caller keeps its own, and inputs that semattn prepared from images follow the first convolution
    or linear layer, which is the patch embedding.

    Parameters
    ----------
    model : a vision transformer
    inputs : (B, C, H, W)
    prepared : whether semattn prepared `inputs` from images (`Images.prepared`)

    Examples
    --------
    >>> mixed = nn.Sequential(nn.Linear(2, 2).half(), nn.LayerNorm(2))
    >>> x = torch.zeros(1, 2)
    >>> move_to_model(mixed, x).dtype, move_to_model(mixed, x, prepared=True).dtype
    (torch.float32, torch.float16)
    """
    weights = [weight for weight in model.parameters() if _is_input_dtype(weight)]
    devices = {weight.device for weight in weights if not weight.is_meta}
    dtypes = {weight.dtype for weight in weights}
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
    """Return the device of the first convolution or linear layer; the CPU without any weights."""
    weights = [_first_weight(model), *model.parameters()]
    devices = [weight.device for weight in weights if weight is not None and not weight.is_meta]
    return devices[0] if devices else torch.device("cpu")


def _first_weight(model: nn.Module) -> Tensor | None:
    """Return the first floating-point weight of a convolution or linear layer, if there is one."""
    for module in model.modules():
        if isinstance(module, _FIRST_LAYERS) and _is_input_dtype(module.weight):
            return module.weight
    return None


def _is_input_dtype(weight: Tensor) -> bool:
    """Return whether inputs can have this dtype; 8-bit floats only store weights."""
    return weight.is_floating_point() and weight.dtype.itemsize > 1
