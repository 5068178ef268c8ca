"""Transplant of a mark: drawn by its matte, or its region pasted if the images are too few."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semattn.grid import PatchGrid
from semattn.images import Preprocessing
from semattn.spurious.marks.masks import region_masks
from semattn.spurious.marks.recurring import RecurringMark
from semattn.spurious.marks.template import Region
from semattn.spurious.marks.transplants import mark_transplant, matte_of
from tests.keypoints.drawn_marks import corners, paste, picture, placed
from tests.keypoints.test_mattes import letters

SIDE = 96
MARKED = 12
PREPROCESSING = Preprocessing((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
GRID = PatchGrid((12, 12), (SIDE, SIDE), (8, 8), 1)


def store_and_candidate(marked: int):
    """Return `MARKED` rows, of which the first show letters, and the transforms of the letters."""
    mark, rng = letters(), np.random.default_rng(0)
    transforms = [placed(mark, tuple(rng.uniform(40, 56, 2)), 0.9, rng.uniform(-9, 9))
                  for _ in range(MARKED)]  # fmt: skip
    plain = np.stack([picture(row, (SIDE, SIDE)) for row in range(MARKED)])
    pixels = plain.copy()
    for row in range(marked):
        pixels[row] = paste(plain[row], mark, transforms[row])

    def images(rows):
        return SimpleNamespace(pixels=pixels[rows], inputs=PREPROCESSING.inputs(pixels[rows]))

    store = SimpleNamespace(
        images=images, inputs=lambda rows: images(rows).inputs, index=SimpleNamespace(grid=GRID),
        extractor=SimpleNamespace(preprocessing=PREPROCESSING),
    )  # fmt: skip
    regions = {
        row: [Region(corners(mark, transforms[row]), transforms[row], 9, False)]
        for row in range(marked)
    }
    candidate = SimpleNamespace(
        mark=RecurringMark(
            SimpleNamespace(outline=corners(mark, np.eye(2, 3))), regions, target=0, p=0.001
        ),
        masks=lambda _store, rows: region_masks([regions[row] for row in rows], (SIDE, SIDE)),
    )  # fmt: skip
    true = {row: paste(plain[MARKED - 1], mark, transforms[row]) for row in range(marked)}
    return store, candidate, true


def test_the_mark_alone_is_drawn_on_the_unchanged_image():
    store, candidate, true = store_and_candidate(MARKED - 1)
    sources, receivers = np.array([2, 5]), np.array([MARKED - 1] * 2)
    transplant = mark_transplant(store, candidate, matte_of(store, candidate))
    with_mark, control = transplant(sources, receivers)
    assert torch.equal(control, store.inputs(receivers))
    expected = PREPROCESSING.inputs(np.stack([true[row] for row in sources]))
    effect = (expected - control).abs()
    is_mark = effect.amax(dim=1, keepdim=True) > 0.1
    error = (with_mark - expected).abs()
    assert float((error * is_mark).sum() / (effect * is_mark).sum()) < 0.3
    pasted = torch.where(
        torch.from_numpy(candidate.masks(store, sources))[:, None], store.inputs(sources), control
    )
    assert float(error.mean()) < 0.3 * float((pasted - expected).abs().mean())


@pytest.mark.parametrize("marked", [2, 4])
def test_the_region_is_pasted_if_few_images_show_the_mark(marked):
    store, candidate, _ = store_and_candidate(marked)
    sources, receivers = np.arange(2), np.array([6, 7])
    assert matte_of(store, candidate) is None
    with_mark, control = mark_transplant(store, candidate, None)(sources, receivers)
    region = torch.from_numpy(candidate.masks(store, sources))[:, None].expand_as(with_mark)
    assert torch.equal(with_mark[region], store.inputs(sources)[region])
    assert torch.equal(with_mark[~region], store.inputs(receivers)[~region])
    is_inpainted = (control != store.inputs(receivers)).any(dim=1, keepdim=True).expand_as(region)
    assert is_inpainted[region].float().mean() > 0.9
