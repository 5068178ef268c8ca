"""Tests of the comparison of targets: control targets, crops, resuming, and the tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from benchmarks.studies.pretraining import (
    fine_tuning,
    pretraining_data,
    target_arms as arms,
    target_controls as controls,
    target_cost as cost,
    target_training as training,
    targets as bench,
    targets_scaling as scaling,
    targets_table as table,
)
from benchmarks.studies.pretraining.target_epochs import SeedEpochs
from benchmarks.studies.pretraining.target_rates import best_rate
from benchmarks.tools import render_tables
from semattn.keypoints import detect
from semattn.masking import loss_weights

PATCH, WINDOW = 8, 16.0


def images_of(count=3, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", arms.TARGET_ARMS)
def test_targets_of_an_arm_have_the_length_of_its_head(name):
    arm = arms.TARGET_ARMS[name]
    images = images_of()
    words = arms.fit_arm_words(arm, images, PATCH, seed=0)
    targets = arms.targets_of(arm, images, PATCH, chance(), words)
    length = arms.head_length(arm, PATCH, words)
    if words is not None:
        assert targets.shape == (3, 16)
        assert 0 <= int(targets.min()) <= int(targets.max()) < length
        return
    assert targets.shape == (3, 16, length)
    assert torch.isfinite(targets).all()
    if name != "raw pixels":
        torch.testing.assert_close(targets.square().mean(-1), torch.ones(3, 16), atol=2e-2, rtol=0)


def test_every_arm_is_a_change_of_one_property():
    decisive = [arms.TARGET_ARMS[name] for name in arms.DECISIVE]
    assert [arm.masks for arm in decisive] == ["random"] * len(decisive)
    settings = [(arm.target, arm.weight, arm.masks) for arm in arms.TARGET_ARMS.values()]
    assert len(set(settings)) == len(settings)


def test_sobel_magnitude_of_a_ramp_is_its_slope():
    ramp = torch.arange(16.0) / 64
    images = ramp.expand(1, 3, 16, 16)
    torch.testing.assert_close(
        controls.sobel_magnitude(images)[0, 0, :, 1:-1], torch.full((16, 14), 1 / 64)
    )
    # a ramp has the same gradient everywhere but at the borders, which are reflected
    energy = controls.gradient_energy(ramp.expand(1, 3, 16, 16), 8)
    torch.testing.assert_close(energy, torch.ones(1, 4))
    torch.testing.assert_close(
        controls.sobel_magnitude(images.mT), controls.sobel_magnitude(images).mT
    )


def test_shifted_counts_are_those_of_the_other_half_of_the_image():
    counts = torch.arange(12.0).reshape(1, 12)  # 3 rows of 4
    shifted = controls.shift_counts(counts, (3, 4)).reshape(3, 4)
    assert shifted.tolist() == [[10, 11, 8, 9], [2, 3, 0, 1], [6, 7, 4, 5]]


def test_shuffled_orientations_keep_the_values_and_the_energy_of_each_cell():
    images = images_of()
    sift = controls.sift(images, PATCH, WINDOW, chance()).unflatten(-1, (16, 8))
    shuffled = controls.shuffled_orientations(images, PATCH, WINDOW, chance(1))
    bins = shuffled.unflatten(-1, (16, 8))
    torch.testing.assert_close(bins.sort(-1).values, sift.sort(-1).values)
    assert not torch.equal(bins, sift)
    # the cells of a patch share an order, which differs between patches and images
    columns, expected = bins.mT, sift.mT  # (B, P, orientations, cells)
    is_same = (columns[:, :, :, None] - expected[:, :, None]).abs().amax(-1) < 1e-6
    assert torch.equal(is_same.sum(-1), torch.ones(3, 16, 8, dtype=torch.long))
    orders = {tuple(order) for order in is_same.int().argmax(-1).flatten(0, 1).tolist()}
    assert len(orders) > 40  # of 48 patches
    again = controls.shuffled_orientations(images, PATCH, WINDOW, chance(1))
    assert torch.equal(again, shuffled)
    assert not torch.equal(controls.shuffled_orientations(images, PATCH, WINDOW, chance(2)), again)


def test_without_orientations_is_the_norm_of_the_cells():
    images = images_of()
    sift = controls.sift(images, PATCH, WINDOW, chance()).unflatten(-1, (16, 8))
    energy = controls.without_orientations(images, PATCH, WINDOW, chance())
    torch.testing.assert_close(energy, sift.norm(dim=-1) * (16 / 128) ** 0.5)


def test_random_filters_see_no_brightness_and_the_window_of_sift():
    images = images_of(1, 64) * 0.5
    filters = controls.random_filters(images, PATCH, WINDOW, chance())
    brighter = controls.random_filters(images + 0.3, PATCH, WINDOW, chance())
    torch.testing.assert_close(filters, brighter, atol=1e-3, rtol=0)
    changed = images.clone()
    changed[:, :, 44:, 44:] = 0.1  # outside the windows of the patches near the first corner
    near = controls.random_filters(changed, PATCH, WINDOW, chance())[0, 0]
    torch.testing.assert_close(near, filters[0, 0])
    assert not torch.equal(
        controls.random_filters(changed, PATCH, WINDOW, chance())[0, 63], filters[0, 63]
    )


def test_blurred_pixels_are_the_window_at_half_resolution():
    images = images_of(1, 32)
    blurred = controls.blurred_pixels(images, PATCH, WINDOW, chance())
    row, column = 1, 2  # its window begins half a patch before it
    window = images[0, :, 8 * row - 4 : 8 * row + 12, 8 * column - 4 : 8 * column + 12]
    small = window.reshape(3, 8, 2, 8, 2).mean((2, 4)).flatten()
    expected = (small - small.mean()) / small.std()
    torch.testing.assert_close(blurred[0, 4 * row + column], expected, atol=1e-4, rtol=0)


def test_another_image_is_never_the_own():
    images = images_of()
    other = controls.other_image(images, PATCH, WINDOW, chance())
    assert torch.equal(other[1:], controls.sift(images, PATCH, WINDOW, chance())[:-1])


def test_weights_are_those_of_the_library_and_their_controls():
    images, counts = images_of(2), torch.rand(2, 16).mul(5).round()
    weights = {
        name: arms.weights_of(arm, images, counts, PATCH) for name, arm in arms.TARGET_ARMS.items()
    }
    assert weights["SIFT"] is None and weights["pixels"] is None
    expected = loss_weights("keypoints-linear", counts)
    torch.testing.assert_close(weights["SIFT weighted"], expected)
    shifted = weights["SIFT, weighted by shifted keypoints"]
    torch.testing.assert_close(shifted, controls.shift_counts(expected, (4, 4)))
    for name in ("SIFT, weighted by energy", "SIFT, saturating weights"):
        torch.testing.assert_close(weights[name].mean(1), torch.ones(2))
    with pytest.raises(ValueError, match="expected keypoint counts"):
        arms.weights_of(arms.TARGET_ARMS["SIFT weighted"], images, None, PATCH)


def test_epochs_are_the_same_for_every_arm_and_after_memory_was_freed(monkeypatch):
    pictures = pretraining_data.synthetic(32, 6, 3, 3).pictures
    epochs = SeedEpochs(pictures, 32, 8, seed=3)
    epochs.detect_keypoints()
    first = epochs.epoch(0, with_counts=True)
    assert first.seconds > 0 and sorted(first.indices) == list(range(6))
    assert first.counts.shape == (6, 16)
    assert epochs.epoch(0).pixels is first.pixels
    monkeypatch.setattr("benchmarks.studies.pretraining.target_epochs.KEPT_BYTES", 0)
    assert not np.array_equal(epochs.epoch(1).pixels, first.pixels)
    again = epochs.epoch(0, with_counts=True)
    assert again.pixels is not first.pixels
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert again.indices == first.indices
    assert torch.equal(again.counts, first.counts)


def test_keypoints_of_a_seed_are_detected_in_full_pictures():
    pictures = pretraining_data.synthetic(32, 4, 3, 3).pictures
    epochs = SeedEpochs(pictures, 32, 8, seed=0)
    assert epochs.detect_keypoints() == epochs.detect_keypoints() > 0
    for index in range(4):
        expected = detect(pictures[index][None])[0]
        assert torch.equal(epochs.keypoints[index].xy, expected.xy)


def test_the_schedule_warms_up_and_ends_near_zero():
    rates = [training.rate_at(step, 200, 2.0) for step in range(200)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert max(rates) == rates[9] == 2.0
    assert rates[105] == pytest.approx(1.0)
    assert 0 < rates[-1] < 1e-3


def study(folder, **options):
    protocol = bench.TargetProtocol("least", 32, 8, 3, 8)
    for name in ("results", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return bench.Study(protocol, folder / "results", folder / "work", **options)


def smoke_data():
    return pretraining_data.synthetic(32, pictures=16, train=12, test=6)


def test_an_interrupted_run_continues_with_the_same_result(tmp_path, monkeypatch):
    arm = "SIFT, weighted by shifted keypoints"
    whole = study(tmp_path / "whole").run(arm, 0, smoke_data())

    class StopError(Exception):
        pass

    keep, stored = bench.keep, []

    def stop(path, result):
        stored.append(result)
        if len(stored) == 3:
            raise StopError
        keep(path, result)

    with monkeypatch.context() as patch:
        patch.setattr(bench, "keep", stop)
        with pytest.raises(StopError):
            study(tmp_path / "parts").run(arm, 0, smoke_data())
    assert list((tmp_path / "parts" / "work").glob("*.pt"))
    parts = study(tmp_path / "parts").run(arm, 0, smoke_data())
    assert not list((tmp_path / "parts" / "work").glob("*.pt"))
    assert [entry["epoch"] for entry in parts["curve"]] == [0, 1, 2, 3]
    for actual, expected in zip(parts["curve"], whole["curve"], strict=True):
        for name in ("loss", "knn_right", "linear_right"):
            assert actual[name] == expected[name]
    assert parts["finetune_right"] == whole["finetune_right"]
    seconds = [entry["seconds"] for entry in parts["curve"]]
    assert seconds == sorted(set(seconds))
    monkeypatch.setattr(bench, "pretrain_arm", None)  # a finished run is read
    assert study(tmp_path / "parts").run(arm, 0, smoke_data()) == json.loads(
        next((tmp_path / "parts" / "results").glob("*.json")).read_text()
    )


def test_arms_of_a_seed_begin_with_the_same_encoder():
    models = [training.model_of(bench.LEAST, 32, 8, 0.75, 5, outputs) for outputs in (192, 128)]
    states = [model.vit.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert models[1].decoder.decoder_pred.out_features == 128


def test_fine_tuning_learns_its_labels_and_sees_all_patches():
    labels = np.arange(32) % 2  # dark and bright images
    noise = np.random.default_rng(0).integers(0, 60, (32, 32, 32, 3))
    images = pretraining_data.Labelled(
        (noise + 150 * labels[:, None, None, None]).astype(np.uint8), labels
    )
    model = training.model_of(bench.LEAST, 32, 8, 0.75, 0, 1)
    before = model.vit.embeddings.patch_embeddings.projection.weight.clone()
    result = fine_tuning.fine_tune(model, images, images, 0, epochs=40)
    assert result["finetune"] > 0.9
    assert result["finetune_epochs"] == 40
    assert not torch.equal(before, model.vit.embeddings.patch_embeddings.projection.weight)
    assert model.config.mask_ratio == 0.75


def test_decisive_arms_run_first():
    names = list(arms.TARGET_ARMS)
    runs = bench.pending(names, [21, 22])
    count = len(arms.DECISIVE)
    assert {arm for arm, _ in runs[: 2 * count]} == set(arms.DECISIVE)
    assert [seed for _, seed in runs[: 2 * count]] == [21] * count + [22] * count
    assert len(set(runs)) == len(runs) == 2 * len(names)


@pytest.mark.skipif(
    not pretraining_data.objects_root().exists(), reason="objects on scenes are not fetched"
)
def test_compositions_of_probes_follow_those_of_training():
    sizes = {"size": 16, "train": 3, "test": 2, "split": "validation"}
    data = pretraining_data.compositions(pictures=2, **sizes)
    more = pretraining_data.compositions(pictures=4, **sizes)
    assert data.pictures.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(more.pictures[2:], data.train.pixels[:2])
    np.testing.assert_array_equal(more.test.pixels, data.test.pixels)
    assert len(data.train.labels) == 3 and len(data.test.labels) == 2


def test_development_and_fresh_seeds_are_not_mixed(tmp_path):
    shared = ["--smoke", "--results", str(tmp_path), "--work", str(tmp_path / "work")]
    with pytest.raises(SystemExit, match="got both"):
        bench.main([*shared, "--seeds", "0,21"])
    with pytest.raises(SystemExit, match="--arms: expected"):
        bench.main([*shared, "--arms", "sift"])


# ------------------------------------------------------------------ tables


def run_of(arm, seed, accuracies, seconds_per_epoch=10.0, images=80, tuned=None):
    """Return a run whose accuracies are the given numbers of right images."""

    def packed(count):
        return np.packbits(np.arange(images) < count).tobytes().hex()

    curve = [
        {"epoch": epoch, "seconds": seconds_per_epoch * epoch, "loss": None,
         **dict.fromkeys(table.PROBES, count / images),
         **{f"{probe}_right": packed(count) for probe in table.PROBES}}
        for epoch, count in enumerate(accuracies)
    ]  # fmt: skip
    about = {
        "test": images, "data": "CIFAR-10", "pictures": 10_000, "image_size": 64, "model": "small",
        "epochs": len(accuracies) - 1, "split": "test", "patch_size": 8,
    }  # fmt: skip
    spec = arms.TARGET_ARMS.get(arm)
    run = {"arm": arm, "seed": seed, "about": about, "curve": curve, "finished": True,
           "learning_rate": spec.learning_rate if spec else 0.0}  # fmt: skip
    if tuned is not None:
        run |= {"finetune": tuned / images, "finetune_right": packed(tuned)}
    return run


def stored_runs(folder):
    runs = [run_of("pixels", seed, [20, 30, 40], tuned=40) for seed in (21, 22)]
    runs += [run_of("SIFT", seed, [20, 40, 60], 15.0, tuned=48) for seed in (21, 22)]
    runs += [run_of("HOG", 21, [20, 25, 36], tuned=36), run_of("words", 23, [20, 30, 80])]
    runs += [run_of("SIFT", 0, [20, 40, 60])]
    other = run_of("SIFT", 1, [20, 40, 60])
    runs += [other | {"learning_rate": 0.5}]
    for number, run in enumerate(runs):
        (folder / f"{number}.json").write_text(json.dumps(run))


def test_tables_of_known_accuracies(tmp_path):
    stored_runs(tmp_path)
    runs = table.read_runs(tmp_path, {"data": "CIFAR-10", "epochs": 2})
    assert {arm: sorted(by_seed) for arm, by_seed in runs.items()} == {
        "pixels": [21, 22], "SIFT": [21, 22], "HOG": [21], "words": [23],
    }  # fmt: skip
    to_base = table.compare_all(runs, "pixels")
    assert set(to_base) == {"SIFT", "HOG"}
    floors = {"raw pixels": {"knn": 0.25, "linear": 0.5}}
    final = {row["arm"]: row for row in table.final_table(runs, to_base, floors)["rows"]}
    assert list(final) == ["pixels", "SIFT", "HOG", "words", "untrained encoder", "raw pixels"]
    assert final["pixels"]["knn"] == 50 and final["SIFT"]["linear"] == 75
    assert final["SIFT"]["finetune"] == 60 and final["words"]["finetune"] is None
    assert final["SIFT"]["knn_difference"].startswith("+25.0 [+")
    assert final["SIFT"]["knn_difference"].endswith(", 2 of 2")
    assert final["HOG"]["finetune_difference"].startswith("-5.0 [")
    assert final["HOG"]["finetune_difference"].endswith(", 0 of 1")
    assert "knn_difference" not in final["words"]
    assert final["untrained encoder"]["knn"] == 25 and final["raw pixels"]["linear"] == 50
    time = {row["arm"]: row for row in table.time_table(runs, to_base)["rows"]}
    assert set(time) == {"SIFT", "HOG"}
    # SIFT reaches 40 after 1 of 2 epochs, each of which takes 1.5 times as long
    assert time["SIFT"]["knn_epochs"].startswith("0.50 [")
    assert time["SIFT"]["knn_seconds"].startswith("0.75 [")
    assert time["HOG"]["linear_epochs"].startswith("not reached")
    control = {row["arm"]: row for row in table.control_table(runs)["rows"]}
    assert set(control) == {"pixels", "HOG"}
    assert control["HOG"]["seeds"] == 1
    assert control["HOG"]["knn"].startswith("+30.0 [+")
    assert control["pixels"]["finetune"].startswith("+10.0 [")


def test_intervals_of_one_seed_are_over_images_and_of_equal_arms_are_zero():
    first, second = run_of("SIFT", 21, [20, 40]), run_of("pixels", 21, [20, 40])
    _, same = table.compare({21: first}, {21: second})
    assert set(same["knn"]["difference"].values()) == {0.0}
    assert same["knn"]["ahead"] == 0
    # 10 of 80 images differ: a binomial part with a standard error of 3.7 points
    _, ahead = table.compare({21: run_of("SIFT", 21, [20, 50])}, {21: second})
    difference = ahead["knn"]["difference"]
    assert difference["value"] == pytest.approx(0.125)
    assert 0.04 < difference["low"] < 0.08 < 0.17 < difference["high"] < 0.22


def test_fresh_seeds_have_one_learning_rate_and_development_runs_that_of_the_arm(tmp_path):
    stored_runs(tmp_path)
    development = table.read_runs(tmp_path, {}, fresh=False)
    assert {arm: list(by_seed) for arm, by_seed in development.items()} == {"SIFT": [0]}
    second = run_of("SIFT", 21, [20, 40, 60]) | {"learning_rate": 0.5}
    (tmp_path / "second.json").write_text(json.dumps(second))
    with pytest.raises(SystemExit, match="got two learning rates"):
        table.read_runs(tmp_path, {})


def test_the_best_rate_is_that_of_the_longest_development_runs(tmp_path):
    def store(rate, seed, accuracies, **changes):
        run = run_of("SIFT", seed, accuracies) | {"learning_rate": rate} | changes
        (tmp_path / f"{len(list(tmp_path.iterdir()))}.json").write_text(json.dumps(run))

    def best():
        return best_rate(tmp_path, "SIFT", "small", 64)

    assert best() == arms.TARGET_ARMS["SIFT"].learning_rate
    store(0.1, 0, [20, 30, 60])
    assert best() == arms.TARGET_ARMS["SIFT"].learning_rate
    store(0.2, 0, [20, 30, 40])
    assert best() == 0.1
    store(0.2, 1, [20, 30, 70])  # a mean of 55
    assert best() == 0.1
    store(0.3, 21, [20, 30, 80])  # a fresh seed
    store(0.3, 0, [20, 30, 80], finished=False)
    store(0.3, 0, [20, 30, 30, 80])  # one rate of more epochs
    assert best() == 0.1
    store(0.2, 0, [20, 30, 30, 79])
    assert best() == 0.3
    assert best_rate(tmp_path, "SIFT", "larger", 64) == arms.TARGET_ARMS["SIFT"].learning_rate


def test_scaling_has_one_row_for_each_setting_and_arm(tmp_path):
    stored_runs(tmp_path)
    longer = [run_of(arm, 21, [20, 30, 35, 40 + (arm == "SIFT")]) for arm in ("pixels", "SIFT")]
    for number, run in enumerate(longer):
        (tmp_path / f"longer-{number}.json").write_text(json.dumps(run))
    for path in list(tmp_path.glob("*.json")):  # the names that `targets` gives
        arm = json.loads(path.read_text())["arm"]
        path.rename(path.with_name(f"{path.stem}-{arm}-0.001-21.json"))
    rows = scaling.scaling_table(tmp_path)["rows"]
    settings = [(row["setting"].rsplit(", ", 1)[1], row["arm"], row["seeds"]) for row in rows]
    assert settings == [("2 epochs", "SIFT", 2), ("2 epochs", "HOG", 1), ("3 epochs", "SIFT", 1)]
    assert rows[0]["knn"] == 50
    assert rows[0]["knn_difference"].startswith("+25.0 [")
    assert rows[2]["linear_difference"].startswith("+1.3 [")
    assert "finetune_difference" not in rows[2]


def test_parts_are_the_inverse_of_speed_ups():
    assert table.said_part({"value": 0.0, "low": 0.0, "high": 0.0}) == "not reached"
    assert table.said_part({"value": 0.0, "low": 0.0, "high": 2.0}) == (
        "not reached [0.50, not reached]"
    )
    assert table.said_part({"value": 2.5, "low": 2.0, "high": 4.0}) == "0.40 [0.25, 0.50]"


def test_tables_of_a_smoke_run_are_rendered(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    shared = ["--smoke", "--results", str(results), "--work", str(tmp_path / "work")]
    names = "pixels,SIFT,words,SIFT-scheduled-masks,supervised"
    bench.main([*shared, "--seeds", "0", "--arms", names])
    bench.main([*shared, "--seeds", "0", "--arms", "SIFT", "--rates", "5e-4,5e-3"])
    assert len(list(results.glob("*.json"))) == 7  # 5 arms, one more rate, and the floors
    capsys.readouterr()
    bench.main([*shared, "--seeds", "0", "--arms", "SIFT", "--development", str(results)])
    stored = capsys.readouterr().out.splitlines()
    rate = json.loads(stored[0].removeprefix("learning rates: "))["SIFT"]
    assert json.loads(stored[1])["rate"] == rate in (5e-4, 5e-3)
    assert len(list(results.glob("*.json"))) == 7
    out = tmp_path / "pretraining_targets.json"
    setting = ["--data", "drawn", "--pictures", "24", "--size", "32", "--model", "least",
               "--epochs", "2"]  # fmt: skip
    argv = ["targets_table", "--development", "--results", str(results), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*argv, *setting])
    monkeypatch.setattr("benchmarks.studies.pretraining.pretraining_table.DRAWS", 20)
    table.main()
    capsys.readouterr()
    for suffix in ("_development", "_development_time", "_development_controls", "_rates"):
        stored = json.loads((tmp_path / f"pretraining_targets{suffix}.json").read_text())
        text = render_tables.table(stored)
        assert "SIFT" in text
        assert "HOG |" not in text or "HOG of the image" in text
    rates = json.loads((tmp_path / "pretraining_targets_rates.json").read_text())
    assert [column["key"] for column in rates["columns"]] == [
        "arm",
        "epochs",
        "0.0005",
        "0.001",
        "0.005",
    ]
    monkeypatch.setattr("sys.argv", [*argv, "--epochs", "7"])
    with pytest.raises(SystemExit, match="expected finished runs"):
        table.main()


def test_ratios_of_cost_are_computed_within_a_round(tmp_path, monkeypatch, capsys):
    seconds = {"pixels": [1.0, 2.0, 4.0], "SIFT": [1.5, 2.2, 8.0]}
    rows = cost.cost_table(seconds, "")["rows"]
    assert rows[1]["step_ms"] == 2200 and rows[1]["ratio"] == 1.5
    out = tmp_path / "cost.json"
    monkeypatch.setattr("sys.argv", ["cost", "--smoke", "--rounds", "1", "--out", str(out)])
    cost.main()
    capsys.readouterr()
    stored = json.loads(out.read_text())
    assert [row["arm"] for row in stored["rows"]] == list(arms.TARGET_ARMS)
    assert "SIFT" in render_tables.table(stored)
