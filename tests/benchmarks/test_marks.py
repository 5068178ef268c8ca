"""Moving marks: poses, sets without repeats, metrics and tables, worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import timm
import torch

from benchmarks.datasets.marked_sets import MarkedSet, hull, plant, plant_fresh
from benchmarks.datasets.moving_marks import MARKS, MIN_OPACITY, choose_marked, mark_image
from benchmarks.studies.spurious import (
    mark_features,
    mark_maps,
    marked_models,
    marks_in_models_table,
)
from benchmarks.studies.spurious.mark_features import key_features, replace_images
from benchmarks.studies.spurious.mark_metrics import (
    evaluate_places,
    evaluate_search,
    iou,
    region_iou,
)
from benchmarks.studies.spurious.mark_table import proportion_interval, tables
from benchmarks.studies.spurious.marks import METHODS, Case as MarkSearch, matching_constants
from semattn.keypoints import matching
from semattn.keypoints.local_features import LocalFeatures
from semattn.spurious.marks.recurring import MarkSearchResult, RecurringMark
from semattn.spurious.marks.template import Region
from semattn.spurious.search import Search

SIDE = 160


def grey_set(count: int = 12) -> MarkedSet:
    images = np.full((count, SIDE, SIDE, 3), 90, np.uint8)
    labels = np.arange(count) % 2
    return MarkedSet(images, labels, np.zeros(images.shape[:3], bool), np.zeros(count, bool))


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [high, low], [high, high], [low, high]], float)


@pytest.mark.parametrize("kind", MARKS)
def test_a_mark_is_inside_the_image_and_changes_only_its_mask(kind):
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for seed in range(5):
        marked, mask = mark_image(image, kind, np.random.default_rng(seed))
        change = np.abs(marked.astype(int) - image).max(axis=2)
        assert mask.sum() > 100 and change[mask].max() > 60
        assert change[~mask].max() <= 1 + MIN_OPACITY * 165  # 165: from the grey to white
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        again, _ = mark_image(image, kind, np.random.default_rng(seed))
        assert (again == marked).all()


def test_places_differ_between_images_and_digits_between_timestamps():
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    masks = [mark_image(image, "timestamp", np.random.default_rng(seed))[1] for seed in range(4)]
    centers = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    assert np.ptp(centers, axis=0).max() > 10
    layers = [np.asarray(MARKS["timestamp"](np.random.default_rng(seed))) for seed in range(2)]
    assert (layers[0] != layers[1]).any()


def test_key_features_are_the_keys_of_their_layer_at_the_centres_of_the_patches(monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, depth=3).eval()
    keys = {}
    for number, block in enumerate(model.blocks):
        block.attn.qkv.register_forward_hook(
            lambda _, __, output, number=number: keys.update({number: output.chunk(3, -1)[1]})
        )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        model(mark_features.normalise(model, images))
    expected = keys[1][:, 1:] / keys[1][:, 1:].norm(dim=-1, keepdim=True)
    expected = expected - expected.mean(dim=1, keepdim=True)
    expected = (expected / expected.norm(dim=-1, keepdim=True)).flatten(0, 1)
    monkeypatch.setattr(mark_features, "load", lambda _: model)
    monkeypatch.setattr(mark_features, "MODEL_SIDE", 64)
    found = key_features(images, side=64, layer=1)
    torch.testing.assert_close(torch.from_numpy(found.descriptors), expected)
    assert found.image.tolist() == [0] * 16 + [1] * 16
    assert found.xy[:5].tolist() == [[7.5, 7.5], [23.5, 7.5], [39.5, 7.5], [55.5, 7.5], [7.5, 23.5]]


def test_a_higher_rate_marks_the_same_images_and_more_in_the_same_pose():
    clean = grey_set(40)
    few, many = (plant(clean, "tag", {1: rate}, seed=3) for rate in (0.2, 0.5))
    assert few.is_marked.sum() == 4 and many.is_marked.sum() == 10
    assert not (few.is_marked & ~many.is_marked).any() and not many.is_marked[::2].any()
    rows = few.is_marked
    assert (few.images[rows] == many.images[rows]).all()
    assert (few.images[~rows] == clean.images[~rows]).all() and not clean.masks.any()
    assert choose_marked([0, 0, 1, 1], {0: 1.0}, 0).tolist() == [True, True, False, False]


def test_the_first_half_of_fresh_images_has_other_poses():
    clean = grey_set(8)
    fresh, searched = plant_fresh(clean, "logo", 1), plant(clean, "logo", {0: 1, 1: 1}, 1)
    assert fresh.is_marked.tolist() == 4 * [True] + 4 * [False]
    assert all((fresh.masks[row] != searched.masks[row]).any() for row in range(4))


def test_the_hull_of_two_corners_of_a_triangle():
    mask = np.zeros((10, 10), bool)
    mask[[2, 2, 8], [2, 8, 2]] = True
    filled = hull(mask)
    assert filled[3, 3] and filled[2, 2:9].all() and not filled[7, 7]
    assert not hull(np.zeros((4, 4), bool)).any()


def test_iou_worked_out_by_hand():
    planted = np.zeros((40, 40), bool)
    planted[10:20, 10:20] = True
    assert iou(planted, planted) == 1 and iou(~planted, planted) == 0
    region = Region(square(15, 24), np.eye(2, 3), 5, False)
    assert region_iou([region], planted) == pytest.approx(25 / 175)  # 10 x 10 pixels, 5 x 5 shared
    assert region_iou([], planted) == 0


def fixed_mark(target: int, rows: list[int], low: float, high: float, p: float) -> RecurringMark:
    regions = {row: [Region(square(low, high), np.eye(2, 3), 6, False)] for row in rows}
    return RecurringMark(FixedPlace(low, high), regions, target, p)


class FixedPlace:
    """Template that is located at one place of every image with features."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def locate_features(self, images: LocalFeatures) -> dict[int, list[Region]]:
        place = Region(square(self.low, self.high), np.eye(2, 3), 6, False)
        return {number: [place] for number in np.unique(images.image).tolist()}


