"""Audits: right, the same by any number of processes, after a kill, and through every fault."""

from __future__ import annotations

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
from semattn.audit import audit, audit_runner as work, units
from semattn.data import open_source, prefetching as loading
from semattn.errors import SemattnError, UnsupportedModelError
from semattn.images import prepare
from tests.audit.pictures import archive, folder, picture, results, tiny


@pytest.fixture(autouse=True)
def _small_units(monkeypatch):
    monkeypatch.setattr(units, "BATCHES", 2)


@pytest.fixture
def source(tmp_path):
    made = folder(tmp_path / "in", 11)
    (made / "words.txt").write_text("no picture")
    return open_source(made, (), 1000)


def rows(out, name="explain"):
    return parquet.read_table(out / f"{name}.parquet").to_pylist()


def test_rows_and_maps_are_those_of_the_explainer(tmp_path, source):
    model, out = tiny(), tmp_path / "out"
    made = audit(model, source, out, batch_size=3)
    every = rows(out)
    assert [row["name"] for row in every] == [f"{n:03}.png" for n in range(11)]
    assert made.images == 12 and made.waiting == 0 and made.summary["explained"] == 11
    assert [one.name for one in made.skipped] == ["words.txt"]
    assert [row["name"] for row in rows(out, "skipped")] == ["words.txt"]
    assert "no decoder knows" in rows(out, "skipped")[0]["reason"]
    for row in every[::5]:
        one = SIFTPatchInterrelation().explain(model, picture(int(row["name"][:3])))
        wanted = one.patch_map[0].double().numpy()
        wanted /= wanted.sum()
        with np.load(out / "maps" / f"{row['unit']:06}.npz") as kept:
            found = kept["maps"][row["row"]]
        np.testing.assert_allclose(found, wanted, atol=2e-3)
        assert row["predicted"] == int(one.logits.argmax()) and row["correct"] is None
        chance = one.logits.softmax(-1).max()
        assert row["probability"] == pytest.approx(float(chance), rel=1e-4)
        assert row["keypoints"] == len(one.keypoints[0])
        h, w = wanted.shape
        ys, xs = np.mgrid[:h, :w]
        assert row["x"] == pytest.approx(float((wanted * (xs + 0.5) / w).sum()), abs=1e-4)
        assert row["y"] == pytest.approx(float((wanted * (ys + 0.5) / h).sum()), abs=1e-4)
        entropy = -(wanted * np.log(wanted.clip(min=1e-300))).sum()
        assert row["spread"] == pytest.approx(np.exp(entropy) / (h * w), rel=1e-4)
        places = one.grid.patch_of(one.keypoints[0].xy).unique()
        filled = wanted.flatten()[places[places >= 0]].sum()
        assert row["on_empty"] == pytest.approx(1 - filled, abs=1e-4)


def test_the_analysis_is_that_of_its_units(tmp_path, source):
    """Each unit draws its null from its own images; sums are exact."""
    model = tiny()
    made = audit(model, source, tmp_path / "out", jobs=["analyze"], batch_size=3)
    parts = [analyze(model, source.data.sources[first : first + 6], batch_size=3)
             for first in (0, 6)]  # fmt: skip
    whole = parts[0].merge(parts[1])
    assert made.analysis.images == 11
    for name in ("lift", "alignment", "distance"):
        assert np.array_equal(made.analysis.mean(name), whole.mean(name), equal_nan=True)
    assert [one.name for one in made.analysis.skipped] == ["words.txt"]
    assert not rows(tmp_path / "out")


def test_classes_make_it_right_or_wrong(tmp_path):
    model = tiny()
    plain = open_source(folder(tmp_path / "in", 4), (), 1000)
    with torch.no_grad():
        batch = torch.cat([prepare(one, lambda: _wanted(model)).inputs
                           for one in plain.data.sources])  # fmt: skip
        answers = model(batch).argmax(-1).tolist()
    lines = [f"{n:03}.png\t{answers[n] if n else answers[n] + 1}" for n in range(4)]
    (tmp_path / "in/list.txt").write_text("\n".join(lines))
    made = audit(model, open_source(tmp_path / "in/list.txt", (), 1000), tmp_path / "out")
    assert [row["correct"] for row in rows(tmp_path / "out")] == [False, True, True, True]
    assert made.summary["accuracy"] == 0.75


def _wanted(model):
    from semattn.images import Preprocessing

    return Preprocessing.of(model)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_processes_makes_the_same_files(tmp_path, source, workers):
    model = tiny()
    alone = audit(model, source, tmp_path / "one", batch_size=3)
    places = (2, 0, 1)
    for place in places:
        shared = audit(
            model, source, tmp_path / "three", batch_size=3, workers=workers, process=(place, 3)
        )
        assert (shared.summary is None) == (place != places[-1])
    assert results(tmp_path / "one") == results(tmp_path / "three")
    assert shared.analysis.summary() == alone.analysis.summary()
    one, other = (found.tally.arrays() for found in (alone.analysis, shared.analysis))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from semattn import files
    from semattn.audit import audit, open_source, units
    from tests.audit.pictures import tiny

    units.BATCHES = 2
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


