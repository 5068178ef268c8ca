"""Grids whose patches cover a part of the image: arithmetic, and everything that uses a grid."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from semattn import analyze
from semattn.attention import Prediction
from semattn.cli.image_writers import explanation_summary
from semattn.density import Scene, densities
from semattn.evaluation.peer_methods import _patches_as_features
from semattn.explain import Explanation, Random
from semattn.explain.notes import map_notes
from semattn.explain.refine import refinements
from semattn.explain.request import RelevanceMap, read_checked
from semattn.grid import MODES, PatchGrid, sample
from semattn.images import Images
from semattn.interrelation import analysis_files as store, load_analysis
from semattn.keypoints import Keypoints
from semattn.metrics.perturbation import kept_pixels
from semattn.prompting.regions import Box, Mask, Points, coverage
from semattn.report.image_content import about_image
from semattn.spurious import Search, feature_extractor, load_discovery, save_discovery
from semattn.spurious.feature_extractor import colour_features, descriptor_features
from semattn.spurious.interventions import paste_patches
from semattn.viz import figure
from semattn.viz.spurious_figure import draw_outline, fade_outside
from tests import discoveries, models

# Resize(256) and CenterCrop(224) of 300 x 400 pixels, patches of 16: 18.75 pixels each.
CROPPED = PatchGrid((14, 14), (300, 400), (18.75, 18.75), prefix=1, origin=(18.75, 68.75))
# A crop at whole pixels, and the grid of the cropped image itself.
PART = PatchGrid((3, 4), (70, 90), (16, 16), prefix=1, origin=(5, 20))
ALONE = PatchGrid((3, 4), (48, 64), (16, 16), prefix=1)
ROWS, COLUMNS = slice(5, 53), slice(20, 84)


@st.composite
def grids(draw):
    """Any rectangle of patches, inside the image, beyond its borders, or partly so."""
    sides = st.floats(0.4, 9.0, allow_nan=False).map(lambda side: round(side, 3))
    starts = st.floats(-12, 12).map(lambda start: round(start, 3))
    return PatchGrid(
        (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        (draw(st.integers(1, 24)), draw(st.integers(1, 24))),
        (draw(sides), draw(sides)),
        origin=(draw(starts), draw(starts)),
    )


def pixel_centres(grid):
    height, width = grid.image_size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


@settings(deadline=None)
@given(grid=grids())
def test_each_pixel_lies_in_the_patch_whose_rectangle_holds_its_centre(grid):
    (h, w), (tall, wide), (top, left) = grid.shape, grid.cell, grid.origin
    xy = pixel_centres(grid)
    for (x, y), patch in zip(xy.tolist(), grid.patch_of(xy).tolist(), strict=True):
        row, column = (y + 0.5 - top) / tall, (x + 0.5 - left) / wide
        if patch < 0:
            assert not (0 <= row < h and 0 <= column < w)
        else:
            i, j = divmod(patch, w)
            assert i <= row < i + 1 and j <= column < j + 1


@settings(deadline=None)
@given(grid=grids())
def test_centres_lie_in_their_own_patch(grid):
    assert grid.patch_of(grid.centers()).tolist() == list(range(grid.patches))


@settings(deadline=None)
@given(grid=grids(), slope=st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_a_ramp_stays_a_ramp_between_the_outer_centres_and_is_0_outside(grid, slope):
    centres = grid.centers()
    values = centres @ torch.tensor(slope, dtype=torch.float64)
    large = grid.upsample(values[None])[0].flatten()
    xy = pixel_centres(grid).double()
    least, greatest = centres.amin(dim=0), centres.amax(dim=0)
    clamped = xy.clamp(least, greatest)  # beyond the outer centres the edge repeats
    expected = clamped @ torch.tensor(slope, dtype=torch.float64)
    inside = grid.patch_of(xy) >= 0
    torch.testing.assert_close(large[inside], expected[inside], rtol=0, atol=1e-9)
    if grid.is_partial:
        assert not large[~inside].any()


@settings(deadline=None)
@given(grid=grids(), seed=st.integers(0, 99))
def test_pool_and_upsample_against_loops(grid, seed):
    random = np.random.default_rng(seed)
    height, width = grid.image_size
    pixels = random.normal(size=(height, width))
    values = random.normal(size=grid.shape)
    total, count = np.zeros(grid.patches), np.zeros(grid.patches)
    nearest = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            i = math.floor((y + 0.5 - grid.origin[0]) / grid.cell[0])
            j = math.floor((x + 0.5 - grid.origin[1]) / grid.cell[1])
            if 0 <= i < grid.shape[0] and 0 <= j < grid.shape[1]:
                total[i * grid.shape[1] + j] += pixels[y, x]
                count[i * grid.shape[1] + j] += 1
                nearest[y, x] = values[i, j]
    pooled = grid.pool(torch.from_numpy(pixels)[None])[0].numpy()
    np.testing.assert_allclose(pooled, total / np.maximum(count, 1), atol=1e-12)
    if grid.is_partial:
        large = grid.upsample(torch.from_numpy(values).reshape(1, -1), mode="nearest-exact")[0]
        np.testing.assert_array_equal(large.numpy(), nearest)


@pytest.mark.parametrize("mode", MODES)
def test_exact_places_give_what_pytorch_gives_where_it_is_exact_too(mode):
    values = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    smooth = {} if mode.startswith("nearest") or mode == "area" else {"align_corners": False}
    expected = F.interpolate(values[:, None], size=(15, 24), mode=mode, **smooth)[:, 0]
    rows = (torch.arange(15, dtype=torch.float64) + 0.5) / 5
    columns = (torch.arange(24, dtype=torch.float64) + 0.5) / 6
    actual = sample(sample(values, rows, 1, 5, mode), columns, 2, 6, mode)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid", [ALONE, PatchGrid((2, 3), (35, 60), (16.5, 18))])
def test_grids_from_the_corner_are_upsampled_as_before(grid, mode):
    values = torch.randn(2, grid.patches, generator=torch.manual_seed(1))
    smooth = {} if mode.startswith("nearest") or mode == "area" else {"align_corners": False}
    covered = [round(n * side) for n, side in zip(grid.shape, grid.cell, strict=True)]
    large = F.interpolate(
        values.unflatten(1, grid.shape)[:, None], size=covered, mode=mode, **smooth
    )
    rest = (0, grid.image_size[1] - covered[1], 0, grid.image_size[0] - covered[0])
    expected = F.pad(large, rest, mode="replicate")[:, 0]
    assert not grid.is_partial and torch.equal(grid.upsample(values, mode), expected)


def test_a_crop_at_whole_pixels_is_the_map_of_the_crop_in_its_place():
    values = torch.randn(2, 12, generator=torch.manual_seed(2))
    for mode in MODES:
        large = PART.upsample(values, mode)
        torch.testing.assert_close(large[:, ROWS, COLUMNS], ALONE.upsample(values, mode))
        large[:, ROWS, COLUMNS] = 0
        assert not large.any()
    assert PART.visible_part == (ROWS, COLUMNS)


def test_cells_of_a_resized_crop_lie_where_the_crop_lay():
    xy = torch.tensor([[68.0, 18.0], [68.5, 18.5], [330.0, 280.0]])
    assert CROPPED.patch_of(xy).tolist() == [-1, 0, 195]
    assert CROPPED.centers()[0].tolist() == [68.75 + 9.375 - 0.5, 18.75 + 9.375 - 0.5]
    rows, columns = CROPPED.visible_part
    assert (rows.start, rows.stop, columns.start, columns.stop) == (19, 281, 69, 331)
    relevance = torch.zeros(1, 196, dtype=torch.float64)
    relevance[0, 0] = 1
    row = CROPPED.upsample(relevance)[0, 27]
    # centres at 77.625 and 96.375: pixel 87 lies exactly half way
    assert row[87].item() == pytest.approx(0.5, abs=1e-12)
    assert row[68] == 0 and row[70].item() == pytest.approx(1.0)


def test_whole_cells_left_over_at_the_end_are_unseen_and_less_is_a_rest():
    values = torch.ones(1, 12)
    rest = PatchGrid((3, 4), (63, 64), (16, 16)).upsample(values)
    assert bool((rest == 1).all())
    unseen = PatchGrid((3, 4), (64, 64), (16, 16)).upsample(values)
    assert bool((unseen[:, :48] == 1).all()) and not unseen[:, 48:].any()


def test_an_image_that_the_model_pads_is_covered_whole():
    padded = PatchGrid((4, 4), (40, 64), (16, 16), origin=(-12, 0))
    assert padded.visible_part == (slice(0, 40), slice(0, 64))
    ramp = padded.upsample(padded.centers()[:, 1][None])
    torch.testing.assert_close(ramp[0, :, 0], torch.arange(40, dtype=torch.float64))


def test_grids_are_kept_with_their_origin_and_old_ones_have_none():
    assert PatchGrid.from_list(json.loads(json.dumps(CROPPED.to_list()))) == CROPPED
    assert PatchGrid.from_list([[3, 4], [48, 64], [16, 16], 1]) == ALONE


# --- users of a grid; most are held against the same on the crop alone


def found(*xy, image_size, descriptor=None):
    places = torch.tensor(xy, dtype=torch.float32)
    ones = torch.ones(len(places))
    return Keypoints(places, ones, 9 * ones, ones, descriptor, image_size, "by hand")


XY = [(3.0, 2.0), (40.2, 30.1), (60.0, 44.0)]
SHIFTED = [(x + 20, y + 5) for x, y in XY]
OUTSIDE = [(2.0, 3.0), (88.0, 60.0), (19.4, 20.0)]


def scenes():
    pixels = np.random.default_rng(0).integers(0, 255, (1, 70, 90, 3), dtype=np.uint8)
    part = Scene(pixels, [found(*SHIFTED, *OUTSIDE, image_size=(70, 90))], PART)
    crop = np.ascontiguousarray(pixels[:, ROWS, COLUMNS])
    return part, Scene(crop, [found(*XY, image_size=(48, 64))], ALONE)


@pytest.mark.parametrize("name", ["count", "response", "size", "gaussian", "surround", "center"])
def test_keypoints_outside_the_patches_count_for_none(name):
    part, alone = scenes()
    torch.testing.assert_close(densities[name](part), densities[name](alone), rtol=1e-5, atol=1e-9)
    assert name in ("surround", "center") or densities[name](part).sum() > 0


def test_edges_are_those_of_the_seen_part():
    part, alone = scenes()
    inner = [5, 6]  # no pixel of these lies at the border of the crop
    torch.testing.assert_close(
        densities["sobel"](part)[:, inner], densities["sobel"](alone)[:, inner]
    )


def test_a_region_covers_what_lies_inside_the_patches():
    for region, moved in [
        (Box(0, 0, 35, 20), Box(-20, -5, 15, 15)),
        (Points([(30, 20)], radius=9), Points([(10, 15)], radius=9)),
    ]:
        torch.testing.assert_close(coverage(region, PART), coverage(moved, ALONE))
    mask = np.zeros((70, 90), dtype=bool)
    mask[:21, :36] = True
    torch.testing.assert_close(coverage(Mask(mask), PART), coverage(Box(0, 0, 35, 20), PART))
    with pytest.raises(ValueError, match=r"inside x 20 to 83 and y 5 to 52, the part of"):
        coverage(Box(0, 0, 10, 4), PART)


@pytest.mark.parametrize("name", ["none", "guided", "superpixels"])
def test_refinements_look_at_the_seen_part_alone(name):
    part, alone = scenes()
    values = torch.rand(1, 12, generator=torch.manual_seed(3))
    refined = refinements[name](PART.upsample(values), part.pixels, PART)
    expected = refinements[name](ALONE.upsample(values), alone.pixels, ALONE)
    torch.testing.assert_close(refined[:, ROWS, COLUMNS], expected)
    refined[:, ROWS, COLUMNS] = 0
    assert refined.shape == (1, 70, 90) and not refined.any()


def test_pixels_in_no_patch_stay_when_patches_go():
    keep = torch.tensor([[False] * 12, [True] * 12])
    stays = kept_pixels(keep, PART)[:, 0]
    assert not stays[0, ROWS, COLUMNS].any() and bool(stays[1].all())
    assert int(stays[0].sum()) == 70 * 90 - 48 * 64


def test_pixels_in_no_patch_are_a_feature_of_their_own():
    features = _patches_as_features(torch.zeros(1, 3, 70, 90), PART)[0, 0]
    assert features[0, 0] == 12 and features[5, 20] == 0 and features[52, 83] == 11
    assert _patches_as_features(torch.zeros(1, 3, 48, 64), ALONE).max() == 11


def test_patch_features_and_pasting_of_the_search_for_cues():
    part, alone = scenes()
    torch.testing.assert_close(
        colour_features(part.pixels, PART),
        colour_features(alone.pixels, ALONE),
        rtol=1e-4,
        atol=1e-4,
    )
    vectors = torch.rand(6, 128, generator=torch.manual_seed(4))
    shifted = found(*SHIFTED, *OUTSIDE, image_size=(70, 90), descriptor=vectors)
    reference = found(*XY, image_size=(48, 64), descriptor=vectors[:3])
    assert torch.equal(
        descriptor_features([shifted], PART), descriptor_features([reference], ALONE)
    )
    patches = torch.zeros(1, 12)
    patches[0, 0] = 1
    into = paste_patches(torch.zeros(1, 1, 70, 90), torch.ones(1, 1, 70, 90), patches, PART)[0, 0]
    assert bool((into[5:21, 20:36] == 1).all()) and into.sum() == 256


def test_stored_features_keep_the_origin_and_older_ones_load(tmp_path, monkeypatch):
    model = models.build("class-token")
    pairs = [(torch.rand(3, 48, 64), label) for label in (0, 1, 2, 0)]

    def cropped(*args, **options):
        recorded = real(*args, **options)
        return dataclasses.replace(
            recorded, grid=dataclasses.replace(recorded.grid, origin=(2.5, 4.0), cell=(12.0, 12.0))
        )

    real = feature_extractor.record
    monkeypatch.setattr(feature_extractor, "record", cropped)
    search = Search(model, pairs, cache_dir=tmp_path / "kept", batch_size=2)
    search.extract()
    grid = search.store.index.grid
    assert (grid.origin, grid.cell, grid.image_size) == ((2.5, 4.0), (12.0, 12.0), (48, 64))
    for file in (tmp_path / "kept").glob("features-*.npz"):
        arrays = dict(np.load(file))
        del arrays["origin"]
        np.savez(file, **arrays)
    search = Search(model, pairs, cache_dir=tmp_path / "kept", batch_size=2)
    assert search.store.index.grid.origin == (0.0, 0.0)


def test_an_analysis_keeps_the_origin_and_older_files_load(tmp_path, monkeypatch):
    analysis = analyze(models.build("class-token"), [torch.rand(3, 48, 64) for _ in range(2)])
    analysis = dataclasses.replace(
        analysis, grid=dataclasses.replace(analysis.grid, origin=(1.5, 2.25))
    )
    assert load_analysis(analysis.save(tmp_path / "new.npz")).grid == analysis.grid
    entries = analysis.grid.to_list()[:4]
    monkeypatch.setattr(PatchGrid, "to_list", lambda grid: entries)
    old = store.save_analysis(analysis, tmp_path / "old.npz")
    assert load_analysis(old).grid == dataclasses.replace(analysis.grid, origin=(0.0, 0.0))


def test_cues_keep_their_grid_and_are_drawn_in_their_place(tmp_path):
    from matplotlib.figure import Figure

    base = discoveries.example(0)
    grid = PatchGrid((3, 4), (48, 64), (8, 8), origin=(20, 30))
    shown = dataclasses.replace(base, grid=grid)
    cue = dataclasses.replace(discoveries.cue(examples=1), examples=(shown,), grid=grid)
    file = save_discovery(discoveries.discovery(cue), tmp_path / "cues.npz")
    loaded = load_discovery(file).cues[0]
    assert loaded.grid == grid == loaded.examples[0].patches
    assert base.patches == PatchGrid((3, 4), (48, 64), (16.0, 16.0))
    picture = fade_outside(shown)  # the patch in row 2, column 3 shows it: y 36 to 43, x 54 to 61
    same = (picture == shown.pixels).all(axis=-1)
    assert same[36:44, 54:62].all() and same.sum() == 64
    axes = Figure().add_subplot()
    draw_outline(axes, (shown.matches >= 0.5) & shown.off_object, shown.patches)
    corners = np.concatenate(axes.collections[0].get_segments())
    assert corners.min(axis=0).tolist() == [53.5, 35.5]
    assert corners.max(axis=0).tolist() == [61.5, 43.5]


def explanation():
    values = torch.rand(1, 12, generator=torch.manual_seed(5))
    pixels = np.full((1, 70, 90, 3), 128, dtype=np.uint8)
    return Explanation(
        heat_map=PART.upsample(values),
        patch_map=PART.fold(values),
        images=Images(torch.zeros(1, 3, 70, 90), pixels, ("a.png",), True),
        keypoints=[found(*SHIFTED, *OUTSIDE, image_size=(70, 90))],
        concentration=torch.full((1, 12), 1 / 12, dtype=torch.float64),
        grid=PART,
        logits=torch.tensor([[0.0, 2.0]]),
        target=torch.tensor([1]),
        manifest={"method": "x", "parameters": {}, "model": "M", "architecture": None},
    )


def test_figures_draw_the_patches_in_their_place():
    canvas = figure(explanation())
    panels = [axes for axes in canvas.axes if axes.collections]
    lines = np.concatenate(panels[0].collections[0].get_segments())
    assert lines.min(axis=0).tolist() == [19.5, 4.5]  # the outer borders are drawn too
    assert lines.max(axis=0).tolist() == [83.5, 52.5]
    extents = [image.get_extent() for axes in canvas.axes for image in axes.images]
    assert [19.5, 83.5, 52.5, 4.5] in [list(extent) for extent in extents]


def test_results_and_pages_say_where_the_patches_lie():
    explained = explanation()
    result = explanation_summary(explained)
    assert result["patches"] == [3, 4]
    assert (result["patch_size"], result["patch_origin"]) == ([16, 16], [5, 20])
    about = about_image(explained, 0, None)
    assert about["origin"] == [5, 20] and sum(about["counts"]) == 3


def test_a_note_says_what_the_patches_cover():
    patches = torch.ones(1, 12)
    heat_map = PART.upsample(patches)
    maps = RelevanceMap(Prediction(torch.zeros(1, 2)), PART, torch.rand(1, 12), patches, heat_map)
    notes = map_notes(Random(), maps, explanation().images, read_checked(maps))
    message = "The patches cover a part of the 90 x 70 pixels: x 20 to 83, y 5 to 52; "
    assert notes == (message + "the map is 0 elsewhere.",)
