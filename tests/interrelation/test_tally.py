from __future__ import annotations

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.density import Scene, concentration, count, strata
from semattn.grid import PatchGrid
from semattn.images import Preprocessing
from semattn.interrelation import Analysis, analyze, load_analysis
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.analysis_files import AnalysisFileError
from semattn.interrelation.exact import MAX_VALUE, ExactSum
from semattn.interrelation.nulls import Pool, keys_of, patch_distributions
from semattn.interrelation.outliers import find_outliers
from semattn.keypoints import detect
from tests import models
from tests.models import images

PREPARED = Preprocessing(models.SIZE, (0.5,) * 3, (0.5,) * 3)
REAL = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(deadline=None)
@given(st.lists(REAL, min_size=1, max_size=20), st.randoms())
def test_sums_are_exact_in_any_order(values, chance):
    one, other = ExactSum.zeros((1,)), ExactSum.zeros((1,))
    for value in values:
        one.add(np.array([value]))
    chance.shuffle(values)
    half = len(values) // 2
    if half:
        other.add(np.array(values[:half]), np.ones((1, half), np.int64))
    rest = ExactSum.zeros((1,))
    for value in values[half:]:
        rest.add(np.array([value]))
    other.merge(rest)
    assert (one.high, one.low) == (other.high, other.low)
    truth = sum(map(Fraction, values))
    assert abs(Fraction(float(one.value()[0])) - truth) <= len(values) * Fraction(1, 2**51) + abs(
        truth
    ) * Fraction(1, 2**52)


def test_a_sum_refuses_what_it_cannot_hold():
    for wrong in (np.nan, np.inf, MAX_VALUE):
        with pytest.raises(ValueError, match="values: expected finite numbers below"):
            ExactSum.zeros((1,)).add(np.array([wrong]))
    with pytest.raises(ValueError, match="times: expected sums below"):
        ExactSum.zeros((1, 1)).add(np.ones((2, 1)), np.full((1, 2), 2000))


@pytest.fixture(scope="module")
def model():
    return models.build("registers")


def arrays(found: Analysis):
    return found.tally.arrays()


def test_parts_merge_exactly_in_any_order_and_grouping(model):
    many = images(9, seed=3)
    parts = [analyze(model, list(many[start : start + 3]), pool=0) for start in (0, 3, 6)]
    whole = arrays(parts[0].merge(parts[1]).merge(parts[2]))
    for a, b, c in itertools.permutations(parts):
        for made in (a.merge(b).merge(c), a.merge(b.merge(c))):
            assert made.images == 9
            for name, values in arrays(made).items():
                assert np.array_equal(values, whole[name]), name
    assert parts[0].images == 3  # they are as they were


def test_the_order_of_parts_leaves_no_trace(model, tmp_path):
    """The first part has no null `other`, since its pool is too small."""
    many = images(8, seed=3)
    first, second = analyze(model, list(many[:2])), analyze(model, list(many[2:]))
    texts, files = [], []
    for number, whole in enumerate((first.merge(second), second.merge(first))):
        file = tmp_path / f"{number}.npz"
        whole.save(file)
        files.append(file.read_bytes())
        texts.append(json.dumps([whole.table(), whole.summary()["findings"]]))
    assert "expected_other" in texts[0] and texts[0] == texts[1]
    assert files[0] == files[1]


def test_batches_of_any_size_are_one_pass(model):
    many = images(7, seed=3)
    whole = analyze(model, many, batch_size=7)
    for size in (1, 2, 5):
        parts = analyze(model, many, batch_size=size)
        for name in whole.figures:
            np.testing.assert_allclose(parts.mean(name), whole.mean(name), rtol=1e-5, atol=1e-6)
        for null in ("shifted", "other", "permuted"):
            one, other = (each.against("alignment", null) for each in (parts, whole))
            np.testing.assert_allclose(one["expected"], other["expected"], rtol=1e-5)
    generated = analyze(model, (one for one in many), batch_size=7)
    assert all(
        np.array_equal(values, arrays(whole)[name]) for name, values in arrays(generated).items()
    )


def test_memory_does_not_grow_with_images(model):
    few, more = (analyze(model, images(count, seed=3)) for count in (4, 24))
    size = [sum(one.nbytes for one in arrays(found).values()) for found in (few, more)]
    assert size[0] == size[1]


