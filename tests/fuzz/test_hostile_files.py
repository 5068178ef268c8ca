"""Files made to do harm: none of what semattn reads runs code, fills memory, or waits for ever."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from semattn.errors import SemattnError
from semattn.explain.explanation import load_maps
from semattn.interrelation import load_analysis
from semattn.masking import KeypointCache
from semattn.spurious import load_discovery, load_marks
from semattn.utils.atomic_files import MOST
from semattn.utils.run_store import RunStore
from semattn.zoo import load
from tests.conftest import refused


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def pickled(bomb: Bomb) -> bytes:
    return pickle.dumps({"x": bomb})


def by_torch(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    torch.save({"head.weight": torch.zeros(2), "x": bomb}, stream)
    return stream.getvalue()


def by_torch_of_old(bomb: Bomb) -> bytes:
    stream = io.BytesIO()
    torch.save({"x": bomb}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def in_an_array(bomb: Bomb) -> bytes:
    """An npz with arrays of objects, under every name that is read."""
    stream = io.BytesIO()
    names = ("about", "x", "images", "layers", "sums", "mean", "axes")
    np.savez(stream, **{name: np.array([bomb], dtype=object) for name in names})
    return stream.getvalue()


def in_an_archive(bomb: Bomb) -> bytes:
    """A zip as torch writes it, whose pickle is another one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(bomb))
        archive.writestr("archive/version", "3")
    return stream.getvalue()


def swollen(_: Bomb) -> bytes:
    """Kilobytes that are gigabytes once they are unpacked."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (2 * MOST,)}
    np.lib.format.write_array_header_2_0(header, about)
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("about.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header.getvalue())
        for _ in range(2 * MOST // 2**24):
            entry.write(bytes(2**24))
    return stream.getvalue()


def liar(_: Bomb) -> bytes:
    """An array that says it is of exabytes, and has nothing."""
    header = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": (2**57,)}
    np.lib.format.write_array_header_2_0(header, about)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("about", "images", "x"):
            archive.writestr(f"{name}.npy", header.getvalue())
    return stream.getvalue()


def of_safetensors(_: Bomb) -> bytes:
    """A header that is longer than any file."""
    return (2**62).to_bytes(8, "little") + b'{"x": '


def shelved(file: Path) -> object:
    store = RunStore(file.parent / "store", {}, "search")
    (store.folder / "one.npz").write_bytes(file.read_bytes())
    return store.read_arrays("one")


def cached(file: Path) -> object:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), dtype=np.uint8)
    KeypointCache.build(list(pixels), file.parent / "cache", workers=1)
    for path in (file.parent / "cache").glob("*.safetensors"):
        path.write_bytes(file.read_bytes())
    return KeypointCache(file.parent / "cache")[0]


READERS = {
    "checkpoint.pt": lambda file: load("test_vit", checkpoint=file),
    "checkpoint.safetensors": lambda file: load("test_vit", checkpoint=file),
    "maps.safetensors": load_maps,
    "analysis.npz": load_analysis,
    "discovery.npz": load_discovery,
    "marks.npz": load_marks,
    "store.npz": shelved,
    "keypoints.safetensors": cached,
}
FORMS = (
    pickled, by_torch, by_torch_of_old, in_an_array, in_an_archive, liar, of_safetensors,
)  # fmt: skip


@pytest.fixture
def poor():
    """A process that has 4 GiB more than it takes now, and no more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 2**32
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_a_trap_is_refused_and_not_run(name, form, tmp_path, poor):
    file, ran = tmp_path / name, tmp_path / "ran"
    file.write_bytes(form(Bomb(ran)))
    with pytest.raises((SemattnError, ValueError), match="expected") as error:
        READERS[name](file)
    assert "\n" not in str(error.value)
    assert not ran.exists()


def test_the_trap_works(tmp_path):
    """Else the test above could not fail."""
    for number, form in enumerate((pickled, by_torch, by_torch_of_old)):
        ran = tmp_path / str(number)
        stream = io.BytesIO(form(Bomb(ran)))
        if form is pickled:
            pickle.load(stream)
        else:
            torch.load(stream, weights_only=False)
        assert ran.exists()


def test_arrays_that_swell_are_not_unpacked(tmp_path, poor):
    file = tmp_path / "x.npz"
    file.write_bytes(swollen(Bomb(tmp_path)))
    assert file.stat().st_size < 2**24
    for read in (load_analysis, load_discovery, load_marks, shelved):
        with pytest.raises(SemattnError, match="expected"):
            read(file)


@pytest.mark.parametrize("option", ["--class-names", "--checkpoint"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "folder"])
def test_a_file_that_never_ends_is_not_waited_for(run, elsewhere, kind, option, monkeypatch):
    monkeypatch.undo()  # the command is to load what it is given
    os.chdir(elsewhere)
    os.mkfifo(elsewhere / "pipe")
    source = {"pipe": elsewhere / "pipe", "zero": Path("/dev/zero"), "folder": elsewhere}[kind]
    image = Path(__file__).parents[2] / "examples" / "flower.jpg"
    answer = run(
        "explain", image, "--model", "test_vit", option, source,
        "--random-weights" if option == "--class-names" else "--no-report",
    )  # fmt: skip
    refused(answer, "expected")


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/null", "loop"])
def test_an_image_that_never_ends_is_not_waited_for(run, elsewhere, kind):
    os.mkfifo(elsewhere / "pipe")
    (elsewhere / "loop").symlink_to(elsewhere / "loop")
    for command in ("explain", "analyze", "audit", "spurious"):
        refused(run(command, kind), "expected")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["loop", "pipe"]


@pytest.mark.parametrize(
    "pattern", ["a-{0..99999999}.tar", "a-{000..1e9}.tar", "a-{5..1}.tar", "a-{0..}.tar", "{..}"]
)
def test_a_range_of_archives_that_is_none(run, elsewhere, pattern):
    refused(run("audit", pattern), "expected")
    assert not list(elsewhere.iterdir())
