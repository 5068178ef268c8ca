"""Interventions on a recurring mark: it is erased, and drawn on images of other classes.

A mark is removed by inpainting its pixels. The control inpaints a region of the same shape at other
places, off the object. A mark is transplanted as in `transplants`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import candidates
from ..feature_store import FeatureStore
from ..interventions import (
    FUTILITY_P,
    N_PARTNERS,
    ROUNDS,
    InterventionContext,
    InterventionPatches,
    InterventionResult,
    class_answers,
    sample_rows,
    to_result,
)
from ..significance import effect
from .candidates import MarkCandidate, erase
from .masks import patches_of_masks
from .transplants import Transplant, mark_transplant, matte_of

N_RECEIVERS = 30  # images of other classes that get the mark, at least


Eraser: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[Tensor, Tensor]]
"""Function from rows (n,) and masks (n, H, W) to inputs (n, C, H, W), as they are and inpainted."""


def shifted_masks(masks: np.ndarray, occupied: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return masks (n, H, W) moved to another place of their image.

    Parameters
    ----------
    masks : pixels of the mark
    occupied : (n, H, W), pixels of the object; the best of `N_PARTNERS` places has the least of it,
        and of the mark
    """
    shifted = np.zeros_like(masks)
    for number, mask in enumerate(masks):
        if not mask.any():
            continue
        rows, columns = np.nonzero(mask)
        best = np.inf
        for _ in range(N_PARTNERS):
            down = rng.integers(-rows.min(), mask.shape[0] - rows.max())
            right = rng.integers(-columns.min(), mask.shape[1] - columns.max())
            moved = (rows + down, columns + right)
            overlap = int((occupied[number] | mask)[moved].sum())
            if overlap < best:
                best, place = overlap, moved
        shifted[number][place] = True
    return shifted


def mark_patches(
    store: FeatureStore, candidate: MarkCandidate, rows: np.ndarray, arrays: dict[str, np.ndarray]
) -> InterventionPatches:
    """Return the patches of rows and of their arrays in the store."""
    on_object = candidates.object_patches(arrays["objectness"])
    shown = candidate.patches(store, rows)
    return InterventionPatches(
        shown, on_object & ~shown, ~on_object | shown, is_usable=np.ones(len(rows), bool)
    )


def intervene_on_mark(
    store: FeatureStore, candidate: MarkCandidate, context: InterventionContext, seed: int
) -> InterventionResult:
    """Run both interventions on a mark."""
    rows = sample_rows(candidate.cue_rows, np.random.default_rng((seed, candidate.target)))
    others = candidate.rows[~candidate.in_class & ~candidate.shown]
    masks = candidate.masks(store, rows)
    return run_mark_interventions(
        context, candidate.target, rows, masks, others, partial(erase, store),
        mark_transplant(store, candidate, matte_of(store, candidate)), seed,
        candidate.is_clear(rows),
    )  # fmt: skip


def run_mark_interventions(
    context: InterventionContext,
    target: int,
    rows: np.ndarray,
    masks: np.ndarray,
    others: np.ndarray,
    erase: Eraser,
    transplant: Transplant,
    seed: int,
    is_source: np.ndarray | None = None,
) -> InterventionResult:
    """Return the results of both interventions on one mark.

    Parameters
    ----------
    context, target, seed : as in `run_interventions`
    rows : (n,), rows of the class that show the mark, at most `MAX_IMAGES`
    masks : (n, H, W), pixels of the mark
    others : rows of other classes that do not show it
    erase : inpaints regions of the pictures of rows
    transplant : puts the mark of rows into others
    is_source : (n,), rows whose mark is transplanted; None for all
    """
    rng = np.random.default_rng((seed, target))
    inputs, erased = erase(rows, masks)
    before = class_answers(context, inputs, target)
    sources = slice(None) if is_source is None else is_source
    marked = (rows[sources], masks[sources])
    effects = _transplant(context, target, marked, others, transplant, rng)
    if effect(effects[:, 0]).p > FUTILITY_P:
        unknown = np.full_like(before, np.nan)
        return to_result(rows, before, unknown, unknown, effects)
    after = class_answers(context, erased, target)
    on_object = torch.from_numpy(context.patches(rows).on_object).float()
    occupied = (context.grid.upsample(on_object, mode="nearest") > 0).numpy()
    controls = [
        class_answers(context, erase(rows, shifted_masks(masks, occupied, rng))[1], target)
        for _ in range(ROUNDS)
    ]
    return to_result(rows, before, after, np.mean(controls, axis=0) - after, effects)


def _transplant(
    context: InterventionContext,
    target: int,
    marked: tuple[np.ndarray, np.ndarray],
    others: np.ndarray,
    transplant: Transplant,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the effects (m, 1 + K) of the mark in images of other classes.

    Each receiver is one sample: the question is how the model reacts to this mark in any image.
    `marked` are the rows that show the mark, and their masks.
    """
    rows, masks = marked
    count = min(len(others), max(N_RECEIVERS, len(masks)))
    source = np.arange(count) % len(masks)
    occupied = context.patches(others).on_object
    is_free = np.ones(len(others), bool)
    receivers = np.zeros(count, int)
    for number, region in enumerate(patches_of_masks(masks, context.grid)[source]):
        draws = rng.permutation(np.flatnonzero(is_free))[:N_PARTNERS]
        receivers[number] = draws[np.argmin((occupied[draws] & region).sum(axis=1))]
        is_free[receivers[number]] = False
    with_mark, control = transplant(rows[source], others[receivers])
    effects = class_answers(context, with_mark, target) - class_answers(context, control, target)
    effects[np.arange(count), 1 + context.labels[others[receivers]]] = np.nan
    return effects