def test_other_models_and_settings_do_not_merge(model):
    many = images(3)
    one = analyze(model, many)
    with pytest.raises(ValueError, match="analysis: expected the same model.*options"):
        one.merge(analyze(model, many, seed=1))
    with pytest.raises(ValueError, match="weights_sha256"):
        one.merge(analyze(models.build("registers", seed=1), many))


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    found = analyze(model, [*images(3), np.zeros((8, 8, 3), np.uint8)], preprocessing=PREPARED)
    assert [one.name for one in found.skipped] == ["image 3"]
    file = found.save(tmp_path / "new" / "a.npz")
    again = load_analysis(file)
    assert (again.grid, again.skipped, again.manifest) == (
        found.grid,
        found.skipped,
        found.manifest,
    )
    for name, values in arrays(found).items():
        assert np.array_equal(values, arrays(again)[name])
    assert [path.name for path in file.parent.iterdir()] == ["a.npz"]
    with np.load(file, allow_pickle=False) as opened:
        assert all(opened[name].dtype != object for name in opened.files)
    whole = file.read_bytes()
    for wrong in (b"", whole[:200], b"PK nothing", np.lib.format.magic(1, 0)):
        file.write_bytes(wrong)
        with pytest.raises(AnalysisFileError, match="file: expected an analysis, got") as error:
            load_analysis(file)
        assert "\n" not in str(error.value)
    with pytest.raises(AnalysisFileError):
        load_analysis(tmp_path / "nowhere.npz")


def test_intervals_come_from_images_and_need_ten(model):
    many = images(16, seed=3)
    few = analyze(model, many[:9])
    assert np.isnan(few.interval("alignment")).all()
    found = analyze(model, many)
    low, high = found.interval("alignment")
    mean = found.mean("alignment")
    assert ((low < mean) & (mean < high)).all()
    alone = np.stack([analyze(model, one[None], draws=2).mean("alignment") for one in many])
    np.testing.assert_allclose(alone.mean(0), mean, rtol=1e-5)
    error = alone.std(0, ddof=1) / 4
    np.testing.assert_allclose((high - low) / (2 * 1.96 * error), 1, atol=0.35)
    assert np.isnan(analyze(model, many, replicates=0).interval("alignment")).all()


def test_a_table_has_plain_columns_of_one_length(model):
    found = analyze(model, images(3))
    table = found.table()
    assert len({len(column) for column in table.values()}) == 1
    kinds = {type(value) for column in table.values() for value in column}
    assert kinds <= {str, int, float, bool, type(None)}
    layers, heads = found.mean("alignment").shape
    assert table["figure"].count("alignment") == layers * heads
    assert table["figure"].count("lift") == layers * heads * 9
    row = table["figure"].index("entropy")
    assert table["z_shifted"][row] is None and table["mean"][row] > 0
    with pytest.raises(
        ValueError, match="figure: unknown name 'alignmnt' — did you mean 'alignment'"
    ):
        found.mean("alignmnt")
    with pytest.raises(
        ValueError, match="null: expected one of shifted, permuted, other|null: exp"
    ):
        found.against("alignment", "nothing")


# Nulls


def scene(count_: int, seed: int = 0) -> Scene:
    grid = PatchGrid((6, 8), (96, 128), (16, 16), 1)
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 255, (count_, 12, 16, 3), dtype=np.uint8)
    pixels = small.repeat(8, axis=1).repeat(8, axis=2)
    return Scene(pixels, detect(pixels), grid, 0)


def drawn(made: Scene, draws: int = 4, pool: Pool | None = None):
    s = count(made)
    keep = torch.ones_like(s).bool()
    return patch_distributions(concentration(s), strata(s), keep, made, draws, pool)


def pool_of(made: Scene, s: torch.Tensor, most: int = 10) -> Pool:
    """The first images of a scene."""
    pool = Pool(most)
    every = list(zip(keys_of(made), concentration(s), strata(s), strict=True))
    for key, *one in every[:most]:
        pool.enter(key, *one)
    return pool


def test_draws_are_the_images_own_whatever_its_batch():
    whole = scene(3)
    s = count(whole)
    pool = pool_of(whole, s)
    every = drawn(whole, pool=pool)
    for i in range(3):
        alone = drawn(
            Scene(whole.pixels[i : i + 1], whole.keypoints[i : i + 1], whole.grid), pool=pool
        )
        assert torch.equal(alone.weights[0], every.weights[i])
        assert torch.equal(alone.strata[0], every.strata[i])