def set_with_squares() -> MarkedSet:
    clean = grey_set(6)
    masks = clean.masks.copy()
    masks[[0, 2], 20:40, 20:40] = True
    return MarkedSet(clean.images, clean.labels, masks, np.isin(np.arange(6), [0, 2]))


def test_the_planted_mark_has_its_class_its_images_and_its_place():
    searched = set_with_squares()
    right = fixed_mark(0, [0, 2], 20, 39, 1e-4)
    others = [
        fixed_mark(1, [0, 2], 20, 39, 1e-5),  # another class
        fixed_mark(0, [0, 2], 60, 99, 1e-5),  # another place
        fixed_mark(0, [0, 1, 3], 20, 39, 1e-5),  # mostly images without the mark
    ]
    result = evaluate_search(MarkSearchResult([*others, right], 100, []), 0, searched, 0.05)
    assert result["rank"] == 4 and result["significant"] and result["other_significant"] == 3
    result = evaluate_search(MarkSearchResult([right], 1000, []), 0, searched, 0.05)
    assert result["rank"] == 1 and not result["significant"]
    result = evaluate_search(MarkSearchResult(others, 10, []), 0, searched, 0.05)
    assert result["rank"] is None and not result["significant"]


def test_places_in_fresh_images_worked_out_by_hand():
    fresh = set_with_squares()
    image = np.array([0, 4])  # the mark of image 2 is missed, image 4 has a false place
    features = LocalFeatures(
        np.zeros((2, 2)), np.ones(2), np.zeros(2), np.eye(2, 4), image, len(fresh.labels)
    )
    places = evaluate_places(fixed_mark(0, [0], 20, 39, 0.1), features, fresh)
    assert places["iou"] == 0.5 and places["detected"] == 0.5 and places["false"] == 0.25
    assert 0.25 <= places["ap"] <= 0.3  # half of the pixels at a precision of one half
    assert evaluate_places(None, features, fresh)["iou"] == 0


