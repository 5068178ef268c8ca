"""The confounded task: who stands where, which scenes are kept apart, and what the table says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import confounded_birds as birds
from benchmarks.datasets.confounded_birds import BIRDS, DEVELOPMENT, GROUPS, TEST, ConfoundedBirds
from benchmarks.studies.prompting.arms import ARMS, LIMIT, OURS
from benchmarks.studies.prompting.prompting_table import result, scenes


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for scene in (*DEVELOPMENT[0], *DEVELOPMENT[1], *TEST[0], *TEST[1]):
        path = tmp_path / scene
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    folder = tmp_path / "tuxpaint/stamps/animals/birds"
    folder.mkdir(parents=True)
    for name in (*BIRDS[0], *BIRDS[1]):
        Image.fromarray(np.full((40, 40, 4), 255, np.uint8)).save(folder / f"{name}.png")
    return tmp_path


def test_splits_share_no_scene_and_seeds_choose_differently(root):
    validation_splits = set()
    for seed in range(6):
        split = {name: ConfoundedBirds(root, name, 4, seed).scenes for name in
                 ("train", "validation", "test")}  # fmt: skip
        flat = [set(land) | set(water) for land, water in split.values()]
        assert not flat[0] & flat[1] and not (flat[0] | flat[1]) & flat[2]
        assert [len(part) for part in split["validation"]] == list(birds.FOR_VALIDATION)
        assert flat[0] | flat[1] == {*DEVELOPMENT[0], *DEVELOPMENT[1]}
        validation_splits.add(split["validation"])
    assert len(validation_splits) > 2
    assert not set(BIRDS[0]) & set(BIRDS[1])


def test_training_agrees_as_asked_and_groups_are_even(root):
    train = ConfoundedBirds(root, "train", 400, 0, agreeing=0.9, size=16)
    agree = np.mean([sample.label == sample.place for sample in train])
    assert 0.85 < agree < 0.95
    assert np.mean([sample.label for sample in train]) == 0.5
    test = ConfoundedBirds(root, "test", 5, 0, size=16)
    assert np.bincount([sample.group for sample in test]).tolist() == [5] * 4
    for sample in test:
        assert sample.scene in TEST[sample.place] and sample.mask.any()
        assert sample.image.shape == (16, 16, 3)
    again = ConfoundedBirds(root, "test", 9, 0, size=16)
    np.testing.assert_array_equal(again[7].image, test[7].image)
    with pytest.raises(ValueError, match="split: expected train"):
        ConfoundedBirds(root, "all", 5, 0)
    with pytest.raises(IndexError, match="expected 0 to 19, got 20"):
        test[20]


def test_the_table_of_results_worked_out_by_hand():
    """Two seeds, four images a group: none is right on 2 of 4, the mask on all, ours on 3."""
    group = [number for number in range(4) for _ in range(4)]
    rights = {"none": "1100", LIMIT: "1111", OURS: "1110"}
    seeds = [
        {
            "group": group, "scene": [f"backgrounds/{number}.jpg" for number in group],
            "background": [0.5 * number for number in group], "apart": 0.0,
            "arms": {
                arm.name: {
                    "option": 0.5, "confounded": 4 * rights.get(arm.name, "1000"),
                    "even": 4 * "1111",
                }
                for arm in ARMS
            },
        }
        for _ in range(2)
    ]  # fmt: skip
    seeds[1]["arms"]["none"]["confounded"] = "1100" * 3 + "0000"
    table = result(seeds, 8, 4, LIMIT, OURS, draws=50)
    rows = {row["arm"]: row for row in table["rows"]}
    assert rows["none"]["mean"] == pytest.approx(100 * (4 * 0.5 + 3 * 0.5) / 8)
    assert rows["none"]["worst"] == pytest.approx(25.0)  # of .5 and 0
    assert rows[OURS]["mean"] == 75 and rows[OURS]["worst"] == 75
    assert rows[OURS]["mean_part"] == pytest.approx((75 - 43.75) / (100 - 43.75))
    assert rows[OURS]["worst_part"] == pytest.approx(50 / 75)
    assert rows[OURS]["mean_gain"].startswith("+31.2 [")
    assert rows[LIMIT]["even"] == "+0.0 [+0.0, +0.0]"
    assert rows["sobel"]["mean"] == 25 and rows[OURS]["mean_sobel"].startswith("+50.0")
    by_scene = scenes(seeds, OURS, LIMIT)["rows"]
    assert [row["images"] for row in by_scene] == [8] * len(GROUPS)
    first, last = by_scene[0], by_scene[-1]
    assert (first["density"], first["none"], first["prompted"]) == (0.0, 50.0, 75.0)
    assert (last["bird"], last["none"], last["limit"]) == ("water", 25.0, 100.0)