def test_a_kill_at_any_file_loses_and_doubles_nothing(tmp_path, source):
    """Killed before each of the files that it would put in place, and gone on with each time."""
    model = tiny()
    audit(model, source, tmp_path / "whole", batch_size=3)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "in"), str(tmp_path / "out")]
    for left in (1, 3, 2, 2):
        ended = subprocess.run([*command, str(left)], check=False, capture_output=True)
        assert ended.returncode in (-signal.SIGKILL, 0), ended.stderr
    found = audit(model, source, tmp_path / "out", batch_size=3)
    assert found.analysis.images == 11
    assert results(tmp_path / "whole") == {
        name: content for name, content in results(tmp_path / "out").items()
        if "/." not in f"/{name}"
    }  # fmt: skip


class Fragile(nn.Module):
    """The tiny model, which fails on images that `fails` names by their mean."""

    def __init__(self, fail) -> None:
        super().__init__()
        self.inner, self.fail = tiny(), fail
        self.pretrained_cfg = self.inner.pretrained_cfg
        self.patch_embed = self.inner.patch_embed

    def forward(self, x):
        return self.fail(x, self.inner(x))


def _bad(file):
    """The mean of what the model gets of a picture."""
    return prepare(file, lambda: _wanted(tiny())).inputs.mean()


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("kind", ["raises", "nan", "memory"])
def test_one_image_that_the_model_fails_on_is_left_out(tmp_path, source, kind, number):
    bad = _bad(tmp_path / f"in/{number:03}.png")

    def fail(x, out):
        hit = (x.mean(dim=(1, 2, 3)) - bad).abs() < 1e-6
        if kind == "nan":
            return torch.where(hit[:, None], torch.nan, out)
        if hit.any():
            raise ZeroDivisionError("by the image") if kind == "raises" else MemoryError
        return out

    made = audit(Fragile(fail), source, tmp_path / "out", batch_size=3)
    left = [row for row in rows(tmp_path / "out", "skipped") if row["name"] == f"{number:03}.png"]
    assert [row["job"] for row in left] == ["explain", "analyze"]
    said = {"raises": "ZeroDivisionError: by the image", "nan": "finite", "memory": "out of memory"}
    assert all(said[kind] in row["reason"] for row in left)
    assert [row["name"] for row in rows(tmp_path / "out")] == [
        f"{n:03}.png" for n in range(11) if n != number
    ]
    assert made.analysis.images == 10


def test_a_batch_that_does_not_fit_is_split(tmp_path, source):
    def fail(x, out):
        if len(x) > 2:
            raise torch.OutOfMemoryError("of the device")
        return out

    audit(tiny(), source, tmp_path / "plain", batch_size=2)
    made = audit(Fragile(fail), source, tmp_path / "out", batch_size=4)
    assert made.summary["explained"] == 11 and made.summary["skipped"] == 1
    for one, other in zip(rows(tmp_path / "plain"), rows(tmp_path / "out"), strict=True):
        assert one["predicted"] == other["predicted"]
        assert one["spread"] == pytest.approx(other["spread"], rel=1e-4)


def test_a_model_that_cannot_be_explained_is_refused_before_the_first_image(tmp_path, source):
    class Plain(nn.Sequential):
        pretrained_cfg = tiny().pretrained_cfg

    model = Plain(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    with pytest.raises(UnsupportedModelError):
        audit(model, source, tmp_path / "out", batch_size=2)


def test_a_picture_that_kills_its_reader_is_left_out(tmp_path, source, monkeypatch):
    load = loading.Reader.load

    def dying(self, first, sources, **more):
        if torch.utils.data.get_worker_info() and any("004" in str(one) for one in sources):
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, first, sources, **more)

    monkeypatch.setattr(loading.Reader, "load", dying)
    made = audit(tiny(), source, tmp_path / "out", batch_size=3, workers=1)
    assert [row["name"] for row in rows(tmp_path / "out")] == [
        f"{n:03}.png" for n in range(11) if n != 4
    ]
    left = {row["name"]: row["reason"] for row in rows(tmp_path / "out", "skipped")}
    assert left["004.png"] == loading.KILLED and made.summary["skipped"] == 2


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path, source, monkeypatch):
    load, flag = loading.Reader.load, tmp_path / "flag"
    audit(tiny(), source, tmp_path / "whole", batch_size=3)

    def dying(self, first, sources, **more):
        if torch.utils.data.get_worker_info() and first == 6 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, first, sources, **more)

    monkeypatch.setattr(loading.Reader, "load", dying)
    audit(tiny(), source, tmp_path / "out", batch_size=3, workers=2)
    assert flag.exists()
    assert results(tmp_path / "whole") == results(tmp_path / "out")


