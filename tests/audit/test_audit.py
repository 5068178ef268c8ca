"""Audits: correct rows, equal results for any number of processes, interruptions, and faults."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from torch import nn

from semattn import SIFTPatchInterrelation, analyze
from semattn.audit import audit
from semattn.audit.tables import explanation_rows
from semattn.data import open_source, prefetching as loading
from semattn.errors import SemattnError, UnsupportedModelError
from semattn.images import prepare
from tests.audit.pictures import archive, folder, picture, results, tiny

pytestmark = pytest.mark.usefixtures("small_units")


def rows(out, name="explain"):
    return parquet.read_table(out / f"{name}.parquet").to_pylist()


def test_rows_and_maps_are_those_of_the_explainer(tmp_path, source):
    model, out = tiny(), tmp_path / "out"
    result = audit(model, source, out, batch_size=3)
    table = rows(out)
    assert [row["name"] for row in table] == [f"{n:03}.png" for n in range(11)]
    assert result.images == 12 and result.waiting == 0 and result.summary["explained"] == 11
    assert [skipped.name for skipped in result.skipped] == ["words.txt"]
    assert [row["name"] for row in rows(out, "skipped")] == ["words.txt"]
    assert "whose format is unknown" in rows(out, "skipped")[0]["reason"]
    for row in table[::5]:
        explanation = SIFTPatchInterrelation().explain(model, picture(int(row["name"][:3])))
        expected = explanation.patch_map[0].double().numpy()
        expected /= expected.sum()
        with np.load(out / "maps" / f"{row['unit']:06}.npz") as unit:
            actual = unit["maps"][row["row"]]
        np.testing.assert_allclose(actual, expected, atol=2e-3)
        assert row["predicted"] == int(explanation.logits.argmax()) and row["correct"] is None
        chance = explanation.logits.softmax(-1).max()
        assert row["probability"] == pytest.approx(float(chance), rel=1e-4)
        assert row["keypoints"] == len(explanation.keypoints[0])
        h, w = expected.shape
        ys, xs = np.mgrid[:h, :w]
        assert row["x"] == pytest.approx(float((expected * (xs + 0.5) / w).sum()), abs=1e-4)
        assert row["y"] == pytest.approx(float((expected * (ys + 0.5) / h).sum()), abs=1e-4)
        entropy = -(expected * np.log(expected.clip(min=1e-300))).sum()
        assert row["spread"] == pytest.approx(np.exp(entropy) / (h * w), rel=1e-4)
        places = explanation.grid.patch_of(explanation.keypoints[0].xy).unique()
        filled = expected.flatten()[places[places >= 0]].sum()
        assert row["on_empty"] == pytest.approx(1 - filled, abs=1e-4)


def test_the_analysis_is_that_of_its_units(tmp_path, source):
    """Check that each unit draws its null from its own images, and that sums are exact."""
    model = tiny()
    result = audit(model, source, tmp_path / "out", jobs=["analyze"], batch_size=3)
    parts = [analyze(model, source.data.sources[first : first + 6], batch_size=3)
             for first in (0, 6)]  # fmt: skip
    merged = parts[0].merge(parts[1])
    assert result.analysis.images == 11
    for name in ("lift", "alignment", "distance"):
        assert np.array_equal(result.analysis.mean(name), merged.mean(name), equal_nan=True)
    assert [skipped.name for skipped in result.analysis.skipped] == ["words.txt"]
    assert not rows(tmp_path / "out")


def test_labels_give_correct_and_accuracy(tmp_path):
    model = tiny()
    plain = open_source(folder(tmp_path / "in", 4), (), 1000)
    with torch.no_grad():
        batch = torch.cat([prepare(path, lambda: _preprocessing_of(model)).inputs
                           for path in plain.data.sources])  # fmt: skip
        answers = model(batch).argmax(-1).tolist()
    lines = [f"{n:03}.png\t{answers[n] if n else answers[n] + 1}" for n in range(4)]
    (tmp_path / "in/list.txt").write_text("\n".join(lines))
    result = audit(model, open_source(tmp_path / "in/list.txt", (), 1000), tmp_path / "out")
    assert [row["correct"] for row in rows(tmp_path / "out")] == [False, True, True, True]
    assert result.summary["accuracy"] == 0.75


def _preprocessing_of(model):
    from semattn.images import Preprocessing

    return Preprocessing.of(model)


def test_a_map_of_zeros_has_no_shares():
    pictures = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    explanation = SIFTPatchInterrelation().explain(tiny(), pictures)
    maps = explanation.patch_map.clone()
    maps[1] = 0
    columns = explanation_rows(dataclasses.replace(explanation, patch_map=maps), [0, 1], [None] * 2)
    for name in ("spread", "x", "y", "on_empty"):
        assert np.isfinite(columns[name][0]) and np.isnan(columns[name][1]), name
    assert columns["maps"][0].sum() == pytest.approx(1, abs=5e-3) and not columns["maps"][1].any()
    assert columns["predicted"].tolist() == explanation.logits.argmax(1).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_processes_writes_the_same_files(tmp_path, source, workers):
    model = tiny()
    single = audit(model, source, tmp_path / "one", batch_size=3)
    places = (2, 0, 1)
    for place in places:
        shared = audit(
            model, source, tmp_path / "three", batch_size=3, workers=workers, process=(place, 3)
        )
        assert (shared.summary is None) == (place != places[-1])
    assert results(tmp_path / "one") == results(tmp_path / "three")
    assert shared.analysis.summary() == single.analysis.summary()
    single_sums, shared_sums = (
        result.tally.arrays() for result in (single.analysis, shared.analysis)
    )
    assert single_sums.keys() == shared_sums.keys()
    assert all(np.array_equal(single_sums[name], shared_sums[name]) for name in single_sums)


KILLED_AUDIT = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from semattn.audit import audit, open_source, batch_size
    from tests.audit.pictures import tiny

    batch_size.BATCHES_PER_UNIT = 2
    left = int(sys.argv[3])
    replace = Path.replace

    def dying(self, target):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = dying
    source = open_source(sys.argv[1], (), 1000)
    audit(tiny(), source, sys.argv[2], batch_size=3)
""")


