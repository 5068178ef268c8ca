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
from semattn.interrelation.accumulate import MAX_VALUE, ExactSum, Tally
from semattn.interrelation.analysis_files import AnalysisFileError
from semattn.interrelation.nulls import (
    ConcentrationPool,
    find_outliers,
    image_keys,
    patch_distributions,
)
from semattn.keypoints import detect
from tests import models
from tests.models import images

PREPARED = Preprocessing(models.SIZE, (0.5,) * 3, (0.5,) * 3)
REAL = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(deadline=None)
@given(st.lists(REAL, min_size=1, max_size=20), st.randoms())
def test_sums_are_exact_in_any_order(values, rng):
    total, merged = ExactSum.zeros((1,)), ExactSum.zeros((1,))
    for value in values:
        total.add(np.array([value]))
    rng.shuffle(values)
    half = len(values) // 2
    if half:
        merged.add(np.array(values[:half]), np.ones((1, half), np.int64))
    second_half = ExactSum.zeros((1,))
    for value in values[half:]:
        second_half.add(np.array([value]))
    merged.merge(second_half)
    assert (total.high, total.low) == (merged.high, merged.low)
    exact = sum(map(Fraction, values))
    assert abs(Fraction(float(total.value()[0])) - exact) <= len(values) * Fraction(1, 2**51) + abs(
        exact
    ) * Fraction(1, 2**52)


def test_a_sum_refuses_values_out_of_range():
    for invalid in (np.nan, np.inf, MAX_VALUE):
        with pytest.raises(ValueError, match="values: expected finite numbers below"):
            ExactSum.zeros((1,)).add(np.array([invalid]))
    with pytest.raises(ValueError, match="times: expected sums below"):
        ExactSum.zeros((1, 1)).add(np.ones((2, 1)), np.full((1, 2), 2000))


@pytest.fixture(scope="module")
def model():
    return models.build("registers")


def arrays(analysis: Analysis):
    return analysis.tally.arrays()


def test_parts_merge_exactly_in_any_order_and_grouping(model):
    inputs = images(9, seed=3)
    parts = [analyze(model, list(inputs[start : start + 3]), pool_size=0) for start in (0, 3, 6)]
    expected = arrays(parts[0].merge(parts[1]).merge(parts[2]))
    for first, second, third in itertools.permutations(parts):
        for merged in (first.merge(second).merge(third), first.merge(second.merge(third))):
            assert merged.images == 9
            for name, values in arrays(merged).items():
                assert np.array_equal(values, expected[name]), name
    assert parts[0].images == 3  # the parts are unchanged


def test_merging_does_not_depend_on_the_order(model, tmp_path):
    """Merge parts of which the first has no null `other`, because its pool is too small."""
    inputs = images(8, seed=3)
    first, second = analyze(model, list(inputs[:2])), analyze(model, list(inputs[2:]))
    texts, files = [], []
    for number, merged in enumerate((first.merge(second), second.merge(first))):
        file = tmp_path / f"{number}.npz"
        merged.save(file)
        files.append(file.read_bytes())
        texts.append(json.dumps([merged.table(), merged.summary()["findings"]]))
    assert "expected_other" in texts[0] and texts[0] == texts[1]
    assert files[0] == files[1]


def test_the_batch_size_does_not_change_the_analysis(model):
    inputs = images(7, seed=3)
    single_batch = analyze(model, inputs, batch_size=7)
    for size in (1, 2, 5):
        batched = analyze(model, inputs, batch_size=size)
        for name in single_batch.metrics:
            np.testing.assert_allclose(
                batched.mean(name), single_batch.mean(name), rtol=1e-5, atol=1e-6
            )
        for null in ("shifted", "other", "permuted"):
            actual, expected = (
                analysis.against("alignment", null) for analysis in (batched, single_batch)
            )
            np.testing.assert_allclose(actual["expected"], expected["expected"], rtol=1e-5)
    generated = analyze(model, (image for image in inputs), batch_size=7)
    assert all(
        np.array_equal(values, arrays(single_batch)[name])
        for name, values in arrays(generated).items()
    )


def test_memory_does_not_grow_with_images(model):
    few, many = (analyze(model, images(count, seed=3)) for count in (4, 24))
    sizes = [sum(array.nbytes for array in arrays(analysis).values()) for analysis in (few, many)]
    assert sizes[0] == sizes[1]


def test_other_models_and_settings_do_not_merge(model):
    inputs = images(3)
    analysis = analyze(model, inputs)
    with pytest.raises(ValueError, match="analysis: expected the same model.*options"):
        analysis.merge(analyze(model, inputs, seed=1))
    with pytest.raises(ValueError, match="weights_sha256"):
        analysis.merge(analyze(models.build("registers", seed=1), inputs))


