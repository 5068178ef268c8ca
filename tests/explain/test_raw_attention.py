"""The last layer's attention against the matrix itself."""

from __future__ import annotations

import pytest
import torch

from semattn import RawAttention
from semattn.attention import record
from tests.models import build, images
from tests.oracles import dense_record, readout

CASES = {"class-token": (1, True), "registers": (5, True), "gap": (0, False), "rope": (1, False)}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_mean_over_heads_of_the_row(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    dense = dense_record(model, x, [0, 0]).attention
    row = readout(dense_record(model, x, [0, 0], whole_output=True))
    assert class_token == bool((row[:, 0] == 1).all())
    for layers, chosen in ((None, dense[3:]), ([0, 2], [dense[0], dense[2]])):
        wanted = torch.stack([torch.einsum("bi,bhij->bj", row, one) / 2 for one in chosen]).mean(0)
        got = RawAttention(layers=layers).patch_map(model, x).flatten(1)
        torch.testing.assert_close(got, wanted[:, prefix:], atol=1e-12, rtol=1e-9)


def test_an_attention_pool_is_the_last_layer() -> None:
    model, x = build("attention-pool", torch.float64), images(dtype=torch.float64)
    pool = record(model, x, grad=False).sites[-1]
    got = RawAttention().patch_map(model, x).flatten(1)
    torch.testing.assert_close(got, pool.attention().mean(1)[:, 0])
