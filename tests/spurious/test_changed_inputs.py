"""Searches whose images changed: stored work is used only for the images that it came from."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from semattn.spurious import (
    Search,
    candidates as candidates_of,
    confirmation,
    discover_spurious,
    feature_store,
    save_discovery,
    search as search_module,
)
from semattn.spurious.feature_extractor import FeatureExtractor
from semattn.utils import input_identity as identity
from semattn.utils.processes import LockedError
from semattn.utils.run_store import TEMPORARY, RunStore
from tests import edited_trees as trees
from tests.result_files import names_in

# Some of the small pictures have no keypoint.
pytestmark = pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")

OPTIONS = {
    "class_names": trees.CLASSES, "batch_size": 4, "preprocessing": trees.OWN,
    "min_relative_risk": 1.0, "alpha": 0.9,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch):
    """Fit the projection to three images, so that most edits do not change it.

    Candidates on the object are tested as well: these pictures have no others.
    """
    monkeypatch.setattr(feature_store, "SAMPLED", 3)
    monkeypatch.setattr(confirmation, "MIN_OFF_OBJECT", 0.0)


@pytest.fixture
def root(tmp_path):
    """Eighteen pictures of two classes: five batches; images 0, 8 and 17 give the projection."""
    trees.make_tree(tmp_path / "photos", 1, 18, 2)
    return tmp_path / "photos"


@pytest.fixture
def extracted(monkeypatch):
    """Number of images of each extraction."""
    counts: list[int] = []
    extract = FeatureExtractor.extract
    monkeypatch.setattr(
        FeatureExtractor,
        "extract",
        lambda self, images: counts.append(len(images.pixels)) or extract(self, images),
    )
    return counts


def search(data, folder, **options):
    return discover_spurious(trees.model(), data, cache_dir=folder, **{**OPTIONS, **options})


def contents(discovery, folder) -> bytes:
    return save_discovery(discovery, folder / "discovery.npz").read_bytes()


def same_as_scratch(data, discovery, tmp_path) -> bool:
    return contents(discovery, tmp_path) == contents(search(data, None), tmp_path)


def kept_files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def edit(file: Path, seed: int = 999) -> None:
    """Draw another picture with as many bytes and the same time of change."""
    before = file.stat()
    trees.draw(file, seed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_cases_have_tested_candidates(root, tmp_path):
    """Check that the cases below compare results of interventions."""
    search(root, tmp_path / "kept")
    names = {name[:5] for name in kept_files(tmp_path / "kept")}
    assert names >= {"featu", "proje", "class", "inter"}


def test_a_picture_edited_in_place_is_extracted_again(root, tmp_path, extracted):
    search(root, tmp_path / "kept")
    edit(root / "cat/002.bmp")
    extracted.clear()
    with pytest.warns(UserWarning, match="^1 of 5 kept batches was not used, because 1 image ch"):
        discovery = search(root, tmp_path / "kept")
    assert extracted[0] == 4 and same_as_scratch(root, discovery, tmp_path)
    search(root, tmp_path / "fresh")
    assert kept_files(tmp_path / "kept") == kept_files(tmp_path / "fresh")


def test_an_edited_picture_of_the_projection_sample_changes_all_batches(root, tmp_path):
    search(root, tmp_path / "kept")
    edit(root / "cat/000.bmp")
    with pytest.warns(UserWarning, match="^5 of 5 kept batches were not used, because 1 image ch"):
        discovery = search(root, tmp_path / "kept")
    assert same_as_scratch(root, discovery, tmp_path)


def test_another_folder_with_the_same_names_is_another_data_set(root, tmp_path):
    search(root, tmp_path / "kept")
    other = tmp_path / "site2/photos"
    for number, file in enumerate(trees.pictures(root)):
        trees.draw(other / file.relative_to(root), 500 + number)
    with pytest.warns(UserWarning, match="because 18 images changed"):
        discovery = search(other, tmp_path / "kept")
    assert same_as_scratch(other, discovery, tmp_path)


@pytest.mark.parametrize("kind", ["touch", "copy"])
def test_files_with_the_same_content_are_used(root, tmp_path, monkeypatch, kind):
    (root / "cat/004.bmp").write_bytes(trees.BROKEN)
    search(root, tmp_path / "kept")
    if kind == "touch":
        for file in trees.pictures(root):
            os.utime(file)
    else:
        shutil.copytree(root, tmp_path / "elsewhere/copy", copy_function=shutil.copyfile)
        shutil.rmtree(root)
        root = tmp_path / "elsewhere/copy"
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractor, "extract", None)
        patch.setattr(candidates_of, "find_candidates", None)
        patch.setattr(search_module, "intervene", None)
        discovery = search(root, tmp_path / "kept")
    assert same_as_scratch(root, discovery, tmp_path)


def test_unchanged_files_are_not_read_for_the_comparison(root, tmp_path, monkeypatch):
    search(root, tmp_path / "kept")
    monkeypatch.setattr(identity, "content_digest", lambda source: pytest.fail("read"))
    search(root, tmp_path / "kept")


def test_removed_pictures_are_dropped(root, tmp_path):
    search(root, tmp_path / "kept")
    for number in (13, 15, 17):
        (root / f"dog/{number:03}.bmp").unlink()
    with pytest.warns(UserWarning, match="3 are gone$"):
        discovery = search(root, tmp_path / "kept")
    assert same_as_scratch(root, discovery, tmp_path)
    search(root, tmp_path / "fresh")
    assert kept_files(tmp_path / "kept") == kept_files(tmp_path / "fresh")


def test_images_with_another_label_count_as_new(root, tmp_path):
    search(root, tmp_path / "kept")
    (root / "cat/002.bmp").rename(root / "dog/002.bmp")
    with pytest.warns(UserWarning, match="1 is new and 1 is gone$"):
        discovery = search(root, tmp_path / "kept")
    assert same_as_scratch(root, discovery, tmp_path)


@pytest.mark.parametrize("form", ["arrays", "pairs", "paths"])
def test_data_sets_in_memory_are_compared_by_their_content(root, tmp_path, form):
    files = trees.pictures(root)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (36, 40, 3), dtype=np.uint8) for _ in files]
    data = {
        "arrays": [(pixels, number % 2) for number, pixels in enumerate(arrays)],
        "pairs": [(path, number % 2) for number, path in enumerate(files)],
        "paths": [(str(path), int(path.parent.name == "dog")) for path in files],
    }[form]
    search(data, tmp_path / "kept")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(list(data), tmp_path / "kept")
    if form == "arrays":
        arrays[3][0, 0] += 1
    elif form == "pairs":
        edit(files[3])
    else:
        data[3] = (data[3][0], 1 - data[3][1])
    with pytest.warns(UserWarning, match="^1 of 5 kept batches was not used, because 1 image ch"):
        discovery = search(data, tmp_path / "kept")
    assert same_as_scratch(data, discovery, tmp_path)


def test_changed_batches_of_other_processes_count_as_missing(root, tmp_path):
    def part(place):
        return Search(trees.model(), root, cache_dir=tmp_path / "kept", **OPTIONS).extract(
            (place, 2)
        )

    assert [part(0), part(1)] == [False, True]
    edit(root / "dog/001.bmp")  # image 9, of batch 2: of process 0
    with pytest.warns(UserWarning, match="because the images in the data set changed"):
        assert part(1) is False
    with pytest.warns(UserWarning, match="because the images in the data set changed"):
        assert part(0) is True


@pytest.mark.parametrize(
    ("process", "words"),
    [((0, 1), r"process \d+ of .* is running"), ((1, 2), r"expected one of 1, as process \d+ of")],
)
def test_a_second_search_in_a_folder_is_refused_while_one_runs(root, tmp_path, process, words):
    other = Search(trees.model(), root, cache_dir=tmp_path / "kept", **OPTIONS)
    refusals = []

    def progress(task, *_):
        if task == "extracting features" and not refusals:
            with pytest.raises(LockedError, match=words) as error:
                other.extract(process)
            refusals.append(error)
        if task == "finding candidates":
            with pytest.raises(LockedError, match="is running"):
                other.discover()

    search(root, tmp_path / "kept", progress=progress)
    assert refusals
    assert same_as_scratch(root, other.discover(), tmp_path), "as the message advises"


@pytest.fixture
def command(elsewhere, run):
    return run


def test_results_in_the_searched_folder_are_not_a_class(command, root, tmp_path, monkeypatch):
    (root / "dog").rename(root / "owl")
    monkeypatch.chdir(root)
    arguments = ("spurious", ".", "--batch-size", 4, "--no-report")
    real, calls = FeatureExtractor.extract, []

    def stop(self, images):
        calls.append(len(images.pixels))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(FeatureExtractor, "extract", stop)
    status, out, err = command(*arguments)
    assert (status, out) == (130, "")
    assert err == (
        "error: interrupted — finished work is kept in semattn-spurious; "
        "the same command resumes it\n"
    )
    for _ in range(2):
        status, out, err = command(*arguments)
        assert status == 0, err
        assert "18 images" in out and "semattn-spurious" not in out.partition("\nin ")[0]
        assert "not used" not in out
    assert names_in(root / "semattn-spurious")[0] != ".search"


@pytest.mark.parametrize("seed", range(2))
def test_edited_trees_give_the_result_of_a_search_from_scratch(tmp_path, seed):
    assert trees.search_case(tmp_path, 100 + seed) == []


TEMPORARY_STORE = """
import signal, sys, time
from semattn.utils.run_store import RunStore
from semattn.utils.processes import exits_on_termination
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by background processes
with exits_on_termination():
    store = RunStore(None, {}, "search")
    print(store.folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_temporary_folders_of_stopped_processes_are_removed(tmp_path, monkeypatch, number):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", TEMPORARY_STORE], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir() and folder.parent == tmp_path
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        old = time.time() - 3600
        os.utime(folder, (old, old))
        RunStore(None, {}, "search").clear()
        assert folder.is_dir(), "of a process that runs"
        os.utime(folder, (old, old))
        process.send_signal(number)
        process.wait()
    assert folder.exists() == (number == signal.SIGKILL)
    RunStore(None, {}, "search").clear()
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))