def test_saving_and_loading_is_lossless(model, tmp_path):
    analysis = analyze(model, [*images(3), np.zeros((8, 8, 3), np.uint8)], preprocessing=PREPARED)
    assert [skipped.name for skipped in analysis.skipped] == ["image 3"]
    file = analysis.save(tmp_path / "new" / "a.npz")
    loaded = load_analysis(file)
    assert (loaded.grid, loaded.skipped, loaded.manifest) == (
        analysis.grid,
        analysis.skipped,
        analysis.manifest,
    )
    for name, values in arrays(analysis).items():
        assert np.array_equal(values, arrays(loaded)[name])
    assert [path.name for path in file.parent.iterdir()] == ["a.npz"]
    with np.load(file, allow_pickle=False) as opened:
        assert all(opened[name].dtype != object for name in opened.files)
    content = file.read_bytes()
    for damaged in (b"", content[:200], b"PK nothing", np.lib.format.magic(1, 0)):
        file.write_bytes(damaged)
        with pytest.raises(AnalysisFileError, match="file: expected an analysis, got") as error:
            load_analysis(file)
        assert "\n" not in str(error.value)
    with pytest.raises(AnalysisFileError):
        load_analysis(tmp_path / "nowhere.npz")


def test_intervals_come_from_images_and_need_ten(model):
    inputs = images(16, seed=3)
    few = analyze(model, inputs[:9])
    assert np.isnan(few.interval("alignment")).all()
    analysis = analyze(model, inputs)
    low, high = analysis.interval("alignment")
    mean = analysis.mean("alignment")
    assert ((low < mean) & (mean < high)).all()
    single = np.stack([analyze(model, image[None], n_null=2).mean("alignment") for image in inputs])
    np.testing.assert_allclose(single.mean(0), mean, rtol=1e-5)
    standard_error = single.std(0, ddof=1) / 4
    np.testing.assert_allclose((high - low) / (2 * 1.96 * standard_error), 1, atol=0.35)
    assert np.isnan(analyze(model, inputs, n_bootstrap=0).interval("alignment")).all()


def test_a_table_has_plain_columns_of_one_length(model):
    analysis = analyze(model, images(3))
    table = analysis.table()
    assert len({len(column) for column in table.values()}) == 1
    kinds = {type(value) for column in table.values() for value in column}
    assert kinds <= {str, int, float, bool, type(None)}
    layers, heads = analysis.mean("alignment").shape
    assert table["metric"].count("alignment") == layers * heads
    assert table["metric"].count("lift") == layers * heads * 9
    row = table["metric"].index("entropy")
    assert table["z_shifted"][row] is None and table["mean"][row] > 0
    with pytest.raises(
        ValueError, match="metric: unknown name 'alignmnt' — did you mean 'alignment'"
    ):
        analysis.mean("alignmnt")
    with pytest.raises(
        ValueError, match="null: expected one of shifted, permuted, other|null: exp"
    ):
        analysis.against("alignment", "nothing")


# Nulls


def scene(n_images: int, seed: int = 0) -> Scene:
    grid = PatchGrid((6, 8), (96, 128), (16, 16), 1)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (n_images, 12, 16, 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=1).repeat(8, axis=2)
    return Scene(pixels, detect(pixels), grid, 0)


def draw_distributions(images: Scene, n_draws: int = 4, pool: ConcentrationPool | None = None):
    s = count(images)
    keep = torch.ones_like(s).bool()
    return patch_distributions(concentration(s), strata(s), keep, images, n_draws, pool)


def pool_of(images: Scene, s: torch.Tensor, max_size: int = 10) -> ConcentrationPool:
    """Return a pool with the first images of a scene."""
    pool = ConcentrationPool(max_size)
    entries = list(zip(image_keys(images), concentration(s), strata(s), strict=True))
    for key, *entry in entries[:max_size]:
        pool.add(key, *entry)
    return pool


def test_draws_do_not_depend_on_the_batch():
    batch = scene(3)
    s = count(batch)
    pool = pool_of(batch, s)
    together = draw_distributions(batch, pool=pool)
    for i in range(3):
        single = draw_distributions(
            Scene(batch.pixels[i : i + 1], batch.keypoints[i : i + 1], batch.grid), pool=pool
        )
        assert torch.equal(single.weights[0], together.weights[i])
        assert torch.equal(single.strata[0], together.strata[i])