def test_shifted_moves_permuted_shuffles_other_takes_others():
    made = scene(4)
    s = count(made)
    p = concentration(s)
    pool = pool_of(made, s)
    found = drawn(made, draws=5, pool=pool)
    assert found.weights.shape[1] == 2 + 5 + 3 + 5 and set(found.nulls) == {
        "shifted",
        "other",
        "permuted",
    }
    for i in range(4):
        assert torch.equal(found.weights[i, 0], p[i])
        assert torch.allclose(found.weights[i, 1], p[i])
        moved = found.weights[i, found.nulls["shifted"]]
        rolls = torch.stack(
            [p[i].reshape(6, 8).roll((y, x), (0, 1)).flatten() for y in range(6) for x in range(8)]
        )
        amounts = [int((rolls == one).all(1).nonzero()[0]) for one in moved]
        assert len(set(amounts)) == 5 and 0 not in amounts
        mixed = found.weights[i, found.nulls["permuted"]]
        assert all(torch.equal(one.sort().values, p[i].sort().values) for one in mixed)
        others = {
            int((p == one).all(1).nonzero()[0]) for one in found.weights[i, found.nulls["other"]]
        }
        assert others == {0, 1, 2, 3} - {i}
    assert torch.allclose(found.weights.sum(-1), torch.ones(4, 15, dtype=torch.float64))
    groups = found.strata[0, found.nulls["permuted"]][0]
    high = groups == 2
    assert found.weights[0, found.nulls["permuted"]][0][high].min() >= p[0][strata(s)[0] == 0].max()


def test_without_a_pool_of_three_there_is_no_other():
    made = scene(2)
    s = count(made)
    pool = pool_of(made, s)
    assert set(drawn(made, pool=pool).nulls) == {"shifted", "permuted"}


def test_planted_attention_is_told_from_every_null():
    found = analyze(models.build("class-token"), images(12, seed=3))
    planted = Tally(((0, 1),), 0)
    own = np.full((12, 1, 1), 1.5)
    draws = np.random.default_rng(0).normal(1, 0.1, (12, 1, 1, 3))
    planted._add_null("alignment/shifted", own, draws)
    test = planted.against("alignment", "shifted")
    assert test["p_value"][0, 0] < 1e-6 and test["z"][0, 0] > 5
    assert test["expected"][0, 0] == pytest.approx(draws.mean(), rel=1e-9)
    # worked out by hand: sum of differences over the root of the sum of variances times 1 + 1/R
    variance = draws.var(axis=3, ddof=1).sum() * (1 + 1 / 3)
    assert test["z"][0, 0] == pytest.approx(
        (own[:, 0, 0] - draws.mean(3)[:, 0, 0]).sum() / variance**0.5
    )
    assert found.against("alignment", "shifted")["significant"].dtype == bool


def test_uniform_attention_has_no_significance():
    model = models.UniformAttention().eval()
    found = analyze(model, images(6, seed=3))
    for null in found.nulls("alignment"):
        test = found.against("alignment", null)
        assert np.isnan(test["z"]).all() and not test["significant"].any()
        np.testing.assert_allclose(test["expected"], 1, rtol=1e-5)


# Outliers, and the model that is left as it was


def test_a_long_token_is_an_outlier_where_nothing_is():
    norms = 1 + 0.01 * torch.arange(12.0).repeat(2, 1)
    norms[:, 5] = 9
    groups = torch.zeros(2, 12, dtype=torch.int8)
    groups[1, 5] = 2
    flagged = find_outliers(norms, groups)
    assert flagged[0].nonzero().flatten().tolist() == [5] and not flagged[1].any()


def test_planted_outliers_change_the_figures_that_leave_them_out(monkeypatch):
    model = models.build("class-token")
    plain = analyze(model, images(3, seed=3))
    lengthen = model.blocks[-1].register_forward_hook(
        lambda _m, _i, out: torch.cat([out[:, :1], 50 * out[:, 1:2], out[:, 2:]], 1)
    )
    try:
        from semattn.interrelation import study

        monkeypatch.setattr(
            study,
            "strata",
            lambda s, seed: torch.where(torch.arange(s.shape[1]) == 0, 0, strata(s, seed)).to(
                torch.int8
            ),
        )
        long = analyze(model, images(3, seed=3))
    finally:
        lengthen.remove()
    assert long.mean("outlier_mass").min() > 0 and (plain.mean("outlier_mass") == 0).all()
    assert np.allclose(plain.mean("alignment"), plain.mean("alignment_without_outliers"))
    assert not np.allclose(long.mean("alignment"), long.mean("alignment_without_outliers"))


def test_the_model_is_left_as_it_was_also_when_it_raises():
    model = models.build("registers")
    before = models.state_of(model)
    analyze(model, images(3))
    assert models.state_of(model) == before
    stop = model.blocks[2].register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("no"))
    )
    during = models.state_of(model)
    with pytest.raises(RuntimeError, match="no"):
        analyze(model, images(3))
    assert models.state_of(model) == during
    stop.remove()