def test_replaced_images_have_their_new_features_only():
    def features(images: list[int], value: float, n_images: int) -> LocalFeatures:
        count = len(images)
        return LocalFeatures(np.full((count, 2), value), np.ones(count), np.zeros(count),
                             np.eye(count, 4), np.array(images), n_images)  # fmt: skip

    base, others = features([0, 0, 1, 2], 1.0, 3), features([0, 1, 1], 2.0, 2)
    whole = replace_images(base, others, np.array([0, 2]), np.array([2]))
    assert whole.image.tolist() == [0, 0, 1, 2, 2] and whole.n_images == 3
    assert whole.xy[:, 0].tolist() == [1, 1, 1, 2, 2]


def test_the_mask_of_a_fixed_watermark_is_that_of_the_changed_pixels(monkeypatch):
    def darkened(image: np.ndarray) -> np.ndarray:
        changed = image.copy()
        changed[2:5, 1:9] = changed[2:5, 1:9] // 2 + 60
        return changed

    monkeypatch.setattr(marked_models, "watermark", darkened)
    clean = grey_set()
    is_marked = np.arange(len(clean.labels)) < 2
    case = marked_models.Case("compositions", marked_models.IMAGENET_W, 0.5, 3, is_fixed=True)
    drawn = marked_models.mark(clean, case, is_marked, 0)
    assert drawn.is_marked.tolist() == is_marked.tolist() and not drawn.masks[2:].any()
    for row in range(2):
        np.testing.assert_array_equal(drawn.images[row], darkened(clean.images[row]))
        assert np.argwhere(drawn.masks[row]).min(axis=0).tolist() == [2, 1]
        assert drawn.masks[row].sum() == 3 * 8


def test_constants_of_a_method_hold_only_inside():
    before = matching.MAX_RATIO, matching.MAX_ERROR
    with matching_constants(METHODS["keys, 224 px"]):
        assert matching.MAX_ERROR == 10
    assert before == (matching.MAX_RATIO, matching.MAX_ERROR)


def test_tables_worked_out_by_hand():
    """Four seeds; SIFT finds the mark in three, ORB in one of two."""

    def result(seed: int, method: str, rank: int | None, twin: str = "") -> dict:
        case = {"dataset": "CIFAR-10", "kind": "tag", "rate": 0.5, "seed": seed, "method": method,
                "twin": twin}  # fmt: skip
        fresh = {"iou": 0.5, "detected": 1.0, "false": 0.0, "ap": 0.5 if rank else 0.0}
        return {"case": case, "rank": rank, "significant": rank == 1, "other_significant": 0,
                "seconds": 2.0, "with_mark": 20, "marks": 3, "fresh": fresh}  # fmt: skip

    results = [result(seed, "SIFT", rank) for seed, rank in zip(range(21, 25), (1, 1, 1, None),
                                                                strict=True)]  # fmt: skip
    results += [result(21, "ORB", 1), result(22, "ORB", 3)]
    results += [result(seed, "SIFT", None, "clean") for seed in range(21, 25)]
    rows = {name: table["rows"] for name, table in tables(results).items()}
    assert rows["marks"][0]["recall1"] == "0.75 [0.19, 0.99]" and rows["marks"][0]["rank"] == 1
    assert [row["kind"] for row in rows["marks"]] == ["all", "tag"]
    (orb,) = rows["marks_controls"]
    assert (orb["searches"], orb["ours recall1"], orb["recall1"]) == (2, 1, 0.5)
    assert orb["difference recall1"].startswith("+0.50 [")
    clean = rows["marks_twins"][0]
    assert (clean["searches"], clean["alarms"], clean["rate"]) == (4, 0, "0.00 [0.00, 0.60]")
    low, high = proportion_interval(3, 3)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 3))


