"""Generic relevance against the update of full matrices."""

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
    reference = dense_record(model, x, TARGET)
    row, matrix = readout(reference), generic_relevance(reference)
    assert class_token == bool((row[:, 0] == 1).all())
    expected = (torch.einsum("bi,bij->bj", row, matrix) - row)[:, prefix:]
    actual = GenericRelevance().patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=1e-9)


def test_relevance_starts_at_an_attention_pool() -> None:
    model, x = build("attention-pool", torch.float64), images(dtype=torch.float64)
    attention_record = record(model, x, target=TARGET)
    matrices = [
        (site.attention() * site.attention_gradient()).relu().mean(1)
        for site in attention_record.sites
    ]
    expected = matrices[-1][:, 0]
    for matrix in reversed(matrices[:-1]):
        expected = expected + torch.einsum("bi,bij->bj", expected, matrix)
    actual = GenericRelevance().patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual, expected)