def test_a_kill_at_any_file_loses_and_repeats_nothing(tmp_path, source):
    """Kill the audit before each file that it would put in place, and resume each time."""
    model = tiny()
    audit(model, source, tmp_path / "whole", batch_size=3)
    command = [sys.executable, "-c", KILLED_AUDIT, str(tmp_path / "in"), str(tmp_path / "out")]
    for left in (1, 3, 2, 2):
        ended = subprocess.run([*command, str(left)], check=False, capture_output=True)
        assert ended.returncode in (-signal.SIGKILL, 0), ended.stderr
    result = audit(model, source, tmp_path / "out", batch_size=3)
    assert result.analysis.images == 11
    assert results(tmp_path / "whole") == {
        name: content for name, content in results(tmp_path / "out").items()
        if "/." not in f"/{name}"
    }  # fmt: skip


class Fragile(nn.Module):
    """Tiny model that fails on some images."""

    def __init__(self, fail) -> None:
        super().__init__()
        self.inner, self.fail = tiny(), fail
        self.pretrained_cfg = self.inner.pretrained_cfg
        self.patch_embed = self.inner.patch_embed

    def forward(self, x):
        return self.fail(x, self.inner(x))


def _bad(file):
    """Return the mean of the model input of a picture."""
    return prepare(file, lambda: _preprocessing_of(tiny())).inputs.mean()


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("kind", ["raises", "nan", "memory"])
def test_an_image_that_the_model_fails_on_is_skipped(tmp_path, source, kind, number):
    bad = _bad(tmp_path / f"in/{number:03}.png")

    def fail(x, out):
        hit = (x.mean(dim=(1, 2, 3)) - bad).abs() < 1e-6
        if kind == "nan":
            return torch.where(hit[:, None], torch.nan, out)
        if hit.any():
            raise ZeroDivisionError("by the image") if kind == "raises" else MemoryError
        return out

    result = audit(Fragile(fail), source, tmp_path / "out", batch_size=3)
    skipped = [
        row for row in rows(tmp_path / "out", "skipped") if row["name"] == f"{number:03}.png"
    ]
    assert [row["job"] for row in skipped] == ["explain", "analyze"]
    reasons = {
        "raises": "ZeroDivisionError: by the image",
        "nan": "finite",
        "memory": "out of memory",
    }
    assert all(reasons[kind] in row["reason"] for row in skipped)
    assert [row["name"] for row in rows(tmp_path / "out")] == [
        f"{n:03}.png" for n in range(11) if n != number
    ]
    assert result.analysis.images == 10


