"""Device and dtype of the inputs of a model, also if its parts have different ones."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from semattn import Preprocessing, SIFTPatchInterrelation
from semattn.attention.model_call import model_device, move_to_model
from semattn.images import pixels_of
from semattn.utils.processes import spare_cores
from tests.accelerator import DEVICE
from tests.models import SIZE, build, images

OWN = Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3)
X = torch.zeros(1, 3)


class Parts(nn.Module):
    """Class token, first layer and norm, each with its own device and dtype."""

    def __init__(self, token, layer, norm):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3, **token))
        self.layer, self.norm = nn.Linear(3, 3).to(**layer), nn.LayerNorm(3).to(**norm)


def on(device="cpu", dtype=torch.float32):
    return {"device": device, "dtype": dtype}


half, bf16, f8 = torch.float16, torch.bfloat16, torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("parts", "raw", "prepared"),
    [
        ((on(), on(), on()), ("cpu", torch.float32), ("cpu", torch.float32)),
        ((on(dtype=half),) * 3, ("cpu", half), ("cpu", half)),
        ((on(DEVICE, half),) * 3, (DEVICE, half), (DEVICE, half)),
        # The first parameter, and norm layers, in another precision than the first layer.
        ((on(dtype=bf16), on(), on()), ("cpu", torch.float32), ("cpu", torch.float32)),
        ((on(), on(dtype=bf16), on()), ("cpu", torch.float32), ("cpu", bf16)),
        ((on(DEVICE), on(DEVICE, bf16), on(DEVICE)), (DEVICE, torch.float32), (DEVICE, bf16)),
        # Some parts on the CPU, or on the meta device until they are needed.
        ((on(), on(DEVICE), on(DEVICE)), ("cpu", torch.float32), (DEVICE, torch.float32)),
        ((on(DEVICE), on(), on()), ("cpu", torch.float32), ("cpu", torch.float32)),
        ((on("meta"), on(DEVICE), on(DEVICE)), (DEVICE, torch.float32), (DEVICE, torch.float32)),
        ((on("meta", half),) * 3, ("cpu", half), ("cpu", half)),
        ((on(DEVICE), on("meta"), on()), ("cpu", torch.float32), ("cpu", torch.float32)),
        # Inputs never have the dtype of weights that are stored in 8 bits.
        ((on(), on(dtype=f8), on()), ("cpu", torch.float32), ("cpu", torch.float32)),
    ],
)  # fmt: skip
def test_where_images_go(parts, raw, prepared):
    model = Parts(*parts)
    for expected, options in ((raw, {}), (prepared, {"prepared": True})):
        moved = move_to_model(model, X, **options)
        assert (moved.device, moved.dtype) == (torch.device(expected[0]), expected[1])


def test_a_tensor_on_the_accelerator_stays_there():
    model, x = Parts(on(), on(DEVICE), on(DEVICE)), X.to(DEVICE)
    assert move_to_model(model, x) is x
    assert move_to_model(nn.Identity(), x, prepared=True) is x


def test_the_device_of_a_model_is_that_of_its_first_layer():
    assert model_device(Parts(on(), on(DEVICE), on())) == DEVICE
    assert model_device(Parts(on(DEVICE), on("meta"), on())) == DEVICE
    assert model_device(nn.Identity()) == torch.device("cpu")


def test_a_model_with_a_part_elsewhere_leaves_a_core(monkeypatch):
    monkeypatch.setattr("semattn.utils.processes.own_cores", torch.get_num_threads)
    assert spare_cores(Parts(on(), on(), on())) == 0
    for parts in ((on(), on(), on(DEVICE)), (on("meta"),) * 3):
        assert spare_cores(Parts(*parts)) >= 1


def test_a_model_whose_first_parameter_has_another_precision_is_explained():
    model, x = build("class-token"), images()
    pictures = [Image.fromarray(pixels) for pixels in pixels_of(x)]
    method = SIFTPatchInterrelation(model, preprocessing=OWN)
    expected = [method.attribute(inputs, target=[1, 2]) for inputs in (x, pictures)]
    model.cls_token.data = model.cls_token.data.bfloat16()
    assert next(model.parameters()).dtype == bf16
    for inputs, values in zip((x, pictures), expected, strict=True):
        torch.testing.assert_close(
            method.attribute(inputs, target=[1, 2]), values, rtol=0.05, atol=1e-4
        )


def test_blocks_in_half_precision_with_norms_in_float32_are_explained():
    model, x = build("class-token"), images()
    method = SIFTPatchInterrelation(model, preprocessing=OWN)
    expected = method.patch_map(x, target=1)
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear):
            module.to(bf16)
            module.register_forward_pre_hook(lambda _, args: (args[0].to(bf16),))
            module.register_forward_hook(lambda *args: args[2].float())
    actual = method.patch_map(x, target=1)
    assert torch.corrcoef(torch.stack([actual.flatten(), expected.flatten()]))[0, 1] > 0.98
    pictures = [Image.fromarray(pixels) for pixels in pixels_of(x)]
    assert method.attribute(pictures, target=1).isfinite().all()


def test_an_offloaded_model_is_explained():
    accelerate = pytest.importorskip("accelerate")
    model, x = build("class-token"), images()
    method = SIFTPatchInterrelation(model, preprocessing=OWN)
    expected = method.attribute(x, target=1)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert next(model.parameters()).is_meta
    torch.testing.assert_close(method.attribute(x, target=1), expected)
