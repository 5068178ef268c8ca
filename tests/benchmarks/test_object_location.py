"""Table of the location of objects, against values computed by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.studies.spurious.object_location import patches_of_object, rows_of


def test_missed_patches_are_those_of_the_object_away_from_the_salient_region():
    salient, objects = np.zeros((2, 2, 16, 16), bool)
    salient[0, 4:8, 4:8] = objects[0, 4:8, 4:8] = True  # compact, nothing missed
    salient[1, ::2, ::2] = True  # scattered: every other patch of every other row
    objects[1, :8] = True
    photographs = salient.reshape(2, 256)
    rows = rows_of(photographs, objects.reshape(2, 256), photographs, np.array([0, 1]))
    assert [row["limit"] for row in rows] == ["none", "2", "1.75", "1.5"]
    assert [row["left_out"] for row in rows] == [0, 50, 50, 50]
    assert [row["missed"] for row in rows] == [0, 0, 0, 0]  # each patch has a salient neighbour
    assert [row["classes"] for row in rows] == ["0 to 0", "0 to 100", "0 to 100", "0 to 100"]

    objects[0, 8:12, 4:8] = True  # half of the object, of which a row is next to the salient region
    rows = rows_of(photographs, objects.reshape(2, 256), photographs, np.array([0, 1]))
    assert rows[0]["missed"] == 100 * (12 / 32) / 2 and rows[2]["missed"] == 100 * 12 / 32
    assert [row["bad"] for row in rows] == [1, 1, 1, 1]


def test_a_patch_is_of_the_object_if_more_than_half_of_it_is():
    masks = np.zeros((1, 224, 224), bool)
    masks[0, :14, :14] = masks[0, :14, 14:21] = True  # a patch, and exactly half of the next
    assert patches_of_object(masks).nonzero()[1].tolist() == [0]