def test_a_batch_that_does_not_fit_is_split(tmp_path, source):
    def fail(x, out):
        if len(x) > 2:
            raise torch.OutOfMemoryError("of the device")
        return out

    audit(tiny(), source, tmp_path / "plain", batch_size=2)
    result = audit(Fragile(fail), source, tmp_path / "out", batch_size=4)
    assert result.summary["explained"] == 11 and result.summary["skipped"] == 1
    for expected, actual in zip(rows(tmp_path / "plain"), rows(tmp_path / "out"), strict=True):
        assert expected["predicted"] == actual["predicted"]
        assert expected["spread"] == pytest.approx(actual["spread"], rel=1e-4)


def test_a_model_that_cannot_be_explained_is_refused_before_the_first_image(tmp_path, source):
    class Plain(nn.Sequential):
        pretrained_cfg = tiny().pretrained_cfg

    model = Plain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(UnsupportedModelError):
        audit(model, source, tmp_path / "out", batch_size=2)


def test_a_picture_that_crashes_its_reader_is_skipped(tmp_path, source, monkeypatch):
    load = loading.ImageLoader.load

    def dying(self, first, sources, **more):
        if torch.utils.data.get_worker_info() and any("004" in str(path) for path in sources):
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, first, sources, **more)

    monkeypatch.setattr(loading.ImageLoader, "load", dying)
    result = audit(tiny(), source, tmp_path / "out", batch_size=3, workers=1)
    assert [row["name"] for row in rows(tmp_path / "out")] == [
        f"{n:03}.png" for n in range(11) if n != 4
    ]
    reasons = {row["name"]: row["reason"] for row in rows(tmp_path / "out", "skipped")}
    assert reasons["004.png"] == loading.KILLED and result.summary["skipped"] == 2


def test_a_worker_that_is_killed_once_does_not_change_results(tmp_path, source, monkeypatch):
    load, flag = loading.ImageLoader.load, tmp_path / "flag"
    audit(tiny(), source, tmp_path / "whole", batch_size=3)

    def dying(self, first, sources, **more):
        if torch.utils.data.get_worker_info() and first == 6 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, first, sources, **more)

    monkeypatch.setattr(loading.ImageLoader, "load", dying)
    audit(tiny(), source, tmp_path / "out", batch_size=3, workers=2)
    assert flag.exists()
    assert results(tmp_path / "whole") == results(tmp_path / "out")


