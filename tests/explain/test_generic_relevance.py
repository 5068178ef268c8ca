"""Generic relevance against the update of whole matrices."""

from __future__ import annotations

import pytest
import torch

from semattn import GenericRelevance
from semattn.attention import record
from tests.models import build, images
from tests.oracles import dense_record, generic_relevance, readout

TARGET = [1, 3]
CASES = {"class-token": (1, True), "registers": (5, True), "gap": (0, False), "rope": (1, False)}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_oracle(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    dense = dense_record(model, x, TARGET)
    row, whole = readout(dense), generic_relevance(dense)
    assert class_token == bool((row[:, 0] == 1).all())
    wanted = (torch.einsum("bi,bij->bj", row, whole) - row)[:, prefix:]
    got = GenericRelevance().patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(got, wanted, atol=1e-14, rtol=1e-9)


def test_an_attention_pool_gives_the_row_to_start_with() -> None:
    model, x = build("attention-pool", torch.float64), images(dtype=torch.float64)
    taken = record(model, x, target=TARGET)
    bars = [(one.attention() * one.attention_gradient()).relu().mean(1) for one in taken.sites]
    wanted = bars[-1][:, 0]
    for bar in reversed(bars[:-1]):
        wanted = wanted + torch.einsum("bi,bij->bj", wanted, bar)
    got = GenericRelevance().patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(got, wanted)