def test_shifted_moves_permuted_shuffles_other_takes_others():
    images_scene = scene(4)
    s = count(images_scene)
    p = concentration(s)
    pool = pool_of(images_scene, s)
    distributions = draw_distributions(images_scene, n_draws=5, pool=pool)
    assert distributions.weights.shape[1] == 2 + 5 + 3 + 5 and set(distributions.nulls) == {
        "shifted",
        "other",
        "permuted",
    }
    for i in range(4):
        assert torch.equal(distributions.weights[i, 0], p[i])
        assert torch.allclose(distributions.weights[i, 1], p[i])
        shifted = distributions.weights[i, distributions.nulls["shifted"]]
        rolls = torch.stack(
            [p[i].reshape(6, 8).roll((y, x), (0, 1)).flatten() for y in range(6) for x in range(8)]
        )
        shifts = [int((rolls == weights).all(1).nonzero()[0]) for weights in shifted]
        assert len(set(shifts)) == 5 and 0 not in shifts
        permuted = distributions.weights[i, distributions.nulls["permuted"]]
        assert all(torch.equal(weights.sort().values, p[i].sort().values) for weights in permuted)
        drawn_images = {
            int((p == weights).all(1).nonzero()[0])
            for weights in distributions.weights[i, distributions.nulls["other"]]
        }
        assert drawn_images == {0, 1, 2, 3} - {i}
    assert torch.allclose(distributions.weights.sum(-1), torch.ones(4, 15, dtype=torch.float64))
    permuted_strata = distributions.strata[0, distributions.nulls["permuted"]][0]
    is_high = permuted_strata == 2
    assert (
        distributions.weights[0, distributions.nulls["permuted"]][0][is_high].min()
        >= p[0][strata(s)[0] == 0].max()
    )


def test_without_a_pool_of_three_there_is_no_other():
    images_scene = scene(2)
    s = count(images_scene)
    pool = pool_of(images_scene, s)
    assert set(draw_distributions(images_scene, pool=pool).nulls) == {"shifted", "permuted"}


def test_planted_attention_is_significant():
    analysis = analyze(models.build("class-token"), images(12, seed=3))
    planted = Tally(((0, 1),), 0)
    values = np.full((12, 1, 1), 1.5)
    draws = np.random.default_rng(0).normal(1, 0.1, (12, 1, 1, 3))
    planted._add_null("alignment/shifted", values, draws)
    test = planted.against("alignment", "shifted")
    assert test["p_value"][0, 0] < 1e-6 and test["z"][0, 0] > 5
    assert test["expected"][0, 0] == pytest.approx(draws.mean(), rel=1e-9)
    # by hand: sum of differences over the root of the sum of variances times 1 + 1/R
    variance = draws.var(axis=3, ddof=1).sum() * (1 + 1 / 3)
    assert test["z"][0, 0] == pytest.approx(
        (values[:, 0, 0] - draws.mean(3)[:, 0, 0]).sum() / variance**0.5
    )
    assert analysis.against("alignment", "shifted")["significant"].dtype == bool


def test_uniform_attention_has_no_significance():
    model = models.UniformAttention().eval()
    analysis = analyze(model, images(6, seed=3))
    for null in analysis.nulls("alignment"):
        test = analysis.against("alignment", null)
        assert np.isnan(test["z"]).all() and not test["significant"].any()
        np.testing.assert_allclose(test["expected"], 1, rtol=1e-5)


# Outliers, and the state of the model


def test_a_long_empty_token_is_an_outlier():
    norms = 1 + 0.01 * torch.arange(12.0).repeat(2, 1)
    norms[:, 5] = 9
    groups = torch.zeros(2, 12, dtype=torch.int8)
    groups[1, 5] = 2
    is_outlier = find_outliers(norms, groups)
    assert is_outlier[0].nonzero().flatten().tolist() == [5] and not is_outlier[1].any()


def test_planted_outliers_change_the_figures_that_leave_them_out(monkeypatch):
    model = models.build("class-token")
    before = analyze(model, images(3, seed=3))
    lengthen = model.blocks[-1].register_forward_hook(
        lambda _m, _i, out: torch.cat([out[:, :1], 50 * out[:, 1:2], out[:, 2:]], 1)
    )
    try:
        from semattn.interrelation import analysis_runner as study

        monkeypatch.setattr(
            study,
            "strata",
            lambda s, seed: torch.where(torch.arange(s.shape[1]) == 0, 0, strata(s, seed)).to(
                torch.int8
            ),
        )
        after = analyze(model, images(3, seed=3))
    finally:
        lengthen.remove()
    assert after.mean("outlier_mass").min() > 0 and (before.mean("outlier_mass") == 0).all()
    assert np.allclose(before.mean("alignment"), before.mean("alignment_without_outliers"))
    assert not np.allclose(after.mean("alignment"), after.mean("alignment_without_outliers"))


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
    inputs = images(4, seed=3)
    spoil = model.register_forward_hook(
        lambda _m, args, out: torch.where(
            (args[0] == inputs[2]).flatten(1).all(1)[:, None], torch.nan, out
        )
    )
    analysis = analyze(model, inputs)
    spoil.remove()
    assert analysis.images == 3
    assert [(skipped.name, "finite" in skipped.reason) for skipped in analysis.skipped] == [
        ("image 2", True)
    ]
    without = analyze(model, inputs[[0, 1, 3]])
    np.testing.assert_allclose(analysis.mean("alignment"), without.mean("alignment"), rtol=1e-5)


