"""Densities and their controls against slow oracles, by hand, and by what must stay the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import semattn.density as density
from semattn.density import EMPTY, HIGH, LOW, Scene, concentration, densities, strata
from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.images import luma
from semattn.keypoints import Keypoints, detect
from tests import oracles_density as oracle

GRID = PatchGrid((3, 4), image_size=(48, 64), cell=(16, 16), prefix=1)
WIDE = PatchGrid((5, 8), image_size=(84, 132), cell=(16, 16))  # 4 pixels beyond each side
BLACK = np.zeros((1, 48, 64, 3), np.uint8)
CONTROLS = {"uniform", "random", "center", "sobel", "canny", "shifted", "permuted", "other"}
SEMANTIC = {
    *("count", "response", "size", "gaussian", "distinct", "surround"),
    *("distinct-size", "distinct-size-surround"),
}


def points(*rows, descriptor=None, image_size=(48, 64)):
    """Keypoints from rows of x, y, response, size."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    return Keypoints(
        xy=table[:, :2],
        response=table[:, 2],
        size=table[:, 3],
        angle=torch.zeros(len(table)),
        descriptor=descriptor,
        image_size=image_size,
        detector="by hand",
    )


def one(*rows, grid=GRID, **more):
    """A scene of one black image with keypoints by hand."""
    pixels = np.zeros((1, *grid.image_size, 3), np.uint8)
    return Scene(pixels, [points(*rows, **more)], grid)


def scattered(k, seed=0, grid=WIDE, kinds=None):
    """k keypoints anywhere, some beyond the grid, with descriptors; `kinds` makes them repeat."""
    draw = np.random.default_rng(seed)
    height, width = grid.image_size
    table = draw.uniform((-0.5, -0.5, 0.003, 1.5), (width - 0.5, height - 0.5, 0.1, 20), (k, 4))
    descriptor = draw.integers(0, 200, (kinds or k, 128))[np.arange(k) % (kinds or max(k, 1))]
    return points(
        *table.tolist(), descriptor=torch.from_numpy(descriptor).float(), image_size=(height, width)
    )


