"""A file is there whole, or as it was."""

from __future__ import annotations

import pytest

from semattn.files import whole, write_text


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old é")

    def fail():
        with whole(file) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text(encoding="utf-8") == "old é"
    assert list(tmp_path.iterdir()) == [file]
    with whole(file) as stream:
        stream.write(b"new")
        assert file.read_text(encoding="utf-8") == "old é", "until it is whole"
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]