def test_an_image_that_the_model_has_no_finite_answer_to_is_left_out():
    model = models.build("class-token")
    many = images(4, seed=3)
    spoil = model.register_forward_hook(
        lambda _m, given, out: torch.where(
            (given[0] == many[2]).flatten(1).all(1)[:, None], torch.nan, out
        )
    )
    found = analyze(model, many)
    spoil.remove()
    assert found.images == 3
    assert [(one.name, "finite" in one.reason) for one in found.skipped] == [("image 2", True)]
    alone = analyze(model, many[[0, 1, 3]])
    np.testing.assert_allclose(found.mean("alignment"), alone.mean("alignment"), rtol=1e-5)


def test_two_threads_with_one_model_agree_with_one_after_the_other():
    from concurrent.futures import ThreadPoolExecutor

    model = models.build("registers")
    sets = [images(4, seed=seed) for seed in (3, 4)]
    alone = [arrays(analyze(model, one)) for one in sets]
    with ThreadPoolExecutor(2) as pool:
        together = [arrays(one) for one in pool.map(lambda one: analyze(model, one), sets)]
    for expected, found in zip(alone, together, strict=True):
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_large_batches_are_added_in_parts(model, monkeypatch):
    from semattn.interrelation import accumulate as tally

    many = images(5, seed=3)
    whole = arrays(analyze(model, many, batch_size=5))
    monkeypatch.setattr(tally, "_MAX_IMAGES_AT_ONCE", 2)
    parts = arrays(analyze(model, many, batch_size=5))
    assert all(np.array_equal(values, parts[name]) for name, values in whole.items())


def test_every_shift_but_none_is_drawn_when_all_are_asked_for():
    made = scene(1)
    p = concentration(count(made))[0]
    found = drawn(made, draws=100)
    moved = found.weights[0, found.nulls["shifted"]]
    assert len(moved) == 6 * 8 - 1
    picture = p.reshape(6, 8)
    every = {
        tuple(picture.roll((y, x), (0, 1)).flatten().tolist()) for y in range(6) for x in range(8)
    }
    assert {tuple(one.tolist()) for one in moved} | {tuple(p.tolist())} == every
    assert not any(torch.equal(one, p) for one in moved)


def test_a_pool_has_each_image_once_no_blank_one_and_not_too_many():
    made = scene(5)
    keys = keys_of(made)
    p, groups = concentration(count(made)), strata(count(made))
    groups[1] = 0
    pool = Pool(3)
    for i in (0, 1, 2, 0, 3):
        pool.enter(keys[i], p[i], groups[i])
    assert list(pool.entries) == [keys[i] for i in (0, 2, 3)]
    pool.enter(keys[4], p[4], groups[4])  # the first one goes
    assert list(pool.entries) == [keys[i] for i in (2, 3, 4)]
    weights, drawn = pool.draw(np.random.default_rng(0), keys[3], 9)
    for found, every in ((weights, p), (drawn, groups)):
        assert {tuple(one.tolist()) for one in found} == {tuple(every[i].tolist()) for i in (2, 4)}


def test_images_draw_from_those_before_them_in_whatever_batch_they_come():
    made = scene(7)
    s = count(made)
    p, groups, keep = concentration(s), strata(s), torch.ones_like(s).bool()
    together, alone = pool_of(made, s, 3), pool_of(made, s, 3)
    every = patch_distributions(p, groups, keep, made, 2, together)
    others = every.weights[:, every.nulls["other"]]
    for i in range(7):
        one = slice(i, i + 1)
        single = Scene(made.pixels[one], made.keypoints[one], made.grid)
        found = patch_distributions(p[one], groups[one], keep[one], single, 2, alone)
        assert torch.equal(found.weights[0, found.nulls["other"]], others[i])
        drawn = {int((p == each).all(1).nonzero()[0]) for each in others[i]}
        assert drawn == ({0, 1, 2} - {i} if i < 3 else {i - 1, i - 2})


def test_the_second_distribution_is_without_what_is_left_out():
    made = scene(1)
    s = count(made)
    p = concentration(s)
    keep = torch.ones_like(s).bool()
    keep[0, :5] = False
    found = patch_distributions(p, strata(s), keep, made, 2, None)
    assert (found.weights[0, 1, :5] == 0).all()
    torch.testing.assert_close(found.weights[0, 1, 5:], p[0, 5:] / p[0, 5:].sum())
    assert torch.equal(found.weights[0, 0], p[0]) and torch.equal(found.keep, keep)
    assert found.nulls == {"shifted": slice(2, 4), "permuted": slice(4, 6)}
