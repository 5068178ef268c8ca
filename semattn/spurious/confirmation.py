"""Candidates of both kinds, patches and marks: duplicates, interventions, and the resulting cue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from . import candidates
from .cue import (
    PatchFinder,
    SpuriousCue,
    describe_cue,
    intervention_context,
    intervention_patches,
    part_off_object,
)
from .cue_detector import CandidateCue, candidates_to_arrays
from .feature_store import FeatureStore
from .interventions import (
    InterventionContext,
    InterventionResult,
    run_interventions,
)
from .marks.candidates import MarkCandidate, candidates_to_arrays as marks_to_arrays
from .marks.cue import describe_mark_cue
from .marks.interventions import intervene_on_mark, mark_patches

MIN_OFF_OBJECT = 1 / 3  # part of the patches of a candidate

AnyCandidate: TypeAlias = CandidateCue | MarkCandidate
"""Candidate of either kind."""


def without_duplicates(
    store: FeatureStore, candidates_by_p: Sequence[AnyCandidate]
) -> list[AnyCandidate]:
    """Return candidates without those that are the same cue as one of the other kind.

    The candidate with the lower p-value is kept; `candidates_by_p` are in this order.
    """
    distinct: list[AnyCandidate] = []
    for candidate in candidates_by_p:
        if not any(_are_same(store, candidate, previous) for previous in distinct):
            distinct.append(candidate)
    return distinct


def _are_same(store: FeatureStore, first: AnyCandidate, second: AnyCandidate) -> bool:
    """Return whether a patch-kind candidate and a mark are the same cue."""
    if first.target != second.target:
        return False
    if isinstance(first, MarkCandidate) and isinstance(second, CandidateCue):
        return _is_same(store, second, first)
    if isinstance(first, CandidateCue) and isinstance(second, MarkCandidate):
        return _is_same(store, first, second)
    return False


def _is_same(store: FeatureStore, kind: CandidateCue, mark: MarkCandidate) -> bool:
    """Return whether both are mostly in the same images, at the same places."""
    class_rows = kind.rows[kind.in_class]
    has_kind = kind.candidate.has_cue[kind.in_class]
    has_both = has_kind & np.isin(class_rows, mark.cue_rows)
    if has_both.sum() < candidates.MIN_NEARBY * min(has_kind.sum(), len(mark.cue_rows)):
        return False
    of_mark = mark.patches(store, class_rows[has_both])
    of_kind = kind.marks[has_both]
    shape = store.index.grid.shape
    return (
        max(
            candidates.nearby_fraction(of_mark, of_kind, shape),
            candidates.nearby_fraction(of_kind, of_mark, shape),
        )
        > candidates.MIN_NEARBY
    )


def is_on_object(store: FeatureStore, candidate: AnyCandidate) -> bool:
    """Return whether most patches of a candidate are on the object or next to it.

    Such a kind of patches is a part of the object, of which a few images show a patch elsewhere or
    have no located object. A mark on the object is no candidate in the first place.
    """
    if isinstance(candidate, MarkCandidate):
        return False
    rows = candidate.rows[candidate.candidate.has_cue & candidate.in_class]
    patches = intervention_patches(store, candidate, rows, store.gather(rows))
    return part_off_object(patches) < MIN_OFF_OBJECT


def context_of(
    store: FeatureStore, candidate: AnyCandidate, confirmed: Sequence[AnyCandidate]
) -> InterventionContext:
    """Return the model and the access to images for the interventions on a candidate.

    Patches of `confirmed` candidates of the class do not count as off the object.
    """
    patches_of = (
        partial(mark_patches, store, candidate)
        if isinstance(candidate, MarkCandidate)
        else partial(intervention_patches, store, candidate)
    )
    finders = [_patch_finder(store, previous) for previous in confirmed]
    return intervention_context(store, patches_of, finders)


def _patch_finder(store: FeatureStore, candidate: AnyCandidate) -> PatchFinder:
    """Return the function that finds the patches of a candidate."""
    if isinstance(candidate, MarkCandidate):
        return lambda rows, _: candidate.patches(store, rows)
    return lambda _, values: candidate.detector.scores(values) > 0


def intervene(
    store: FeatureStore, candidate: AnyCandidate, context: InterventionContext, seed: int
) -> InterventionResult:
    """Run both interventions on a candidate."""
    if isinstance(candidate, MarkCandidate):
        return intervene_on_mark(store, candidate, context, seed)
    has_cue, in_class = candidate.candidate.has_cue, candidate.in_class
    cue_rows, others = candidate.rows[has_cue & in_class], candidate.rows[~has_cue & ~in_class]
    return run_interventions(context, candidate.target, cue_rows, others, seed)


def describe(
    store: FeatureStore,
    candidate: AnyCandidate,
    result: InterventionResult,
    context: InterventionContext,
    correction: tuple[int, float],
    alpha: float,
    seed: int,
) -> SpuriousCue:
    """Return a tested candidate as a cue; parameters are those of `describe_cue`."""
    if isinstance(candidate, MarkCandidate):
        return describe_mark_cue(store, candidate, result, context, correction, alpha, seed)
    return describe_cue(store, candidate, result, context, correction, alpha, seed)


def content_number(tested: Sequence[AnyCandidate]) -> int:
    """Return a number of 60 bits that depends on all values of some candidates."""
    digest = hashlib.sha256()
    for candidate in tested:
        arrays = (
            marks_to_arrays([candidate], 0, 0)
            if isinstance(candidate, MarkCandidate)
            else candidates_to_arrays(0, [candidate])
        )
        digest.update(f"{type(candidate).__name__} {candidate.target}".encode())
        for name, values in arrays.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return int(digest.hexdigest()[:15], 16)
