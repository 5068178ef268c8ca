"""The real model on a real photograph, against matrices that are all kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import semattn
from semattn.attention import record
from tests.models import state_of
from tests.oracles import dense_record

PHOTO = Path(__file__).parents[2] / "examples" / "flower.jpg"


@pytest.mark.weights
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_photograph_end_to_end(dtype: torch.dtype, close: float) -> None:
    model = semattn.load().to(dtype)
    before = state_of(model)
    made = semattn.SIFTPatchInterrelation(growth=0).explain(model, PHOTO)
    inputs = made.images.inputs.to(dtype)
    assert state_of(model) == before
    assert made.label(int(made.target)) == "flower"
    with torch.no_grad():
        assert torch.equal(made.logits, model(inputs))
    assert torch.equal(record(model, inputs, grad=False).logits, made.logits)

    dense = dense_record(model, inputs, made.target.tolist())
    p = made.concentration.to(dtype)
    wanted = torch.zeros_like(p)
    for attention, gradient in zip(dense.attention[6:], dense.gradient[6:], strict=True):
        row = attention[:, :, 0, 1:]
        share = 256 * torch.einsum("bhj,bj->bh", row / row.sum(-1, keepdim=True), p)
        wanted += torch.einsum("bh,bhj->bj", share, (row * gradient[:, :, 0, 1:]).relu())
    got = made.patch_map.flatten(1)
    torch.testing.assert_close(got / wanted.max(), wanted / wanted.max(), atol=close, rtol=0)

    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    bloom = ((x - 105) ** 2 + (y - 117) ** 2 < 75**2) | ((x - 160) ** 2 + (y - 224) ** 2 < 65**2)
    grown = semattn.SIFTPatchInterrelation().explain(model, PHOTO)
    for one in (made, grown):
        inside = one.heat[0][bloom].sum() / one.heat[0].sum()
        assert inside > 1.5 * bloom.float().mean(), "the evidence for the flower lies on the flower"
    spread = [one.patch_map.std() / one.patch_map.mean() for one in (made, grown)]
    assert spread[1] < spread[0], "growth evens the relevance out"