@pytest.mark.parametrize("name", ["maps", "unit", "analysis", "explain.parquet"])
def test_a_full_disk_is_reported_and_the_audit_resumes(tmp_path, source, monkeypatch, name):
    model, out = tiny(), tmp_path / "out"
    audit(model, source, tmp_path / "whole", batch_size=3)
    from contextlib import contextmanager

    from semattn.audit import tables
    from semattn.interrelation import analysis_files as store
    from semattn.utils import atomic_files as files

    write = files.atomic_write

    @contextmanager
    def full(file):
        with write(file) as stream:
            if name in file.as_posix().removeprefix(tmp_path.as_posix()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield stream

    from semattn.utils import run_store

    with monkeypatch.context() as patch:
        for module in (files, tables, store, run_store):
            patch.setattr(module, "atomic_write", full)
        with pytest.raises(OSError, match="No space left"):
            audit(model, source, out, batch_size=3)
    assert not [path for path in out.rglob(".*") if path.is_file()]
    audit(model, source, out, batch_size=3)
    assert results(tmp_path / "whole") == results(out)


def test_archives_give_the_results_of_their_files(tmp_path):
    model = tiny()
    plain = open_source(folder(tmp_path / "in", 5), (), 1000)
    packed = open_source(archive(tmp_path / "a.tar", 5, labels=False), (), 1000)
    audit(model, plain, tmp_path / "one")
    audit(model, packed, tmp_path / "two", workers=1)
    for plain_row, archive_row in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert archive_row["name"] == f"a.tar/0{plain_row['name']}"
        assert plain_row | {"name": ""} == archive_row | {"name": ""}


def test_another_audit_of_the_folder_is_refused(tmp_path, source):
    audit(tiny(), source, tmp_path / "out", batch_size=4)
    with pytest.raises(SemattnError, match="results of another"):
        audit(tiny(), source, tmp_path / "out", jobs=["explain"])
    with pytest.raises(SemattnError, match="the value of the first run in this folder, got 2"):
        audit(tiny(), source, tmp_path / "out", batch_size=2)
    assert audit(tiny(), source, tmp_path / "out").images == 0


def test_invalid_options_are_refused(tmp_path, source):
    with pytest.raises(ValueError, match="did you mean 'analyze'"):
        audit(tiny(), source, tmp_path / "out", jobs=["analyse"])
    with pytest.raises(ValueError, match="jobs: expected at least one"):
        audit(tiny(), source, tmp_path / "out", jobs=[])
    with pytest.raises(ValueError, match="batch_size"):
        audit(tiny(), source, tmp_path / "out", batch_size=0)


def test_a_worker_that_dies_in_the_middle_of_a_message_is_noticed(tmp_path, source, monkeypatch):
    """Torch would wait forever for the rest of the message."""
    loader, hung = loading._loader, []

    def start(data, batches, workers):
        received = loader(data, batches, workers)
        if hung:
            return received
        hung.append(True)

        def half():
            yield next(received)
            for worker in multiprocessing.active_children():
                worker.kill()
            time.sleep(30)  # a read that never ends

        return half()

    monkeypatch.setattr(loading, "_loader", start)
    monkeypatch.setattr(loading, "GRACE", 1.0)
    result = audit(tiny(), source, tmp_path / "out", batch_size=3, workers=1)
    assert hung and result.summary["explained"] == 11


@pytest.mark.parametrize("jobs", [("explain",), ("analyze",)])
def test_a_source_without_an_image_that_can_be_read_is_refused(tmp_path, jobs):
    """Check the error after the tables are written, and in the next call; reasons are counted."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text("no picture")
    (tmp_path / "in" / "e.png").write_bytes(b"")
    for _ in range(2):
        source = open_source(tmp_path / "in", (), 1000)
        with pytest.raises(SemattnError, match="expected readable images") as error:
            audit(tiny(), source, tmp_path / "out", jobs=jobs, batch_size=2, workers=0)
        message = str(error.value)
        assert (
            "got none of 4 (3: image: expected a picture, got a file, whose format is unknown"
            in message
        )
        assert (
            "; 1: image: " in message and f"{tmp_path / 'out' / 'skipped.parquet'} lists" in message
        )
    assert len(rows(tmp_path / "out", "skipped")) == 4
    picture(0).save(tmp_path / "in" / "0.txt", "PNG")  # one that can be read is enough
    source = open_source(tmp_path / "in", (), 1000)
    result = audit(tiny(), source, tmp_path / "new", jobs=jobs, batch_size=2, workers=0)
    assert result.summary["skipped"] == 3