@pytest.mark.parametrize("name", ["maps", "unit", "analysis", "explain.parquet"])
def test_a_full_disk_is_said_and_gone_on_from(tmp_path, source, monkeypatch, name):
    model, out = tiny(), tmp_path / "out"
    audit(model, source, tmp_path / "whole", batch_size=3)
    from contextlib import contextmanager

    from semattn.audit import tables
    from semattn.interrelation import analysis_files as store
    from semattn.utils import atomic_files as files

    @contextmanager
    def full(file):
        with files.whole(file) as stream:
            if name in file.as_posix().removeprefix(tmp_path.as_posix()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield stream

    from semattn.utils import run_store as shelf

    with monkeypatch.context() as patch:
        for module in (work, tables, store, shelf):
            patch.setattr(module, "whole", full)
        with pytest.raises(OSError, match="No space left"):
            audit(model, source, out, batch_size=3)
    assert not [one for one in out.rglob(".*") if one.is_file()]
    audit(model, source, out, batch_size=3)
    assert results(tmp_path / "whole") == results(out)


def test_archives_give_what_their_files_give(tmp_path):
    model = tiny()
    plain = open_source(folder(tmp_path / "in", 5), (), 1000)
    packed = open_source(archive(tmp_path / "a.tar", 5, labels=False), (), 1000)
    audit(model, plain, tmp_path / "one")
    audit(model, packed, tmp_path / "two", workers=1)
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert other["name"] == f"a.tar/0{one['name']}"
        assert one | {"name": ""} == other | {"name": ""}


def test_another_audit_of_the_folder_is_refused(tmp_path, source):
    audit(tiny(), source, tmp_path / "out", batch_size=4)
    with pytest.raises(SemattnError, match="results of another"):
        audit(tiny(), source, tmp_path / "out", jobs=["explain"])
    with pytest.raises(SemattnError, match="with which this audit began, got 2"):
        audit(tiny(), source, tmp_path / "out", batch_size=2)
    assert audit(tiny(), source, tmp_path / "out").images == 0


def test_wrong_words_are_refused(tmp_path, source):
    with pytest.raises(ValueError, match="did you mean 'analyze'"):
        audit(tiny(), source, tmp_path / "out", jobs=["analyse"])
    with pytest.raises(ValueError, match="jobs: expected one at least"):
        audit(tiny(), source, tmp_path / "out", jobs=[])
    with pytest.raises(ValueError, match="batch_size"):
        audit(tiny(), source, tmp_path / "out", batch_size=0)


def test_a_worker_that_dies_in_the_middle_of_a_message_is_noticed(tmp_path, source, monkeypatch):
    """Torch waits forever for the rest of it."""
    loader, hung = loading._loader, []

    def start(data, batches, workers):
        coming = loader(data, batches, workers)
        if hung:
            return coming
        hung.append(True)

        def half():
            yield next(coming)
            for one in multiprocessing.active_children():
                one.kill()
            time.sleep(30)  # a read that never ends

        return half()

    monkeypatch.setattr(loading, "_loader", start)
    monkeypatch.setattr(loading, "GRACE", 1.0)
    made = audit(tiny(), source, tmp_path / "out", batch_size=3, workers=1)
    assert hung and made.summary["explained"] == 11


@pytest.mark.parametrize("jobs", [("explain",), ("analyze",)])
def test_a_source_without_an_image_that_can_be_read_is_refused(tmp_path, jobs):
    """After the tables are written, and again when it is called again; the reasons are counted."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text("no picture")
    (tmp_path / "in" / "e.png").write_bytes(b"")
    for _ in range(2):
        source = open_source(tmp_path / "in", (), 1000)
        with pytest.raises(SemattnError, match="expected an image that can be read") as error:
            audit(tiny(), source, tmp_path / "out", jobs=jobs, batch_size=2, workers=0)
        said = str(error.value)
        assert "got none of 4 (3: image: expected a picture, got a file, which no decoder" in said
        assert "; 1: image: " in said and f"{tmp_path / 'out' / 'skipped.parquet'} lists" in said
    assert len(rows(tmp_path / "out", "skipped")) == 4
    picture(0).save(tmp_path / "in" / "0.txt", "PNG")  # one that can be read is enough
    source = open_source(tmp_path / "in", (), 1000)
    made = audit(tiny(), source, tmp_path / "new", jobs=jobs, batch_size=2, workers=0)
    assert made.summary["skipped"] == 3
