"""Folders, lists and archives as the source of an audit."""

from __future__ import annotations

import numpy as np
import pytest

from semattn.data import open_source, read_archive
from semattn.data.sources import read_dataset
from semattn.errors import SemattnError
from semattn.images import TarMember, read
from tests.audit.pictures import archive, folder, picture


def test_a_folder_gives_its_files_by_name(tmp_path):
    source = open_source(folder(tmp_path / "in", 4), (), 10)
    assert source.names == ("000.png", "001.png", "002.png", "003.png")
    assert source.data.labels == (None,) * 4 and "no class folders" in source.data.note


def test_class_folders_give_classes(tmp_path):
    source = open_source(folder(tmp_path / "in", 4, classes=2), ("c1", "c0"), 2)
    assert source.names == ("c0/000.png", "c0/002.png", "c1/001.png", "c1/003.png")
    assert source.data.labels == (1, 1, 0, 0)


def test_paths_of_a_list_are_relative_to_its_folder(tmp_path):
    folder(tmp_path / "in", 3)
    (tmp_path / "list.txt").write_text("in/002.png\tdog\n\nin/000.png\t3\nin/001.png\n")
    source = open_source(tmp_path / "list.txt", ("cat", "dog"), 5)
    assert source.names == ("in/002.png", "in/000.png", "in/001.png")
    assert source.data.labels == (1, 3, None)
    assert source.data.sources[0] == tmp_path / "in/002.png"


def test_archives_give_pictures_and_classes(tmp_path):
    archive(tmp_path / "a-00.tar", 3)
    archive(tmp_path / "a-01.tar", 2, first=3)
    source = open_source(str(tmp_path / "a-{00..01}.tar"), (), 10)
    assert source.names == tuple(f"a-0{n // 3}.tar/{n:04}.png" for n in range(5))
    assert source.data.labels == (0, 1, 2, 0, 1) and not source.data.note
    assert open_source(tmp_path, (), 10).names == source.names
    for number, member in enumerate(source.data.sources):
        assert isinstance(member, TarMember)
        assert np.array_equal(read(member), picture(number))


def test_a_sample_keeps_its_folder_and_its_dots(tmp_path):
    """The key of WebDataset ends at the first dot of the file name, not of its folder."""
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("v1.0/x.png", "v1.0/x.seg.png", "v1.0/x.cls", "y.cls"):
            about = tarfile.TarInfo(name)
            about.size = 1
            tar.addfile(about, io.BytesIO(b"7"))
    contents = read_archive(tmp_path / "a.tar")
    assert [picture.name for picture in contents.pictures] == [
        "v1.0/x.png"
    ]  # the first of a sample
    assert contents.labels == (7,)


@pytest.mark.parametrize("cut", [1, 13, 100])
def test_a_damaged_archive_gives_the_pictures_before_the_damage(tmp_path, cut):
    file = archive(tmp_path / "a.tar", 4)
    intact = read_archive(file)
    last = intact.pictures[-1]
    file.write_bytes(file.read_bytes()[: last.offset + last.size - cut])
    readable = read_archive(file)
    assert readable.pictures == intact.pictures[:-1]
    assert "damaged after 0002.png" in readable.broken
    source = open_source(file, (), 10)
    assert source.data.broken == (("a.tar", readable.broken),) and len(source) == 3
    note = f"images after the damage are missing: a.tar: {readable.broken}"
    data = read_dataset(file, (), 10)
    assert data.strays == note and data.about["broken"] == [["a.tar", readable.broken]]


def test_an_archive_that_is_cut_between_two_members_is_damaged(tmp_path):
    file = archive(tmp_path / "a.tar", 4)
    assert read_archive(file).broken == ""
    third = read_archive(file).pictures[2]
    end = third.offset + third.size
    end += -end % 512
    content = file.read_bytes()
    for cut in (end, end + 1, end + 511):  # before and within the header of the next
        file.write_bytes(content[:cut])
        readable = read_archive(file)
        assert len(readable.pictures) == 3
        assert "damaged after 0002.png (end marker is missing)" in readable.broken


def test_invalid_sources_are_refused(tmp_path):
    with pytest.raises(SemattnError, match="does not exist"):
        open_source(tmp_path / "nowhere", (), 2)
    (tmp_path / "x.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(SemattnError, match="none in 1 .*not compressed"):
        open_source(tmp_path / "x.tar", (), 2)
    folder(tmp_path / "in", 3)
    (tmp_path / "list.txt").write_text("in/002.png\tdgo\n")
    with pytest.raises(SemattnError, match="line 1 of .*'dgo'"):
        open_source(tmp_path / "list.txt", ("cat", "dog"), 2)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SemattnError, match="one path per line"):
        open_source(tmp_path / "empty.txt", (), 2)
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SemattnError, match="text file"):
        open_source(tmp_path / "raw.txt", (), 2)
    with pytest.raises(SemattnError, match="the first comes first"):
        open_source("a-{9..3}.tar", (), 2)
