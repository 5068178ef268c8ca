"""Fixtures of the tests of audits."""

import pytest

from semattn.audit import batch_size
from semattn.data import open_source
from tests.audit.pictures import folder


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(batch_size, "BATCHES_PER_UNIT", 2)


@pytest.fixture
def source(tmp_path):
    images = folder(tmp_path / "in", 11)
    (images / "words.txt").write_text("no picture")
    return open_source(images, (), 1000)