def test_two_threads_with_one_model_agree_with_one_after_the_other():
    from concurrent.futures import ThreadPoolExecutor

    model = models.build("registers")
    batches = [images(4, seed=seed) for seed in (3, 4)]
    sequential = [arrays(analyze(model, batch)) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        threaded = [
            arrays(batch) for batch in pool.map(lambda batch: analyze(model, batch), batches)
        ]
    for expected, actual in zip(sequential, threaded, strict=True):
        assert all(np.array_equal(expected[name], actual[name]) for name in expected)


def test_large_batches_are_added_in_parts(model, monkeypatch):
    from semattn.interrelation import accumulate as tally

    inputs = images(5, seed=3)
    single_batch = arrays(analyze(model, inputs, batch_size=5))
    monkeypatch.setattr(tally, "_MAX_IMAGES_AT_ONCE", 2)
    in_parts = arrays(analyze(model, inputs, batch_size=5))
    assert all(np.array_equal(values, in_parts[name]) for name, values in single_batch.items())


def test_all_nonzero_shifts_are_drawn_for_a_large_number_of_draws():
    image_scene = scene(1)
    p = concentration(count(image_scene))[0]
    distributions = draw_distributions(image_scene, n_draws=100)
    shifted = distributions.weights[0, distributions.nulls["shifted"]]
    assert len(shifted) == 6 * 8 - 1
    p_grid = p.reshape(6, 8)
    all_shifts = {
        tuple(p_grid.roll((y, x), (0, 1)).flatten().tolist()) for y in range(6) for x in range(8)
    }
    assert {tuple(weights.tolist()) for weights in shifted} | {tuple(p.tolist())} == all_shifts
    assert not any(torch.equal(weights, p) for weights in shifted)


def test_a_pool_holds_distinct_nonempty_images_up_to_its_size():
    images_scene = scene(5)
    keys = image_keys(images_scene)
    p, groups = concentration(count(images_scene)), strata(count(images_scene))
    groups[1] = 0
    pool = ConcentrationPool(3)
    for i in (0, 1, 2, 0, 3):
        pool.add(keys[i], p[i], groups[i])
    assert list(pool.entries) == [keys[i] for i in (0, 2, 3)]
    pool.add(keys[4], p[4], groups[4])  # drops the oldest
    assert list(pool.entries) == [keys[i] for i in (2, 3, 4)]
    weights, strata_drawn = pool.draw(np.random.default_rng(0), keys[3], 9)
    for actual, candidates in ((weights, p), (strata_drawn, groups)):
        assert {tuple(row.tolist()) for row in actual} == {
            tuple(candidates[i].tolist()) for i in (2, 4)
        }


def test_images_draw_from_earlier_images_in_any_batch():
    images_scene = scene(7)
    s = count(images_scene)
    p, groups, keep = concentration(s), strata(s), torch.ones_like(s).bool()
    batch_pool, single_pool = pool_of(images_scene, s, 3), pool_of(images_scene, s, 3)
    batched = patch_distributions(p, groups, keep, images_scene, 2, batch_pool)
    other_weights = batched.weights[:, batched.nulls["other"]]
    for i in range(7):
        index = slice(i, i + 1)
        image_scene = Scene(
            images_scene.pixels[index], images_scene.keypoints[index], images_scene.grid
        )
        distributions = patch_distributions(
            p[index], groups[index], keep[index], image_scene, 2, single_pool
        )
        assert torch.equal(distributions.weights[0, distributions.nulls["other"]], other_weights[i])
        drawn_images = {int((p == weights).all(1).nonzero()[0]) for weights in other_weights[i]}
        assert drawn_images == ({0, 1, 2} - {i} if i < 3 else {i - 1, i - 2})


def test_the_second_distribution_leaves_out_tokens():
    image_scene = scene(1)
    s = count(image_scene)
    p = concentration(s)
    keep = torch.ones_like(s).bool()
    keep[0, :5] = False
    distributions = patch_distributions(p, strata(s), keep, image_scene, 2, None)
    assert (distributions.weights[0, 1, :5] == 0).all()
    torch.testing.assert_close(distributions.weights[0, 1, 5:], p[0, 5:] / p[0, 5:].sum())
    assert torch.equal(distributions.weights[0, 0], p[0]) and torch.equal(distributions.keep, keep)
    assert distributions.nulls == {"shifted": slice(2, 4), "permuted": slice(4, 6)}
