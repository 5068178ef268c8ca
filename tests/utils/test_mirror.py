"""Results on object stores: equal files, resume elsewhere, other runs, and faults."""

from __future__ import annotations

import json
import threading

import pytest

from semattn.audit import audit
from semattn.data import open_source
from semattn.errors import SemattnError
from semattn.utils import mirror as mirrors, remote_path
from semattn.utils.mirror import MirroredFolder, mirrored
from semattn.utils.remote_path import RemotePath
from tests.audit.pictures import folder, results, tiny
from tests.stores import bucket, objects

__all__ = ["bucket", "objects"]


def contents(remote):
    return {file.relative_to(remote).as_posix(): file.read_bytes() for file in remote.walk_files()}


def write(folder, **files):
    for name, text in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_files_go_to_the_store_and_come_back(tmp_path, bucket):
    with mirrored(bucket.url, tmp_path / "one") as first:
        write(first.folder, a="1", maps__b="2", **{".audit__.processes__run-0-of-1": "lock"})
        write(
            first.folder, **{".semattn__lock-0": "lock", ".a.17.18": "half", ".semattn__files": "m"}
        )
    assert contents(bucket) == {"a": b"1", "maps/b": b"2", ".semattn/files": b"m"}
    assert not first.home.exists(), "the local copy of a finished run is removed"
    with mirrored(bucket.url, tmp_path / "two") as second:
        assert (second.folder / "maps" / "b").read_text() == "2"
        (second.folder / "maps" / "b").unlink()
        write(second.folder, a="3")
    assert contents(bucket) == {"a": b"3", ".semattn/files": b"m"}


