"""The index of archives: made once, shared, small in memory, and never stale."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from semattn.data import archive_index, open_source
from semattn.images import read
from semattn.images.archive_members import ArchiveMembers, ArchivesMembers, TarMember
from tests.audit.pictures import archive, picture
from tests.stores import objects, upload

__all__ = ["objects"]


@pytest.fixture
def scans(monkeypatch):
    """Record the archives that are listed."""
    listed = []
    scan = archive_index.scan

    def recorded(path):
        listed.append(path.name)
        return scan(path)

    monkeypatch.setattr(archive_index, "scan", recorded)
    return listed


def shards(folder, count=3):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        archive(folder / f"a-{number}.tar", 3, first=3 * number)
    return folder


def test_archives_are_listed_once_and_again_after_a_change(tmp_path, scans):
    data, index = shards(tmp_path / "in"), tmp_path / "index"
    plain = open_source(data, (), 3)
    scans.clear()
    first, second = (open_source(data, (), 3, index) for _ in range(2))
    assert sorted(scans) == ["a-0.tar", "a-1.tar", "a-2.tar"]
    for source in (first, second):
        assert source.names == plain.names and source.data.labels == plain.data.labels
        assert source.data.sources == plain.data.sources
    assert np.array_equal(read(second.data.sources[-1]), picture(8))
    archive(data / "a-1.tar", 2, first=50)
    (index / "note.txt").write_text("another file")
    changed = open_source(data, (), 3, index)
    assert scans[3:] == ["a-1.tar"]
    assert changed.names == open_source(data, (), 3).names and "a-1.tar/0050.png" in changed.names


def test_damaged_archives_and_damaged_files_of_the_index_are_listed_again(tmp_path, scans):
    data, index = shards(tmp_path / "in", 2), tmp_path / "index"
    file = data / "a-1.tar"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    first, second = (open_source(data, (), 3, index).data.broken for _ in range(2))
    assert first == second != ()
    assert sorted(scans) == ["a-0.tar", "a-1.tar", "a-1.tar"]
    (entry,) = index.iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    scans.clear()
    assert open_source(data, (), 3, index).names == open_source(data, (), 3).names
    assert "a-0.tar" in scans


def test_processes_that_start_together_agree(tmp_path):
    data, index = shards(tmp_path / "in"), tmp_path / "index"
    with ThreadPoolExecutor(4) as pool:
        sources = list(pool.map(lambda _: open_source(data, (), 3, index), range(4)))
    assert len({tuple(source.names) for source in sources}) == 1
    assert not [file for file in index.iterdir() if file.suffix != ".npz"]


def test_the_index_of_a_store_follows_its_archives(tmp_path, objects, scans):
    data, index = shards(tmp_path / "in", 2), tmp_path / "index"
    upload(data, objects)
    names = [open_source(objects, (), 3, index).names for _ in range(2)]
    assert names[0] == names[1] == open_source(data, (), 3).names
    archive(data / "a-0.tar", 1, first=7)
    upload(data, objects)  # both are new on the store
    assert open_source(objects, (), 3, index).names[0] == "a-0.tar/0007.png"


def test_a_picture_takes_less_than_64_bytes(tmp_path):
    count, parts = 20_000, 4
    members = [
        TarMember(tmp_path / "a.tar", f"n01440764_{number:05}.JPEG", 1024 * number, 500)
        for number in range(count)
    ]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    pictures = ArchivesMembers(
        [ArchiveMembers.of(tmp_path / "a.tar", members[part::parts]) for part in range(parts)]
    )
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 64 * count
    assert list(pictures)[:3] == [members[0], members[4], members[8]] == list(pictures[:3])
    assert pictures[-1] == members[-1] and len(pictures) == count
    with pytest.raises(IndexError):
        pictures[count]


def test_names_that_are_not_utf8_are_kept():
    member = TarMember("a.tar", "caf\udce9.png", 512, 9)
    assert ArchiveMembers.of("a.tar", [member])[0] == member
