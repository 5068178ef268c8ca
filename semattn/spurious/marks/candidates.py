"""Recurring marks as candidates of `discover_spurious`, and their arrays in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ...attention.model_call import move_to_model
from ...images import Images, Preprocessing
from ...keypoints.local_features import local_features
from ...utils.atomic_files import with_prefix
from ...utils.ray_session import TaskMap, local_map
from .. import candidates
from ..batch_store import strided
from ..feature_store import FeatureStore
from ..interventions import class_log_odds
from .masks import erase_pixels, patches_of_masks, region_masks, replace_changed
from .recurring import MAX_IMAGES, RecurringMark, find_recurring_marks
from .template import MarkTemplate, Region, regions_to_arrays

MAX_RANK_AROUND = 0.7  # rank of its place by salience around it, from which on it is a part of it
# A mark is the object itself if it is more than this part of the salient region, and if the mean
# probability of the class without it is below this part of that in other images of the class.
MIN_SALIENT, MIN_RECOGNISED = 0.3, 0.7
MAX_SALIENT = 0.6  # part of the salient region, if too few other images of the class are known
MIN_OTHER_IMAGES, MAX_OTHER_IMAGES = 5, 12  # of the class, for that probability


@dataclass(frozen=True, eq=False)
class MarkCandidate:
    """Mark that may be a cue, with the rows that it was compared in.

    Parameters
    ----------
    mark : the mark; its regions are by row of the store
    rows : (n,), rows that were compared
    labels : (n,), their classes
    """

    mark: RecurringMark
    rows: np.ndarray
    labels: np.ndarray

    @property
    def target(self) -> int:
        """Class that shows the mark."""
        return self.mark.target

    @property
    def p(self) -> float:
        """P-value of the frequency, not corrected."""
        return self.mark.p

    @cached_property
    def shown(self) -> np.ndarray:
        """Rows that show the mark, as bool (n,)."""
        return np.isin(self.rows, list(self.mark.regions))

    @property
    def in_class(self) -> np.ndarray:
        """Rows of the class, as bool (n,)."""
        return self.labels == self.target

    @property
    def cue_rows(self) -> np.ndarray:
        """Rows of the class that show the mark."""
        return self.rows[self.in_class & self.shown]

    @property
    def relative_risk(self) -> float:
        """Relative risk of the mark, class against others; one image outside at least is assumed.

        It is not a confidence limit: a repeated mark is exact, and not a part of the surroundings.
        """
        outside = self.shown[~self.in_class]
        return float(
            self.shown[self.in_class].mean() / (max(1, int(outside.sum())) / max(1, len(outside)))
        )

    def is_clear(self, rows: np.ndarray) -> np.ndarray:
        """Return which rows (n,) have at least the median number of matches of the mark.

        A repeated pattern also matches next to its place, with fewer of its keypoints.
        """
        matches = np.array([self.mark.regions[int(row)][0].matches for row in rows])
        is_clear: np.ndarray = matches >= np.median(matches)
        return is_clear

    def masks(self, store: FeatureStore, rows: np.ndarray) -> np.ndarray:
        """Return the pixels (n, H, W) of bool of rows that show the mark."""
        regions = [self.mark.regions.get(int(row), []) for row in rows]
        return region_masks(regions, store.index.grid.image_size)

    def patches(self, store: FeatureStore, rows: np.ndarray) -> np.ndarray:
        """Return the patches (n, P) of rows that show the mark."""
        return patches_of_masks(self.masks(store, rows), store.index.grid)


def find_mark_candidates(
    store: FeatureStore,
    alpha: float,
    targets: Sequence[int],
    most: int,
    run_tasks: TaskMap = local_map,
) -> tuple[list[MarkCandidate], int, int]:
    """Return the marks off the object by p-value, the number of tests, and of photographs.

    These are at most `most` marks of each class of `targets`.
    """
    significant, n_tests, n_photographs = significant_marks(store, alpha, run_tasks)
    selected: list[MarkCandidate] = []
    for target in targets:
        of_class = (candidate for candidate in significant if candidate.target == target)
        # The model answers whether a mark is the object: no more are asked about than are kept.
        selected += islice((mark for mark in of_class if not is_object(store, mark)), most)
    return sorted(selected, key=lambda mark: mark.p), n_tests, n_photographs


def significant_marks(
    store: FeatureStore, alpha: float, run_tasks: TaskMap = local_map
) -> tuple[list[MarkCandidate], int, int]:
    """Return the marks that are significant without the tests of patch kinds, by p-value.

    Also returns the number of tests, and of images of the same photograph as another one.
    """
    rows = strided(np.arange(len(store)), MAX_IMAGES)
    labels = store.index.labels[rows]
    sizes = np.tile(store.index.grid.image_size, (len(rows), 1))
    features = local_features(store.keypoints(rows))
    result = find_recurring_marks(features, labels, sizes, alpha, store.progress, run_tasks)
    significant = [
        MarkCandidate(
            replace(mark, regions={int(rows[i]): places for i, places in mark.regions.items()}),
            rows, labels,
        )
        for mark in result.marks
        if mark.p * result.n_tests < alpha
    ]  # fmt: skip
    return significant, result.n_tests, len(result.same_scenes)


def is_object(store: FeatureStore, candidate: MarkCandidate) -> bool:
    """Return whether a mark is the object of its images, or a part of it.

    It is a part if it is at salient places: the mean `candidates.rank_of_place` of a mark at random
    places is .5, however salient they are, because an object may fill its image. It is the object
    itself if it is much of the salient region (as a median), and the model does not recognise the
    class without it. Neither is enough: a mark may draw the salience of a smooth image, and a model
    may depend on a mark.
    """
    rank, part = salience(store, candidate)
    if rank > MAX_RANK_AROUND:
        return True
    if part <= MIN_SALIENT:
        return False
    recognised = recognised_without(store, candidate)
    return part > MAX_SALIENT if recognised is None else recognised < MIN_RECOGNISED


def salience(store: FeatureStore, candidate: MarkCandidate) -> tuple[float, float]:
    """Return the mean rank of a mark's place by salience, and its part of the salient region.

    The part is a median over its images. The rank is .5 if the mark covers no patch.
    """
    rows, shape = candidate.cue_rows, store.index.grid.shape
    salient = candidates.object_patches(store.gather(rows)["objectness"])
    patches = candidate.patches(store, rows)
    has_mark = patches.any(axis=1)
    ranks = candidates.rank_of_place(salient[has_mark], patches[has_mark], shape)
    part = np.median((salient & patches).sum(axis=1) / salient.sum(axis=1).clip(min=1))
    return float(ranks.mean()) if len(ranks) else 0.5, float(part)


def recognised_without(store: FeatureStore, candidate: MarkCandidate) -> float | None:
    """Return the probability of the class without a mark, relative to its other images.

    None if the class has fewer than `MIN_OTHER_IMAGES` that do not show the mark.
    """
    others = candidate.rows[candidate.in_class & ~candidate.shown]
    if len(others) < MIN_OTHER_IMAGES:
        return None
    rows = strided(candidate.cue_rows, MAX_OTHER_IMAGES)
    _, erased = erase(store, rows, candidate.masks(store, rows))
    without = _mean_probability(store, erased, candidate.target)
    inputs = store.inputs(strided(others, MAX_OTHER_IMAGES))
    return without / max(_mean_probability(store, inputs, candidate.target), 1e-12)


def erase(store: FeatureStore, rows: np.ndarray, masks: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the inputs (n, C, H, W) of rows, as they are and with masks (n, H, W) inpainted."""
    images = store.images(rows)
    return images.inputs, changed_inputs(store, images, erase_pixels(images.pixels, masks))