def test_what_an_error_leaves_is_on_the_store(tmp_path, objects):
    def fail():
        with mirrored(objects.url, tmp_path) as mirror:
            write(mirror.folder, a="1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(objects) == {"a": b"1"}
    (objects / "a").unlink()  # the owner starts again
    with mirrored(objects.url, tmp_path) as mirror:
        assert not (mirror.folder / "a").exists()


def test_the_second_of_two_runs_is_refused(tmp_path, bucket):
    name = ".audit__about.json"
    first, second = (MirroredFolder(bucket, tmp_path / side) for side in ("a", "b"))
    for side, text in ((first, "run 1"), (second, "run 2")):
        side.pull()
        write(side.folder, **{name: text, "unit": text})
    first.push()
    with pytest.raises(SemattnError, match="those of another that started meanwhile"):
        second.push()
    assert contents(bucket) == {".audit/about.json": b"run 1", "unit": b"run 1"}
    second.pull()  # the copy of the refused run is dropped
    assert (second.folder / "unit").read_text() == "run 1"


def test_a_run_is_interrupted_when_the_store_holds_another(tmp_path, objects, monkeypatch):
    monkeypatch.setattr(mirrors, "SECONDS", 0.05)

    def run_on():
        with mirrored(objects.url, tmp_path) as mirror:
            assert (objects / ".audit" / "about.json").create(b"theirs")
            write(mirror.folder, **{".audit__about.json": "mine"})
            for _ in range(600):  # a wait is not interrupted, the step after it is
                threading.Event().wait(0.1)
            pytest.fail("the run goes on")

    with pytest.raises(SemattnError, match="those of another that started meanwhile"):
        run_on()


def test_changes_that_were_not_copied_are_kept(tmp_path, objects, monkeypatch):
    mirror = MirroredFolder(objects, tmp_path)
    mirror.pull()
    write(mirror.folder, a="1", b="1")
    mirror.push()
    write(mirror.folder, b="changed", c="new")
    again = MirroredFolder(objects, tmp_path)  # the process was killed before it copied
    again.pull()
    again.push()
    assert contents(objects) == {"a": b"1", "b": b"changed", "c": b"new"}


def test_unsafe_stores_are_refused(tmp_path, objects, monkeypatch):
    with pytest.raises(SemattnError, match="a store that takes single files"):
        MirroredFolder(RemotePath("hf://datasets/a/b"), tmp_path)
    with pytest.raises(SemattnError, match="an address such as"), mirrored(tmp_path, tmp_path):
        pass
    assert objects.can_create()
    monkeypatch.setattr(remote_path, "OBJECT_STORES", {"objects"})
    monkeypatch.delattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file")
    assert not objects.can_create()
    with (
        pytest.raises(SemattnError, match="which 3 processes would overwrite"),
        mirrored(objects.url, tmp_path, 3),
    ):
        pass
    with mirrored(objects.url, tmp_path) as mirror:
        write(mirror.folder, **{".audit__about.json": "one process"})


def test_addresses_are_no_folders(run, elsewhere):
    for command in (["explain", "x.png"], ["marks", "photos"]):
        status, _, err = run(*command, "--out", "s3://bucket/run")
        assert status == 2 and "expected a local folder, got the address s3:/bucket/run" in err
    on_ray = ("--engine", "ray", "--jobs", "explain,spurious", "--out", "memory://run")
    status, _, err = run("audit", "photos", *on_ray)
    assert status == 2 and "expected a shared folder for the search" in err
    status, _, err = run("audit", "photos", "--out", "hf://datasets/a/b")
    assert status == 2 and "a store that takes single files" in err
    assert not list(elsewhere.iterdir())


def test_the_library_refuses_an_address(tmp_path):
    source = open_source(folder(tmp_path / "in", 1), (), 1000)
    with pytest.raises(SemattnError, match="semattn.utils.mirror.mirrored"):
        audit(tiny(), source, "s3://bucket/run")


def test_an_audit_on_ray_writes_to_a_store(run, elsewhere, objects, ray_cluster, monkeypatch):
    """Only the driver knows the store: it is in the memory of this process."""
    monkeypatch.setattr("semattn.audit.batch_size.BATCHES_PER_UNIT", 2)
    photos = folder(elsewhere / "photos", 5)
    options = ["--jobs", "explain", "--batch-size", 1]
    assert run("audit", photos, *options, "--out", "local")[0] == 0
    status, out, err = run(
        "audit", photos, *options, "--engine", "ray", "--actors", 1, "--out", f"{objects}/run"
    )
    assert status == 0, err
    assert out.endswith(f"in {objects}/run: explain.parquet, skipped.parquet, audit.json\n")
    expected, stored = results(elsewhere / "local"), contents(objects / "run")
    assert "maps/000002.npz" in expected
    for name in expected.keys() - {"audit.json"}:
        assert stored[name] == expected[name], name


def test_an_audit_on_a_store_is_that_of_the_disk_and_processes_share_it(
    run, elsewhere, objects, monkeypatch
):
    monkeypatch.setattr("semattn.audit.batch_size.BATCHES_PER_UNIT", 2)
    photos = folder(elsewhere / "photos", 5)
    options = ["--jobs", "explain", "--batch-size", 1, "--workers", 0]
    assert run("audit", photos, *options, "--out", "local")[0] == 0
    place = ["--out", f"{objects}/run", "--json"]
    waiting = []
    for number in range(2):  # each on a machine of its own
        monkeypatch.setenv("SEMATTN_CACHE", str(elsewhere / f"machine-{number}"))
        status, out, err = run("audit", photos, *options, *place, "--process", f"{number}/2")
        assert status == 0, err
        waiting.append(json.loads(out)["waiting_units"])
    assert waiting == [1, 0]
    assert json.loads(out)["files"]["table"] == f"{objects}/run/explain.parquet"
    expected, stored = results(elsewhere / "local"), contents(objects / "run")
    assert "maps/000002.npz" in expected
    for name in expected.keys() - {"audit.json"}:
        assert stored[name] == expected[name], name
    status, _, err = run("audit", photos, "--process", "0/2", *place)
    assert status == 2 and "expected --batch-size" in err
