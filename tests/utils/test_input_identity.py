"""Identity of inputs: edits show, moves and copies do not."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from semattn.images import TarMember
from semattn.utils import input_identity as identity
from semattn.utils.input_identity import all_unchanged, content_digest, identity_of, is_unchanged


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(b"pixels")
    return file


def test_an_edit_in_place_shows_though_size_and_time_stay(photo):
    before = photo.stat()
    line = identity_of(photo, "photo.png", 3)
    assert is_unchanged(line, photo, "photo.png", 3)
    photo.write_bytes(b"PIXELS")
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert photo.stat().st_mtime_ns == before.st_mtime_ns
    assert not is_unchanged(line, photo, "photo.png", 3)


def test_another_name_or_label_is_another_input(photo):
    line = identity_of(photo, "a/photo.png", 3)
    assert not is_unchanged(line, photo, "b/photo.png", 3)
    assert not is_unchanged(line, photo, "a/photo.png", 4)
    assert not is_unchanged(line, photo, "a/photo.png", None)
    assert not is_unchanged("damaged", photo, "a/photo.png", 3)
    assert not is_unchanged("[1, 2]", photo, "a/photo.png", 3)


def test_a_copy_on_another_disk_is_the_same_input(photo, tmp_path):
    line = identity_of(photo, "photo.png")
    copy = tmp_path / "copy.png"
    shutil.copyfile(photo, copy)
    os.utime(copy, (1, 1))
    assert is_unchanged(line, copy, "photo.png")


def test_a_file_that_did_not_change_is_not_read(photo, monkeypatch):
    line = identity_of(photo, "photo.png")
    monkeypatch.setattr(identity, "content_digest", lambda source: pytest.fail("read"))
    assert is_unchanged(line, photo, "photo.png")


def test_a_file_that_is_missing_is_another_once_it_is_there(tmp_path):
    missing = tmp_path / "missing.png"
    line = identity_of(missing, "missing.png")
    assert is_unchanged(line, missing, "missing.png")
    missing.write_bytes(b"pixels")
    assert not is_unchanged(line, missing, "missing.png")


def test_members_of_an_archive_are_told_by_their_bytes(tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"firstother")
    members = [TarMember(archive, name, start, 5) for name, start in (("a", 0), ("b", 5))]
    lines = [identity_of(member, member.name) for member in members]
    assert all_unchanged(lines, members, ["a", "b"], [None, None])
    assert not all_unchanged(lines, members[:1], ["a"], [None])
    archive.write_bytes(b"firstOTHER")
    assert [
        is_unchanged(line, member, member.name) for line, member in zip(lines, members, strict=True)
    ] == [True, False]


@pytest.mark.parametrize(
    "pair",
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)),
        (np.zeros(4, np.uint8), np.zeros(1, np.float32)),
        (torch.zeros(2, 2), torch.ones(2, 2)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (Image.new("L", (2, 2)), Image.new("P", (2, 2))),
        (b"a", b"b"),
    ],
    ids=["shape", "dtype", "tensor", "bfloat16", "PIL mode", "bytes"],
)
def test_values_in_memory_are_told_by_type_shape_and_content(pair):
    first, second = pair
    assert content_digest(first) == content_digest(first) != content_digest(second)
    assert is_unchanged(identity_of(first, "image 0"), first, "image 0")
    assert not is_unchanged(identity_of(first, "image 0"), second, "image 0")
