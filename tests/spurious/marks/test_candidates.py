"""Which recurring marks are the object of their images, or a part of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from semattn.grid import PatchGrid
from semattn.spurious.marks import candidates

GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)
IMAGES = 5
MARK = (slice(6, 9), slice(6, 9))  # rows and columns of the patches of the mark


def is_object(*salient: tuple[slice, slice]) -> bool:
    """Return the answer for a mark at `MARK` and images whose salient patches are given."""
    patches, objectness = np.zeros((2, IMAGES, *GRID.shape))
    patches[(slice(None), *MARK)] = 1
    for part in salient:
        objectness[(slice(None), *part)] = 1
    store = SimpleNamespace(
        index=SimpleNamespace(grid=GRID),
        gather=lambda rows: {"objectness": objectness.reshape(IMAGES, -1)[rows]},
    )
    candidate = SimpleNamespace(
        cue_rows=np.arange(IMAGES),
        patches=lambda _store, rows: patches.reshape(IMAGES, -1)[rows].astype(bool),
    )
    return candidates._is_object(store, candidate)


@pytest.mark.parametrize(
    ("expected", "salient"),
    [
        (True, [MARK]),  # the mark is the object
        (True, [(slice(4, 11), slice(4, 11))]),  # a part of the object
        (False, [(slice(11, 16), slice(0, 16))]),  # beside the object
        (False, [MARK, (slice(11, 16), slice(0, 16))]),  # salient, beside the object
        (False, [(slice(0, 9), slice(0, 16))]),  # in an image that the object fills
    ],
)
def test_a_mark_that_is_mostly_the_object_or_inside_it_is_none(expected, salient):
    assert is_object(*salient) is expected
