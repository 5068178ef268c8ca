"""Raw attention against the full attention matrix."""

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
    attention = dense_record(model, x, [0, 0]).attention
    row = readout(dense_record(model, x, [0, 0], whole_output=True))
    assert class_token == bool((row[:, 0] == 1).all())
    for layers, selected in ((None, attention[3:]), ([0, 2], [attention[0], attention[2]])):
        expected = torch.stack(
            [torch.einsum("bi,bhij->bj", row, layer_attention) / 2 for layer_attention in selected]
        ).mean(0)
        actual = RawAttention(layers=layers).patch_map(model, x).flatten(1)
        torch.testing.assert_close(actual, expected[:, prefix:], atol=1e-12, rtol=1e-9)


def test_an_attention_pool_is_the_last_layer() -> None:
    model, x = build("attention-pool", torch.float64), images(dtype=torch.float64)
    pool = record(model, x, grad=False).sites[-1]
    actual = RawAttention().patch_map(model, x).flatten(1)
    torch.testing.assert_close(actual, pool.attention().mean(1)[:, 0])
