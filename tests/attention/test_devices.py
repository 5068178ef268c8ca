"""Recording and steering on the device of the model, also in half precision."""

from __future__ import annotations

import pytest
import torch

from semattn import SIFTPatchInterrelation
from semattn.attention import record, steer
from tests.models import MODELS, build, devices, images


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", MODELS)
def test_every_device_gives_the_map_of_the_cpu(name: str, device: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    expected = SIFTPatchInterrelation().attribute(model, x, target=[1, 3])
    model = model.to(device)
    plain = model(x.to(device)).detach()
    recorded = record(model, x.to(device), target=[1, 3])
    torch.testing.assert_close(recorded.logits, plain)
    got = SIFTPatchInterrelation().attribute(model, x, target=[1, 3])
    assert got.device.type == device
    torch.testing.assert_close(
        got.cpu() / expected.max(), expected / expected.max(), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", ["class-token", "relative-bias", "rope", "attention-pool"])
def test_half_precision_keeps_the_map(name: str, device: str, dtype: torch.dtype) -> None:
    x = images()
    exact = SIFTPatchInterrelation().attribute(build(name), x, target=1)
    rough = SIFTPatchInterrelation().attribute(build(name).to(device, dtype), x, target=1)
    assert (rough.cpu() - exact).norm() < 0.15 * exact.norm()


@pytest.mark.parametrize("device", devices())
def test_checkpointing_and_steering_hold_on_every_device(device: str) -> None:
    model, x = build("registers").to(device), images().to(device)
    bias = torch.randn(2, 17, generator=torch.manual_seed(0)).to(device)
    with steer(model, bias):
        expected = record(model, x, target=1)
        model.set_grad_checkpointing(True)
        recorded = record(model, x, target=1)
    for expected_site, site in zip(expected.sites, recorded.sites, strict=True):
        torch.testing.assert_close(expected_site.gradient, site.gradient, atol=1e-5, rtol=1e-3)
