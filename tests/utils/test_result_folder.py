"""Folders of results: only semattn's own files are replaced, an input never, results never read."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from semattn.data import list_images
from semattn.errors import ImageError
from semattn.utils import processes as locks
from semattn.utils.processes import LockedError, is_locked, locked
from semattn.utils.result_folder import (
    STAGE,
    OutputError,
    ResultFolder,
    default_folder,
    read_marker,
    remove_stale,
    source_of,
)
from tests.result_files import contents_of, names_in


def write(folder: ResultFolder, **files: str) -> None:
    with folder.staged() as stage:
        for name, text in files.items():
            (stage / name).write_text(text)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "own/figure.png"
    file.parent.mkdir()
    file.write_text("photograph")
    return file


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_replaced(photo, force):
    folder = ResultFolder(photo.parent, "explain", (photo,), force=force)
    with pytest.raises(OutputError, match=r"figure\.png is the input itself — choose another"):
        folder.check(["figure.png", "map.npy"])
    with pytest.raises(OutputError, match="input itself"):
        write(folder, **{"figure.png": "figure"})
    assert photo.read_text() == "photograph" and names_in(photo.parent) == ["figure.png"]
    link = photo.parent / "link"
    link.symlink_to(photo.parent, target_is_directory=True)
    with pytest.raises(OutputError, match="input itself"):
        ResultFolder(link, "explain", (photo,), force=force).check(["figure.png"])


def test_files_of_others_are_replaced_with_force_only(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputError, match="report.html was not written by semattn — .*--force"):
        write(ResultFolder(tmp_path, "explain"), **{"report.html": "page", "map": "1"})
    assert contents_of(tmp_path) == {"report.html": b"mine"}
    write(ResultFolder(tmp_path, "explain", force=True), **{"report.html": "page", "map": "1"})
    assert contents_of(tmp_path) == {"report.html": b"page", "map": b"1"}
    write(ResultFolder(tmp_path, "explain"), **{"report.html": "again", "map": "2"})
    assert contents_of(tmp_path) == {"report.html": b"again", "map": b"2"}


def test_nothing_of_an_earlier_result_stays_beside_a_later_one(tmp_path):
    cat, dog = (ResultFolder(tmp_path / "out", "explain", source=name) for name in ("cat", "dog"))
    write(cat, map="cat", report="cat")
    write(ResultFolder(tmp_path / "out", "compare", source="cat"), maps="cat")
    (tmp_path / "out/notes.txt").write_text("mine")
    write(dog, map="dog")
    expected = {"map": b"dog", "maps": b"cat", "notes.txt": b"mine"}
    assert contents_of(tmp_path / "out") == expected
    assert {name: entry["source"] for name, entry in read_marker(tmp_path / "out").items()} == {
        "map": "dog", "maps": "cat"
    }  # fmt: skip


def test_folders_of_others_stay_as_well(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match="model/ was not written by semattn"):
        ResultFolder(tmp_path, "pretrain").check(["model/"])
    with pytest.raises(OutputError, match="expected model to be a file, got a folder"):
        ResultFolder(tmp_path, "pretrain").check(["model"])


def test_default_folders_of_two_inputs_are_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cat, dog = "/photos/cat/001.jpg", "/photos/dog/001.jpg"
    assert default_folder("semattn-001", cat) == Path("semattn-001")
    write(ResultFolder(default_folder("semattn-001", cat), "explain", source=cat), map="cat")
    other = default_folder("semattn-001", dog)
    assert other.name.startswith("semattn-001-") and len(other.name) == len("semattn-001-") + 8
    write(ResultFolder(other, "explain", source=dog), map="dog")
    assert default_folder("semattn-001", cat) == Path("semattn-001")
    assert default_folder("semattn-001", dog) == other
    Path("mine").mkdir()
    assert default_folder("mine", cat) != Path("mine"), "a folder of the user's"


def test_a_source_is_the_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_of([Path("a/x.jpg")]) == (tmp_path / "a/x.jpg").as_posix()
    assert source_of([Path("a/x.jpg")]) != source_of([Path("b/x.jpg")])


def test_results_are_not_listed_among_the_images(tmp_path):
    (tmp_path / "photos/inside").mkdir(parents=True)
    for name in ("a.png", "inside/b.png"):
        (tmp_path / "photos" / name).write_text("photograph")
    before = list_images(tmp_path / "photos")
    write(ResultFolder(tmp_path / "photos", "analyze"), **{"analysis.png": "figure"})
    write(ResultFolder(tmp_path / "photos/semattn-analyze", "analyze"), **{"analysis.png": "fig"})
    run = ResultFolder(tmp_path / "photos/inside", "audit")
    with run.running(["maps/"]):
        (run.path / "maps").mkdir()
        (run.path / "maps/0.png").write_text("map")
        assert list_images(tmp_path / "photos") == before
    assert list_images(tmp_path / "photos") == before and len(before) == 2
    (tmp_path / "photos/semattn-analyze/c.png").write_text("photograph")
    assert len(list_images(tmp_path / "photos")) == 3, "only what semattn wrote is left out"
    write(ResultFolder(tmp_path / "only", "explain"), **{"figure.png": "figure"})
    with pytest.raises(ImageError, match="none in .*, only results of semattn"):
        list_images(tmp_path / "only")


def test_a_second_run_in_a_folder_is_refused_and_named(tmp_path):
    folder = ResultFolder(tmp_path / "run", "audit")
    with folder.running(["audit.json"]):
        with (
            pytest.raises(LockedError, match=rf"process {os.getpid()} of .* is running — wait"),
            folder.running(["audit.json"]),
        ):
            pytest.fail("two runs in one folder")
        with folder.running(["audit.json"], "-1-of-2"):
            assert is_locked(tmp_path / "run/.semattn/lock")
    with folder.running(["audit.json"]):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_does_not_hold_the_lock_of_its_parent(tmp_path):
    (ready, started), (wait, end) = os.pipe(), os.pipe()
    with suppress(OSError), locked(tmp_path / "lock"):
        child = os.fork()
        if not child:
            os.close(end)
            os.write(started, b".")
            os.read(wait, 1)
            os._exit(0)
        os.read(ready, 1)
        is_held = is_locked(tmp_path / "lock")
        os.close(next(iter(locks._held_descriptors)))  # as if the parent is killed
        after = is_locked(tmp_path / "lock")
    os.close(end)
    assert os.waitpid(child, 0)[1] == 0
    assert is_held and not after


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path):
    def fail(folder):
        with folder.running(["audit.json"]):
            raise ValueError("model: refused")

    with pytest.raises(ValueError, match="refused"):
        fail(ResultFolder(tmp_path / "new", "audit"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="refused"):
        fail(ResultFolder(tmp_path / "old", "audit"))
    assert (tmp_path / "old").is_dir()


def test_the_folder_appears_with_its_marker(tmp_path):
    states = []

    def watch():
        while not stop.is_set():
            if (tmp_path / "run").is_dir():
                states.append(bool(read_marker(tmp_path / "run")))
                return

    stop = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    ResultFolder(tmp_path / "run", "audit", source="a").begin(["audit.json"])
    stop.set()
    thread.join()
    assert False not in states


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name, is_alive in (("dead", False), ("alive", True), ("young", False)):
        stage = tmp_path / f"{STAGE}{name}"
        (stage / "files").mkdir(parents=True)
        (stage / "lock").touch()
        if name != "young":
            os.utime(stage, (0, 0))
        if is_alive:
            alive = locked(stage / "lock")
            alive.__enter__()
    remove_stale(tmp_path)
    alive.__exit__(None, None, None)
    assert {path.name for path in tmp_path.iterdir()} == {f"{STAGE}alive", f"{STAGE}young"}


def test_a_marker_that_is_damaged_claims_nothing(tmp_path):
    write(ResultFolder(tmp_path, "explain"), map="1")
    for text in ("", "[]", '{"files": 3}', '{"files": {"map": 3}}', "[" * 100_000):
        (tmp_path / ".semattn/files.json").write_text(text)
        with pytest.raises(OutputError, match="map was not written by semattn"):
            write(ResultFolder(tmp_path, "explain"), map="2")
    content = {"files": {"map": {"command": "explain", "source": ""}}}
    (tmp_path / ".semattn/files.json").write_text(json.dumps(content))
    write(ResultFolder(tmp_path, "explain"), map="2")


def test_a_kill_between_files_leaves_none_without_its_entry(tmp_path, monkeypatch):
    write(ResultFolder(tmp_path / "out", "explain"), a="1", b="1")
    replace, calls = Path.replace, []

    def cut(self, target):
        if self.name in ("b", "c"):
            raise KeyboardInterrupt
        calls.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        write(ResultFolder(tmp_path / "out", "explain"), a="2", b="2", c="2")
    monkeypatch.undo()
    assert "a" in calls
    write(ResultFolder(tmp_path / "out", "explain"), a="3", b="3", c="3")
    assert contents_of(tmp_path / "out") == {"a": b"3", "b": b"3", "c": b"3"}
