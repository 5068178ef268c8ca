"""Tests of the attention rows of a report against the recorded attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semattn.attention import record
from semattn.attention.token_map import TokenMap
from semattn.grid import PatchGrid
from semattn.report.attention_rows import attention, choose, decode, encode, gather, lattice
from tests import families, models
from tests.report.pages import rows_of

MAX_BYTES = 10**7
MAX_ERROR = 1.01 / 255  # relative to the maximum of a row


def test_the_error_of_encoded_values_is_small():
    values = torch.rand(50, 300, generator=torch.manual_seed(0)).pow(6)
    values[3] = 0
    decoded = torch.from_numpy(decode(*encode(values))).float()
    relative_error = (decoded - values).abs() / values.amax(-1, keepdim=True).clamp(min=1e-9)
    assert relative_error.max() <= MAX_ERROR
    assert relative_error.max() > 0.5 * MAX_ERROR, "the bound is tight"
    small = values < 1e-3 * values.amax(-1, keepdim=True)
    assert relative_error[small].max() < 0.1 * MAX_ERROR
    assert (decoded[3] == 0).all()


@pytest.mark.parametrize("name", ["class-token", "registers", "gap", "rope", "unfused"])
def test_rows_of_plain_models_match_the_dense_attention(name):
    attention_record = record(models.build(name), models.images(1), grad="last")
    part = attention(attention_record, attention_record.grid, MAX_BYTES)
    assert part["all"] and "mean" not in part
    assert part["prefix"] == attention_record.grid.prefix
    rows, layers = rows_of(part, "heads")
    assert rows == list(range(attention_record.grid.tokens))
    for number, heads in enumerate(layers):
        dense = attention_record.dense(number)[0].numpy()
        assert (np.abs(heads - dense) <= MAX_ERROR * dense.max(-1, keepdims=True)).all()
        assert dense.std() > 1e-3


@pytest.mark.parametrize("name", ["swin", "pvt-v2", "mvit-v2", "levit", "torchvision-swin"])
def test_rows_of_other_families_match_the_attention_of_one_token(name):
    attention_record = record(families.build(name), models.images(1), grad="last")
    rows, layers = rows_of(attention(attention_record, attention_record.grid, MAX_BYTES), "heads")
    sites = [
        site
        for site in attention_record.sites
        if site.site.kind == "self" and site.queries_at is not None
    ]
    assert len(layers) == len(sites) >= 3
    for site, heads in zip(sites, layers, strict=True):
        for token in {0, rows[len(rows) // 2], rows[-1]}:
            one_token = torch.zeros(1, attention_record.grid.tokens)
            one_token[0, token] = 1
            expected = site.reduce(one_token)[0].numpy()
            assert (
                np.abs(heads[:, token] - expected) <= MAX_ERROR * expected.max(-1, keepdims=True)
            ).all()


def test_a_coarser_grid_averages_queries_and_sums_keys():
    attention_record = record(families.build("swin"), models.images(1), grad=False)
    fine = attention_record.grid
    h, w = fine.shape
    coarse = replace(fine, shape=(h // 2, w // 2), cell=(2 * fine.cell[0], 2 * fine.cell[1]))
    placement = TokenMap(fine, coarse, 1)
    site = attention_record.sites[0]
    coarse_rows = gather(site, placement, torch.arange(coarse.tokens))
    fine_rows = gather(site, TokenMap(fine, fine, 1), torch.arange(fine.tokens))
    blocks = fine_rows.reshape(-1, h // 2, 2, w // 2, 2, h // 2, 2, w // 2, 2)
    expected = blocks.mean((2, 4)).sum((-3, -1)).reshape(coarse_rows.shape)
    torch.testing.assert_close(coarse_rows, expected)
    torch.testing.assert_close(coarse_rows.sum(-1), torch.ones_like(coarse_rows.sum(-1)))


def test_the_result_does_not_depend_on_the_piece_size(monkeypatch):
    attention_record = record(families.build("swin"), models.images(1), grad=False)
    placement = TokenMap(attention_record.grid, attention_record.grid, 1)
    queries = torch.arange(0, attention_record.grid.tokens, 5)
    expected = gather(attention_record.sites[1], placement, queries)
    monkeypatch.setattr("semattn.report.attention_rows.PIECE", 1)
    torch.testing.assert_close(gather(attention_record.sites[1], placement, queries), expected)


@pytest.mark.parametrize("limit", [1, 5, 11, 40, 130, 255, 256])
def test_the_lattice_is_regular_and_within_its_limit(limit):
    grid = PatchGrid((16, 16), (224, 224), (14, 14))
    patches = lattice(grid, limit)
    assert 0 < len(patches) <= limit
    rows, columns = ({n // 16 for n in patches}, {n % 16 for n in patches})
    assert len(patches) == len(rows) * len(columns) == len(set(patches))
    for axis in (rows, columns):
        steps = set(np.diff(sorted(axis)))
        assert len(steps) <= 1
        assert max(axis) + (steps or {16}).pop() // 2 >= 15 - 16 // len(axis)
    assert limit < 256 or len(patches) == 256


def test_no_rows_without_room():
    assert lattice(PatchGrid((4, 4), (64, 64), (16, 16)), 0) == []
    attention_record = record(models.build("class-token"), models.images(1), grad="last")
    assert attention(attention_record, attention_record.grid, 10) is None


@pytest.mark.parametrize("room", [3_000_000, 11_000_000, 30_000_000])
def test_selected_rows_fit_the_room(room):
    grid = PatchGrid((37, 37), (518, 518), (14, 14), prefix=1)
    heads = [12] * 12
    single, means = choose(grid, heads, room)
    row = grid.tokens * 4 / 3
    assert row * (len(single) * sum(heads) + len(means) * len(heads)) <= room
    assert 0 in single and 0 in means, "the class token comes first"
    assert len(means) > 2 * len(single) > 0
    assert row * 4 * (len(single) * sum(heads) + len(means) * len(heads)) > room, "the room is used"


def test_means_match_the_mean_over_heads():
    attention_record = record(models.build("class-token"), models.images(1), grad="last")
    dense = [attention_record.dense(layer)[0] for layer in range(4)]
    everything = 13 * 8 * ((13 + 4) * 4 / 3 + 8)
    part = attention(attention_record, attention_record.grid, int(0.7 * everything))
    assert not part["all"]
    rows, means = rows_of(part, "mean")
    assert rows[0] == 0
    assert 5 < len(rows) < 13
    for mean_rows, expected in zip(means, dense, strict=True):
        mean = expected.mean(0)[rows].numpy()
        assert (np.abs(mean_rows[0] - mean) <= MAX_ERROR * mean.max(-1, keepdims=True)).all()
    head_tokens, heads = rows_of(part, "heads")
    assert head_tokens[0] == 0
    assert 1 < len(head_tokens) < len(rows)
    wide = attention(attention_record, attention_record.grid, int(everything) - 1)
    assert not wide["all"] and "mean" not in wide, "means of the same rows follow from the heads"
    for mean_rows, expected in zip(heads, dense, strict=True):
        expected_rows = expected[:, head_tokens].numpy()
        assert (
            np.abs(mean_rows - expected_rows) <= MAX_ERROR * expected_rows.max(-1, keepdims=True)
        ).all()