def changed_inputs(store: FeatureStore, images: Images, pixels: np.ndarray) -> Tensor:
    """Return the inputs (n, C, H, W) of images with other pixels (n, H, W, 3)."""
    extractor = store.extractor
    preprocessing = extractor.preprocessing or Preprocessing.of(extractor.model)
    return replace_changed(images.inputs, images.pixels, pixels, preprocessing)


def _mean_probability(store: FeatureStore, inputs: Tensor, target: int) -> float:
    """Return the mean probability of a class in images (n, C, H, W)."""
    log_odds = [
        class_log_odds(
            store.extractor.model,
            move_to_model(store.extractor.model, batch, prepared=True),
            torch.full((len(batch),), target, device="cpu"),
        )
        for batch in inputs.split(store.batch_size)
    ]
    return float(torch.cat(log_odds).float().sigmoid().mean())


def candidates_to_arrays(
    marks: Sequence[MarkCandidate], n_tests: int, n_photographs: int
) -> dict[str, np.ndarray]:
    """Return mark candidates as arrays of the store."""
    arrays = {"counts": np.array([len(marks), n_tests, n_photographs])}
    if marks:
        arrays |= {"rows": marks[0].rows, "labels": marks[0].labels}
    for number, candidate in enumerate(marks):
        mark = candidate.mark
        places = [(row, region) for row, regions in mark.regions.items() for region in regions]
        mark_arrays = mark.template.to_arrays() | regions_to_arrays(
            [region for _, region in places]
        )
        mark_arrays |= {
            "row": np.array([row for row, _ in places]), "target": np.array(mark.target),
            "p": np.array(mark.p),
        }  # fmt: skip
        arrays |= {f"{number}.{name}": values for name, values in mark_arrays.items()}
    return arrays


def candidates_from_arrays(
    arrays: dict[str, np.ndarray],
) -> tuple[list[MarkCandidate], int, int]:
    """Return the mark candidates of such arrays, the number of tests, and of photographs."""
    count, n_tests, n_photographs = arrays["counts"].tolist()
    marks = []
    for number in range(count):
        mark_arrays = with_prefix(arrays, f"{number}.")
        template = MarkTemplate.from_arrays(mark_arrays)
        regions: dict[int, list[Region]] = {}
        for row, region in zip(
            mark_arrays["row"].tolist(), template.regions_from_arrays(mark_arrays), strict=True
        ):
            regions.setdefault(row, []).append(region)
        mark = RecurringMark(template, regions, int(mark_arrays["target"]), float(mark_arrays["p"]))
        marks.append(MarkCandidate(mark, arrays["rows"], arrays["labels"]))
    return marks, n_tests, n_photographs