def photographs(batch=3, grid=WIDE):
    """Coloured blocks with flat parts, and what SIFT finds on them."""
    draw = np.random.default_rng(5)
    height, width = grid.image_size
    blocks = draw.integers(0, 256, (batch, -(-height // 4), -(-width // 4), 3))
    pixels = blocks.repeat(4, 1).repeat(4, 2)[:, :height, :width].astype(np.uint8)
    pixels[:, :, : width // 3] = 70
    return pixels, detect(pixels, descriptors=True)


PIXELS, FOUND = photographs()
SCENE = Scene(PIXELS, FOUND, WIDE)


def test_the_registry_holds_them_all_and_knows_controls():
    assert set(densities) >= CONTROLS | SEMANTIC
    assert {name for name in CONTROLS | SEMANTIC if densities[name].control} == CONTROLS
    needs = {name: densities[name].needs for name in CONTROLS | SEMANTIC}
    assert {name for name, need in needs.items() if "descriptors" in need} == {
        "distinct",
        "distinct-size",
        "distinct-size-surround",
    }
    assert {name for name, need in needs.items() if not need} == {
        *("uniform", "random", "center", "sobel", "canny")
    }


@pytest.mark.parametrize("name", sorted(densities))
def test_every_density_keeps_the_contract(name):
    s = densities[name](SCENE)
    assert s.shape == (3, WIDE.patches)
    assert s.dtype == torch.float64
    assert s.isfinite().all()
    assert (s >= 0).all()
    assert (s.sum(1) > 0).all()
    assert torch.equal(s, densities[name](SCENE))
    p = concentration(s)
    torch.testing.assert_close(p.sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(set(densities) - {"other"}))
def test_a_batch_is_its_images(name):
    together = densities[name](SCENE)
    for i in range(3):
        alone = densities[name](Scene(PIXELS[i : i + 1], FOUND[i : i + 1], WIDE))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(n for n in densities if densities[n].needs))
def test_missing_keypoints_and_descriptors_are_asked_for(name):
    with pytest.raises(ValueError, match=r"keypoints: expected keypoints of 3 images, got none"):
        densities[name](Scene(PIXELS, (), WIDE))
    if "descriptors" in densities[name].needs:
        with pytest.raises(ValueError, match=r"detect\(pixels, descriptors=True\)"):
            densities[name](Scene(PIXELS, detect(PIXELS), WIDE))


# --- count, response, size --------------------------------------------------------------------

AROUND = (
    (15.49, 8, 0.01, 3.0),  # the last of patch 0
    (15.51, 8, 0.02, 5.0),  # the first of patch 1
    (8, 15.49, 0.04, 7.0),  # patch 0
    (8, 15.51, 0.08, 11.0),  # patch 4
    (63, 47, 0.16, 13.0),  # patch 11
)


def test_sums_by_hand_on_both_sides_of_a_border():
    scene = one(*AROUND)
    expected = torch.zeros(3, 12, dtype=torch.float64)
    expected[:, [0, 1, 4, 11]] = torch.tensor(
        [[2, 1, 1, 1], [0.05, 0.02, 0.08, 0.16], [10, 5, 11, 13]], dtype=torch.float64
    )
    actual = torch.cat([density.count(scene), density.response(scene), density.size(scene)])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-7)


def test_keypoints_beyond_the_grid_do_not_count():
    scene = one((130, 5, 1, 1), (5, 82, 1, 1), (5, 5, 1, 1), grid=WIDE, image_size=(84, 132))
    for name in ("count", "gaussian", "size"):
        assert densities[name](scene).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_sums_against_the_oracle(seed):
    keypoints = scattered(50, seed)
    scene = Scene(PIXELS[:1], [keypoints], WIDE)
    for actual, weights in (
        (density.count(scene), [1.0] * 50),
        (density.response(scene), keypoints.response.tolist()),
        (density.size(scene), keypoints.size.tolist()),
    ):
        torch.testing.assert_close(actual, oracle.rows([oracle.weighted(keypoints, weights, WIDE)]))


# --- gaussian ---------------------------------------------------------------------------------


def test_gaussian_by_hand():
    # In the middle of the border between patches 5 and 6, one patch wide: half and half inside,
    # and by the normal table .3413 within one width, .1359 in the next, cut off at the grid.
    s = density.gaussian(one((31.5, 23.5, 1, 16.0)))[0].reshape(3, 4)
    columns = np.array([0.13591, 0.34134, 0.34134, 0.13591])
    rows = np.array([0.24173, 0.38292, 0.24173])
    expected = np.outer(rows / rows.sum(), columns / columns.sum())
    np.testing.assert_allclose(s.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("seed", range(2))
def test_gaussian_against_the_oracle(seed):
    keypoints = scattered(12, seed)
    actual = density.gaussian(Scene(PIXELS[:1], [keypoints], WIDE))
    expected = oracle.rows([oracle.gaussian(keypoints, WIDE)])
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-2)
    assert actual.sum().item() == pytest.approx(
        density.count(Scene(PIXELS[:1], [keypoints], WIDE)).sum()
    )


def test_a_narrow_gaussian_is_the_count():
    scene = one(*((x, y, r, 0.001) for x, y, r, _ in AROUND[:1] + AROUND[4:]))
    torch.testing.assert_close(density.gaussian(scene), density.count(scene))


# --- distinct ---------------------------------------------------------------------------------


def test_distinct_by_hand():
    # Three of a kind far apart, and one like no other. Unlikeness of the kind: (0 + 0 + d) / 3,
    # thrice the same; of the odd one: d. Ranks 2, 2, 2, 4 of 4.
    descriptor = torch.zeros(4, 128)
    descriptor[:3, 0] = 9
    descriptor[3, 1] = 5
    rows = [(2, 2, 1, 1), (60, 2, 1, 1), (2, 45, 1, 1), (60, 45, 1, 2)]
    scene = one(*rows, descriptor=descriptor)
    s = density.distinct(scene)[0]
    assert s[[0, 3, 8, 11]].tolist() == [0.25, 0.25, 0.25, 1.0]
    assert density.distinct_size(scene)[0, [0, 3, 8, 11]].tolist() == [0.25, 0.25, 0.25, 2.0]


def test_near_keypoints_are_no_rivals():
    descriptor = torch.zeros(4, 128)
    descriptor[:2, 0] = 1
    descriptor[2, 1] = 1
    descriptor[3, 0] = descriptor[3, 1] = 1

    def weights(x):
        rows = [(2, 2, 1, 1), (x, 2, 1, 1), (2, 45, 1, 1), (60, 45, 1, 1)]
        return density.distinct(one(*rows, descriptor=descriptor))[0]

    # The twin at 28 pixels shows the same thing: both are unlike all that counts. One step
    # farther it is texture.
    assert weights(30.0)[0] > weights(30.1)[0]


@pytest.mark.parametrize(("k", "kinds"), [(1, None), (2, None), (5, None), (60, None), (60, 7)])
def test_distinct_against_the_oracle(k, kinds):
    keypoints = scattered(k, k, kinds=kinds)
    actual = density.keypoint_densities.distinctness(keypoints)
    expected = torch.tensor(oracle.distinctness(keypoints), dtype=torch.float64)
    torch.testing.assert_close(actual, expected)
    scene = Scene(PIXELS[:1], [keypoints], WIDE)
    for name, weights in (
        ("distinct", expected),
        ("distinct-size", expected * keypoints.size),
    ):
        torch.testing.assert_close(
            densities[name](scene),
            oracle.rows([oracle.weighted(keypoints, weights.tolist(), WIDE)]),
        )


def test_distinct_of_few_keypoints():
    assert density.keypoint_densities.distinctness(scattered(0)).shape == (0,)
    assert density.keypoint_densities.distinctness(scattered(1)).tolist() == [1.0]
    near = points((5, 5, 1, 1), (9, 9, 1, 1), descriptor=torch.rand(2, 128))
    assert (
        density.keypoint_densities.distinctness(near).tolist() == [0.5625] * 2
    )  # both rank 1.5 of 2


def test_distinct_in_parts_is_distinct_at_once():
    keypoints = scattered(1500, 3)
    weights = density.keypoint_densities.distinctness(keypoints)
    few = torch.randperm(1500, generator=torch.Generator().manual_seed(0))
    shuffled = points(
        *torch.cat([keypoints.xy, keypoints.response[:, None], keypoints.size[:, None]], 1)[
            few
        ].tolist(),
        descriptor=keypoints.descriptor[few],
    )
    torch.testing.assert_close(density.keypoint_densities.distinctness(shuffled), weights[few])


# --- surround ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [WIDE, GRID, PatchGrid((1, 7), (16, 112), (16, 16))])
def test_surround_against_the_oracle(grid):
    keypoints = scattered(40, 4, grid)
    scene = Scene(np.zeros((1, *grid.image_size, 3), np.uint8), [keypoints], grid)
    for actual, centre in (
        (density.surround(scene), density.count(scene)),
        (density.distinct_size_surround(scene), density.distinct_size(scene)),
    ):
        expected = oracle.rows([oracle.surround(centre[0].tolist(), grid)])
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_an_even_count_has_no_surround():
    for side in range(2, 16):
        grid = PatchGrid((side, side + 1), (side * 8, side * 8 + 8), (8, 8))
        scene = one(*((x, y, 1, 1) for x, y in grid.centers().tolist() * 3), grid=grid)
        assert density.count(scene).unique().tolist() == [3]
        assert density.surround(scene).sum() == 0


# --- controls ---------------------------------------------------------------------------------


def test_sobel_against_the_oracle():
    actual = density.sobel(SCENE)
    expected = oracle.rows([oracle.sobel(grey, WIDE) for grey in luma(PIXELS)])
    torch.testing.assert_close(actual, expected)


def step():
    """Black, and white from column 16 on: one vertical edge, between patches 0 and 1."""
    pixels = BLACK.copy()
    pixels[:, :, 16:] = 255
    return Scene(pixels, (), GRID)


def test_edges_lie_where_the_step_is():
    s = density.sobel(step())[0].reshape(3, 4)
    # |gradient| is 4 in the columns 15 and 16: one of sixteen in each patch
    np.testing.assert_allclose(s, np.tile([0.25, 0.25, 0, 0], (3, 1)), atol=1e-12)


def test_canny_is_one_line_along_the_step():
    scene = step()
    scene.pixels[:, :, 16] = 127  # the steepest place is column 16, the first of patches 1, 5, 9
    edges = density.canny(scene)[0].reshape(3, 4)
    assert edges[1].tolist() == [0, 1 / 16, 0, 0]
    assert (edges[:, [0, 2, 3]] == 0).all()


def test_center_by_hand():
    s = density.center(Scene(BLACK, (), GRID))[0].reshape(3, 4)
    assert torch.equal(s, s.flip(0))
    assert torch.equal(s, s.flip(1))
    assert s[1, 1].item() == pytest.approx(np.exp(-((1 / 8) ** 2) / (2 / 16)))
    assert s[0, 0].item() == pytest.approx(np.exp(-((3 / 8) ** 2 + (1 / 3) ** 2) / (2 / 16)))


def test_uniform_is_one():
    assert density.uniform(SCENE).unique().tolist() == [1]


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (3, 4), (1, 9), (14, 14), (5, 8)])
def test_shifted_is_the_count_about_half_the_grid_away(shape):
    grid = PatchGrid(shape, (shape[0] * 8, shape[1] * 8), (8, 8))
    offsets = set()
    for seed in range(40):
        pixels = np.zeros((1, *grid.image_size, 3), np.uint8)
        scene = Scene(pixels, [points((0, 0, 1, 1))], grid, seed)
        row, column = divmod(density.shifted(scene)[0].argmax().item(), shape[1])
        offsets.add((row, column))
        assert density.shifted(scene).sum() == 1
    assert (0, 0) not in offsets
    for axis in (0, 1):
        assert {offset[axis] for offset in offsets} <= set(
            range(-(-shape[axis] // 4) if shape[axis] > 1 else 0, 3 * shape[axis] // 4 + 1)
        )
    assert shape != (14, 14) or len(offsets) > 10


def test_shifted_keeps_the_neighbours():
    count = WIDE.fold(density.count(SCENE))[0]
    moved = WIDE.fold(density.shifted(SCENE))[0]
    rolls = [
        (i, j) for i in range(5) for j in range(8) if torch.equal(count.roll((i, j), (0, 1)), moved)
    ]
    assert len(rolls) == 1
    assert rolls[0] != (0, 0)


def test_shifted_needs_two_patches():
    grid = PatchGrid((1, 1), (16, 16), (16, 16))
    with pytest.raises(ValueError, match="got 1x1"):
        density.shifted(one((3, 3, 1, 1), grid=grid))


def test_permuted_has_the_counts_elsewhere():
    count, shuffled = density.count(SCENE), density.permuted(SCENE)
    assert torch.equal(count.sort(1).values, shuffled.sort(1).values)
    assert not torch.equal(count, shuffled)


def test_other_is_the_image_before():
    count = density.count(SCENE)
    assert torch.equal(density.other(SCENE), count[[2, 0, 1]])
    with pytest.raises(
        ValueError, match=r"other: expected a batch of at least two.*— pass more images"
    ):
        density.other(one((3, 3, 1, 1)))


@pytest.mark.parametrize("name", ["random", "shifted", "permuted"])
def test_chance_follows_the_seed_and_the_image(name):
    def drawn(seed, order=(0, 1, 2)):
        scene = Scene(PIXELS[list(order)], [FOUND[0]] * 3, WIDE, seed)
        return densities[name](scene)

    assert torch.equal(drawn(0), drawn(0))
    assert any(not torch.equal(drawn(0), drawn(seed)) for seed in (1, 2, 3))
    assert not torch.equal(drawn(0)[0], drawn(0)[1])  # same keypoints, other pixels
    assert torch.equal(drawn(0, (2, 1, 0)), drawn(0).flip(0))


def test_a_scene_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"expected \(B, 48, 64, 3\) for this grid, got \(3, 84"):
        Scene(PIXELS, FOUND, GRID)
    with pytest.raises(ShapeError, match="expected keypoints of 3 images, got 2"):
        Scene(PIXELS, FOUND[:2], WIDE)


# --- concentration and strata -----------------------------------------------------------------


def test_concentration_by_hand():
    p = concentration(torch.tensor([[0, 3, 1, 0]]))
    # mean 1, e = .1, sum 4.4
    torch.testing.assert_close(p[0].tolist(), [0.1 / 4.4, 3.1 / 4.4, 1.1 / 4.4, 0.1 / 4.4])
    assert concentration(torch.tensor([[0.0, 1.0]]), smoothing=0).tolist() == [[0, 1]]


def test_concentration_has_no_scale():
    for greatest in (5e-324, 1e-200, 1.7e308):
        s = torch.tensor([[0, greatest, greatest, greatest]], dtype=torch.float64)
        torch.testing.assert_close(concentration(s), concentration((s > 0).double()))


def test_a_uniform_image_is_uniform_with_one_warning():
    pixels = np.full((2, 48, 64, 3), 99, np.uint8)
    s = density.count(Scene(pixels, detect(pixels), GRID))
    with pytest.warns(UserWarning, match="image 0, 1 has no keypoint and no weight .*; ") as caught:
        p = concentration(s)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(p, torch.full((2, 12), 1 / 12, dtype=torch.float64))


def test_only_the_empty_image_is_named():
    s = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    with pytest.warns(UserWarning, match="density: image 1 has no .*; "):
        p = concentration(s)
    assert torch.equal(p[0], concentration(s[:1])[0])
    assert strata(s).tolist() == [[HIGH, EMPTY], [EMPTY, EMPTY]]


@pytest.mark.parametrize(
    ("s", "error", "says"),
    [
        ([[1.0, -0.1]], ValueError, r"finite values >= 0, got \[-0.1, 1\]"),
        ([[1.0, float("nan")]], ValueError, "finite values"),
        ([[1.0, float("inf")]], ValueError, "finite values"),
        ([1.0, 2.0], ShapeError, r"expected \(B, P\), got \(2,\)"),
        ([[[1.0]]], ShapeError, r"got \(1, 1, 1\)"),
        ([[], []], ShapeError, r"got \(2, 0\)"),
    ],
)
@pytest.mark.parametrize("function", [concentration, strata])
def test_what_is_no_density_is_refused(function, s, error, says):
    with pytest.raises(error, match=says):
        function(torch.tensor(s))


@pytest.mark.parametrize("smoothing", [-0.1, float("nan"), float("inf")])
def test_smoothing_is_checked(smoothing):
    with pytest.raises(ValueError, match="smoothing: expected"):
        concentration(torch.ones(1, 2), smoothing)


DENSITIES = st.integers(1, 24).flatmap(
    lambda patches: st.lists(
        st.lists(
            st.one_of(st.just(0.0), st.integers(0, 4).map(float), st.floats(0, 1e300)),
            min_size=patches,
            max_size=patches,
        ),
        min_size=1,
        max_size=3,
    )
)


@settings(deadline=None)
@given(DENSITIES, st.floats(0, 10))
def test_concentration_is_a_distribution(rows, smoothing):
    s = torch.tensor(rows, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = concentration(s, smoothing)
        assert (p >= 0).all()
        torch.testing.assert_close(p.sum(1), torch.ones(len(s), dtype=torch.float64))
        for i in range(len(s)):
            assert torch.equal(concentration(s[i : i + 1], smoothing)[0], p[i])
            order = s[i].argsort()
            assert (p[i][order].diff() >= 0).all()
        if torch.equal(s / 4 * 4, s):  # a number may be too small to be divided
            torch.testing.assert_close(concentration(s / 4, smoothing), p)
        flipped = concentration(s.flip(1), smoothing).flip(1)
        torch.testing.assert_close(flipped, p)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any), st.floats(0, 2))
