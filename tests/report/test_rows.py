"""What a report keeps of attention, against the attention itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semattn.attention import record
from semattn.attention.token_map import Placement
from semattn.grid import PatchGrid
from semattn.report.rows import attention, choose, decode, encode, gather, lattice
from tests import families, models
from tests.report.pages import rows_of

ROOM = 10**7
ERROR = 1.01 / 255  # of the greatest of a row


def test_a_byte_a_number_is_off_by_little_and_by_less_where_attention_is_small():
    values = torch.rand(50, 300, generator=torch.manual_seed(0)).pow(6)
    values[3] = 0
    found = torch.from_numpy(decode(*encode(values))).float()
    off = (found - values).abs() / values.amax(-1, keepdim=True).clamp(min=1e-9)
    assert off.max() <= ERROR
    assert off.max() > 0.5 * ERROR, "a bound that is never come near to says nothing"
    small = values < 1e-3 * values.amax(-1, keepdim=True)
    assert off[small].max() < 0.1 * ERROR
    assert (found[3] == 0).all()


@pytest.mark.parametrize("name", ["class-token", "registers", "gap", "rope", "unfused"])
def test_rows_of_plain_models_are_the_dense_attention(name):
    taken = record(models.build(name), models.images(1), grad="last")
    part = attention(taken, taken.grid, ROOM)
    assert part["all"] and "mean" not in part
    assert part["prefix"] == taken.grid.prefix
    rows, layers = rows_of(part, "heads")
    assert rows == list(range(taken.grid.tokens))
    for number, found in enumerate(layers):
        dense = taken.dense(number)[0].numpy()
        assert (np.abs(found - dense) <= ERROR * dense.max(-1, keepdims=True)).all()
        assert dense.std() > 1e-3


@pytest.mark.parametrize("name", ["swin", "pvt-v2", "mvit-v2", "levit", "torchvision-swin"])
def test_rows_of_other_families_are_reduced_from_one_token(name):
    taken = record(families.build(name), models.images(1), grad="last")
    rows, layers = rows_of(attention(taken, taken.grid, ROOM), "heads")
    own = [one for one in taken.sites if one.site.kind == "self" and one.queries_at is not None]
    assert len(layers) == len(own) >= 3
    for one, found in zip(own, layers, strict=True):
        for token in {0, rows[len(rows) // 2], rows[-1]}:
            alone = torch.zeros(1, taken.grid.tokens)
            alone[0, token] = 1
            expected = one.reduce(alone)[0].numpy()
            assert (
                np.abs(found[:, token] - expected) <= ERROR * expected.max(-1, keepdims=True)
            ).all()


def test_a_coarser_grid_gets_means_over_its_queries_and_sums_over_its_keys():
    taken = record(families.build("swin"), models.images(1), grad=False)
    fine = taken.grid
    h, w = fine.shape
    coarse = replace(fine, shape=(h // 2, w // 2), cell=(2 * fine.cell[0], 2 * fine.cell[1]))
    shown = Placement(fine, coarse, 1)
    one = taken.sites[0]
    found = gather(one, shown, torch.arange(coarse.tokens))
    every = gather(one, Placement(fine, fine, 1), torch.arange(fine.tokens))
    blocks = every.reshape(-1, h // 2, 2, w // 2, 2, h // 2, 2, w // 2, 2)
    expected = blocks.mean((2, 4)).sum((-3, -1)).reshape(found.shape)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found.sum(-1)))


def test_in_pieces_or_at_once_is_the_same(monkeypatch):
    taken = record(families.build("swin"), models.images(1), grad=False)
    shown = Placement(taken.grid, taken.grid, 1)
    queries = torch.arange(0, taken.grid.tokens, 5)
    whole = gather(taken.sites[1], shown, queries)
    monkeypatch.setattr("semattn.report.rows.PIECE", 1)
    torch.testing.assert_close(gather(taken.sites[1], shown, queries), whole)


@pytest.mark.parametrize("most", [1, 5, 11, 40, 130, 255, 256])
def test_the_lattice_is_even_and_within_its_number(most):
    grid = PatchGrid((16, 16), (224, 224), (14, 14))
    chosen = lattice(grid, most)
    assert 0 < len(chosen) <= most
    rows, columns = ({n // 16 for n in chosen}, {n % 16 for n in chosen})
    assert len(chosen) == len(rows) * len(columns) == len(set(chosen))
    for axis in (rows, columns):
        steps = set(np.diff(sorted(axis)))
        assert len(steps) <= 1
        assert max(axis) + (steps or {16}).pop() // 2 >= 15 - 16 // len(axis)
    assert most < 256 or len(chosen) == 256


def test_no_patch_fits_no_room():
    assert lattice(PatchGrid((4, 4), (64, 64), (16, 16)), 0) == []
    taken = record(models.build("class-token"), models.images(1), grad="last")
    assert attention(taken, taken.grid, 10) is None


@pytest.mark.parametrize("room", [3_000_000, 11_000_000, 30_000_000])
def test_what_is_chosen_keeps_to_the_room(room):
    grid = PatchGrid((37, 37), (518, 518), (14, 14), prefix=1)
    heads = [12] * 12
    single, means = choose(grid, heads, room)
    row = grid.tokens * 4 / 3
    assert row * (len(single) * sum(heads) + len(means) * len(heads)) <= room
    assert 0 in single and 0 in means, "the class token comes first"
    assert len(means) > 2 * len(single) > 0
    assert row * 4 * (len(single) * sum(heads) + len(means) * len(heads)) > room, "and uses it"


def test_the_means_are_those_of_the_heads():
    taken = record(models.build("class-token"), models.images(1), grad="last")
    dense = [taken.dense(layer)[0] for layer in range(4)]
    everything = 13 * 8 * ((13 + 4) * 4 / 3 + 8)
    part = attention(taken, taken.grid, int(0.7 * everything))
    assert not part["all"]
    rows, means = rows_of(part, "mean")
    assert rows[0] == 0
    assert 5 < len(rows) < 13
    for found, expected in zip(means, dense, strict=True):
        mean = expected.mean(0)[rows].numpy()
        assert (np.abs(found[0] - mean) <= ERROR * mean.max(-1, keepdims=True)).all()
    few, heads = rows_of(part, "heads")
    assert few[0] == 0
    assert 1 < len(few) < len(rows)
    wide = attention(taken, taken.grid, int(everything) - 1)
    assert not wide["all"] and "mean" not in wide, "means of the same rows follow from the heads"
    for found, expected in zip(heads, dense, strict=True):
        some = expected[:, few].numpy()
        assert (np.abs(found - some) <= ERROR * some.max(-1, keepdims=True)).all()
