"""Scores of some queries and groups, with every kind of mask, against whole matrices."""

from __future__ import annotations

import pytest
import torch

from semattn.attention import AttentionSite, SiteRecord
from semattn.attention.token_map import Placement
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
    "what may be seen": (_draw(GROUPS, 1, TOKENS, TOKENS) > 0) | torch.eye(TOKENS).bool(),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("groups", [slice(None), slice(1, 3), slice(2, 9)])
def test_scores_are_scaled_products_and_masks(mask: str, causal: bool, groups: slice) -> None:
    query, key = _draw(GROUPS, HEADS, TOKENS, 4), _draw(GROUPS, HEADS, TOKENS, 4) + 1
    added = MASKS[mask]
    expected = query @ key.transpose(-2, -1) * 0.7
    if added is not None:
        hidden = torch.zeros(added.shape, dtype=torch.float64).masked_fill(~added, -torch.inf) if (
            added.dtype == torch.bool
        ) else added  # fmt: skip
        expected = expected + hidden
    if causal:
        expected = expected + torch.full((TOKENS, TOKENS), -torch.inf).triu(1)
    grid = PatchGrid((1, TOKENS), (1, TOKENS), (1, 1))
    at = Placement(grid, grid, GROUPS)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    one = SiteRecord(
        site, (GROUPS, HEADS, TOKENS, TOKENS), at, at, query=query, key=key, value=key,
        mask=added, causal=causal, scale=0.7,
    )  # fmt: skip
    rows = slice(1, 4)
    torch.testing.assert_close(one.scores(rows, groups), expected[groups, :, rows])
    attention = expected.softmax(-1)
    torch.testing.assert_close(one.attention(rows), attention[:, :, rows])
    kept = SiteRecord(site, one.shape, at, at, dense=attention)
    again = kept.scores(rows, groups)
    torch.testing.assert_close(again.softmax(-1), attention[groups, :, rows])
    assert torch.equal(again == -torch.inf, attention[groups, :, rows] == 0)
    again.zero_()  # the caller's own
    assert torch.equal(kept.attention(), attention) and kept.attention().any()