def test_concentration_against_the_oracle(row, smoothing):
    expected = oracle.concentration([float(value) for value in row], smoothing)
    actual = concentration(torch.tensor([row]), smoothing)
    torch.testing.assert_close(actual, oracle.rows([expected]))


def test_strata_by_hand():
    assert (EMPTY, LOW, HIGH) == (0, 1, 2)
    s = torch.tensor([[0, 5, 1, 3, 0, 2], [0.5, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    actual = strata(s)
    assert actual.dtype == torch.int8
    assert actual.tolist() == [
        [EMPTY, HIGH, LOW, HIGH, EMPTY, LOW],
        [HIGH, EMPTY, EMPTY, EMPTY, EMPTY, EMPTY],
        [LOW, LOW, LOW, HIGH, HIGH, HIGH],
    ]


@settings(deadline=None)
@given(DENSITIES, st.integers(0, 3))
def test_strata_are_balanced_and_ordered(rows, seed):
    s = torch.tensor(rows, dtype=torch.float64)
    actual = strata(s, seed)
    assert torch.equal(actual == EMPTY, s == 0)
    for i, row in enumerate(actual):
        low, high = s[i][row == LOW], s[i][row == HIGH]
        assert len(high) - len(low) in (0, 1)
        if len(low):
            assert low.max() <= high.min()
        assert torch.equal(strata(s[i : i + 1], seed)[0], row)


def test_ties_are_broken_by_the_seed():
    s = torch.ones(1, 40)
    patterns = {tuple(strata(s, seed)[0].tolist()) for seed in range(5)}
    assert len(patterns) == 5
    assert torch.equal(strata(s, 7), strata(s, 7))
    high = torch.stack([strata(s, seed)[0] == HIGH for seed in range(200)]).double().mean(0)
    assert high.min() > 0.3  # no corner of the grid is favoured
    assert high.max() < 0.7


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(0, 10_000))
def test_what_the_order_of_keypoints_cannot_change(k, seed):
    keypoints = scattered(k, seed)
    order = torch.from_numpy(np.random.default_rng(seed + 1).permutation(k))
    turned = Keypoints(
        *(getattr(keypoints, f)[order] for f in ("xy", "response", "size", "angle", "descriptor")),
        image_size=keypoints.image_size,
        detector="by hand",
    )
    for name in sorted(SEMANTIC):
        original, permuted = (
            densities[name](Scene(PIXELS[:1], [f], WIDE)) for f in (keypoints, turned)
        )
        torch.testing.assert_close(original, permuted, rtol=1e-9, atol=1e-9)