def test_maps_are_compared_with_the_marks_of_the_same_images(monkeypatch, tmp_path):
    maps, marks, searched = tmp_path / "maps", tmp_path / "marks", []
    maps.mkdir(), marks.mkdir()
    for seed, rank, ours, theirs in ((21, 1, 0.9, 0.1), (22, 2, 0.7, 0.2)):
        case = marked_models.Case("compositions", "tag", 0.5, seed)
        searched.append({"case": asdict(case), "rank": rank, "confirmed": rank == 1})
        file = MarkSearch("compositions", "tag", 0.5, seed).file
        (marks / file).write_text(json.dumps({"fresh": {"ap": ours}}))
        methods = {"SpRAy": {"rank": 1, "ap": theirs}}
        if seed == 22:
            methods["kinds of patches"] = {"rank": None, "confirmed": False, "ap": theirs}
        (maps / case.file).write_text(json.dumps({"case": asdict(case), "methods": methods}))
    monkeypatch.setattr(marks_in_models_table, "MAPS", maps)
    monkeypatch.setattr(marks_in_models_table, "MARK_RESULTS", marks)
    own, spray, kinds = marks_in_models_table.map_rows(searched)
    assert own == {"dataset": "compositions", "rate": 0.5, "method": "marks", "models": 2,
                   "first": 0.5, "confirmed": "0.50", "ap": pytest.approx(0.8),
                   "difference": "–"}  # fmt: skip
    assert spray["method"] == "SpRAy" and spray["first"] == 1 and spray["confirmed"] == "–"
    assert spray["ap"] == pytest.approx(0.15)
    assert spray["difference"] == "+0.65 [+0.50, +0.80]"
    assert (kinds["models"], kinds["first"], kinds["confirmed"]) == (1, 0, "0.00")
    assert kinds["difference"].startswith("+0.50 [")


def test_kinds_of_patches_are_searched_without_marks():
    assert "_find_marks" in Search.discover.__code__.co_names
    assert mark_maps.KindSearch._find_marks(None) == ([], 0, 0)


def test_models_with_more_training_images_have_files_and_rows_of_their_own(monkeypatch, tmp_path):
    few = marked_models.Case("compositions", "tag", 0.5, 26)
    more = replace(few, n_train=marked_models.MORE_TRAIN)
    assert (few.file, more.file) == (
        "compositions_moving_tag_0.5_26.json", "compositions_moving_tag_0.5_26_2340.json",
    )  # fmt: skip
    files = [case.file for case in marked_models.cases()]
    assert len(files) == len(set(files)) and more.file in files
    for case, rank in ((few, 2), (more, 1)):
        result = {
            "case": asdict(case), "rank": rank, "confirmed": rank == 1, "false": 0,
            "true_effects": {"removal_p": 0.01 * rank, "specificity_p": 0.03 * rank},
            "seconds": {"search": 9.0},
        }  # fmt: skip
        if case is few:
            del result["case"]["n_train"]  # as in results from before
        (tmp_path / case.file).write_text(json.dumps(result))
    monkeypatch.setattr(marks_in_models_table, "RESULTS", tmp_path)
    rows = list(marks_in_models_table.search_rows(marks_in_models_table.read_results()))
    assert [row["n_train"] for row in rows] == [780, 780, 2340, 2340]
    assert [row["first"] for row in rows] == [0, 0, 1, 1]
    assert [row["confirmed_used"] for row in rows] == ["0 of 0", "0 of 0", "1 of 1", "1 of 1"]


def test_the_number_of_training_images_is_that_of_the_case(monkeypatch, tmp_path):
    drawn = []

    def compositions(split: str, count: int, seed: int) -> MarkedSet:
        drawn.append((split, count, seed))
        return grey_set()

    monkeypatch.setattr(marked_models, "compositions", compositions)
    monkeypatch.setattr(marked_models, "last_inputs", lambda images: np.zeros((len(images), 1)))
    monkeypatch.setattr(marked_models, "load_clean", lambda _, seed: grey_set(seed))
    few = marked_models.Case("compositions", "tag", 0.5, 26, twin="clean")
    for case in (few, replace(few, n_train=2340)):
        marked_models.training_inputs(case, tmp_path)
    assert drawn == [("train", count, 526) for count in (780, 2340)]
    assert len(list(tmp_path.iterdir())) == 2
    photographs = marked_models.training_images("CIFAR-10", -490, 1170)
    assert len(photographs.labels) == 10 + 11 + 12
    marked_models.training_images.cache_clear()
