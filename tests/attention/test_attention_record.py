"""Scores of selected queries and groups, with every kind of mask, against full matrices."""

from __future__ import annotations

import pytest
import torch

from semattn.attention import AttentionSite, SiteRecord
from semattn.attention.token_map import TokenMap
from semattn.grid import PatchGrid

GROUPS, HEADS, TOKENS = 3, 2, 5


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(sum(shape)), dtype=torch.float64)


MASKS = {
    "none": None,
    "of queries and keys": _draw(TOKENS, TOKENS),
    "of keys": _draw(1, 1, 1, TOKENS),
    "of heads": _draw(1, HEADS, TOKENS, TOKENS),
    "of groups": _draw(GROUPS, 1, TOKENS, TOKENS),
    "of groups and heads": _draw(GROUPS, HEADS, TOKENS, TOKENS),
    "of groups, of keys": _draw(GROUPS, 1, 1, TOKENS),
    "boolean": (_draw(GROUPS, 1, TOKENS, TOKENS) > 0) | torch.eye(TOKENS).bool(),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("groups", [slice(None), slice(1, 3), slice(2, 9)])
def test_scores_are_scaled_products_and_masks(mask: str, causal: bool, groups: slice) -> None:
    query, key = _draw(GROUPS, HEADS, TOKENS, 4), _draw(GROUPS, HEADS, TOKENS, 4) + 1
    mask_values = MASKS[mask]
    expected = query @ key.transpose(-2, -1) * 0.7
    if mask_values is not None:
        added_scores = mask_values
        if mask_values.dtype == torch.bool:
            zeros = torch.zeros(mask_values.shape, dtype=torch.float64)
            added_scores = zeros.masked_fill(~mask_values, -torch.inf)
        expected = expected + added_scores
    if causal:
        expected = expected + torch.full((TOKENS, TOKENS), -torch.inf).triu(1)
    grid = PatchGrid((1, TOKENS), (1, TOKENS), (1, 1))
    at = TokenMap(grid, grid, GROUPS)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    fused = SiteRecord(
        site, (GROUPS, HEADS, TOKENS, TOKENS), at, at, query=query, key=key, value=key,
        mask=mask_values, causal=causal, scale=0.7,
    )  # fmt: skip
    rows = slice(1, 4)
    torch.testing.assert_close(fused.scores(rows, groups), expected[groups, :, rows])
    attention = expected.softmax(-1)
    torch.testing.assert_close(fused.attention(rows), attention[:, :, rows])
    dense = SiteRecord(site, fused.shape, at, at, dense=attention)
    scores = dense.scores(rows, groups)
    torch.testing.assert_close(scores.softmax(-1), attention[groups, :, rows])
    assert torch.equal(scores == -torch.inf, attention[groups, :, rows] == 0)
    scores.zero_()  # a new tensor, so the record does not change
    assert torch.equal(dense.attention(), attention) and dense.attention().any()
