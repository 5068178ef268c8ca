"""Cue that a model uses for a class and that is not the object of the class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..grid import PatchGrid
from ..images import Preprocessing
from ..prompting import CLIP, AttentionPrompter, suppression_bias
from ..utils.notebook import ShortRepr
from ..utils.text import to_json_number, to_json_value
from . import candidates
from .cue_detector import CandidateCue, CueDetector
from .feature_extractor import FeatureExtractor
from .feature_store import FeatureStore
from .interventions import (
    LAYERS,
    STRENGTH,
    Group,
    InterventionContext,
    InterventionPatches,
    InterventionResult,
    group_accuracies,
    paste_cue,
)
from .significance import Effect, corrected_p, score

SAME_PLACE, EVERYWHERE, AROUND = "same place", "all over the image", "around the object"
MAX_EXAMPLES = 12  # examples of a cue

PatchFinder: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function from rows (n,) and their values (n, P, D) to the patches (n, P) that show a cue."""


class CueImage(NamedTuple):
    """Image that shows a cue: its name and class, and whether the class is that of the cue."""

    name: str
    class_name: str
    in_class: bool


@dataclass(frozen=True, eq=False, repr=False)
class Example(ShortRepr):
    """Image with a cue: pixels (H, W, 3) uint8 and the match of each patch (h, w) with it.

    Parameters
    ----------
    before, without : probability of the class with and without the cue; NaN if no removal was tried
        on this image
    grid : patch grid; None in files of earlier versions, whose patches cover the image evenly
    off_object : (h, w), patches that are not on the object or next to it; interventions change no
        others. All False if the object is not located; None for a mark, whose region is exact, and
        in files of earlier versions
    """

    name: str
    pixels: np.ndarray
    matches: np.ndarray
    before: float = float("nan")
    without: float = float("nan")
    grid: PatchGrid | None = None
    off_object: np.ndarray | None = None

    @property
    def patches(self) -> PatchGrid:
        """Patch grid of the image."""
        if self.grid is not None:
            return self.grid
        (h, w), (height, width) = self.matches.shape, self.pixels.shape[:2]
        return PatchGrid((h, w), (height, width), (height / h, width / w))


@dataclass(frozen=True, eq=False, repr=False)
class SpuriousCue(ShortRepr):
    """Patches that raise the score of a class and are not its object.

    Parameters
    ----------
    target, name : class number and class name
    score : [P(m|c) - P(m|not c)]+ times the mean effect of removal, in nats; `interval` is 95 %
    confirmed : True if frequency, removal and transplant are all significant, and the transplant
        affects the class more than other classes
    p : greatest of the corrected p-values of these tests
    inside, outside : P(m|c) and P(m|not c), fractions of the images that show the cue
    removal : decrease of the log-odds of the class when the cue is removed, in nats
    transplant : increase of the log-odds in images of other classes with the cue, in nats
    where : "same place", "all over the image" or "around the object"
    fixed : mean overlap of the cue's patches between two images, in [0, 1]
    covers : fraction of an image that shows the cue
    off_object : fraction of the cue's patches that are off the object (see `Example`), in images of
        the class whose object is located; NaN for a mark and in files of earlier versions
    keypoints : keypoints per patch of the cue, divided by those per patch of the whole image
    place : (h, w), fraction of the images with the cue that show it in each patch
    examples : images with the cue, those that interventions can use first, best match first
    groups : accuracy of the model, unchanged and with attention to the cue suppressed
    detector : detector of the cue in patches of other images; None for a recurring mark
    grid : patch grid of `place`; None if the patches cover the image evenly
    cue_images : all compared images that show the cue, those of the class first; of a large data
        set, 400 images of the class and 1,300 others are compared, or 4,000 images for a mark
    """

    target: int
    name: str
    score: float
    interval: tuple[float, float]
    confirmed: bool
    p: float
    inside: float
    outside: float
    removal: Effect
    transplant: Effect
    where: str
    fixed: float
    covers: float
    keypoints: float
    place: np.ndarray
    examples: tuple[Example, ...]
    groups: tuple[Group, ...]
    detector: CueDetector | None
    model: nn.Module | None = None
    preprocessing: Preprocessing | None = None
    keypoint_detector: Any = "sift"
    grid: PatchGrid | None = None
    cue_images: tuple[CueImage, ...] = ()
    off_object: float = float("nan")

    @property
    def tag(self) -> str:
        """Density of the cue against the mean patch: "keypoint-rich" or "keypoint-poor"."""
        return "keypoint-rich" if self.keypoints >= 1 else "keypoint-poor"

    def matches(self, inputs: Tensor, model: nn.Module | None = None) -> Tensor:
        """Return how well each patch of images (B, C, H, W) matches the cue: (B, P) in [0, 1].

        The default model is that of the search; a cue that was read from a file needs `model`.

        Raises
        ------
        ValueError
            Without a model, or with a model whose patches have other features.
        """
        model = self.model if model is None else model
        if model is None:
            raise ValueError(
                "model: expected the model of the search, got none — call "
                "cue.matches(inputs, model) or load_discovery(file, model)"
            )
        assert self.detector is not None
        extractor = FeatureExtractor(model, self.preprocessing, self.keypoint_detector, seed=0)
        features = extractor.features_of(inputs).numpy()
        if features.shape[-1] != len(self.detector.weights):
            raise ValueError(
                f"model: expected the model of the search with {len(self.detector.weights)} "
                f"features per patch, got {features.shape[-1]}"
            )
        return torch.from_numpy(self.detector(features)).float().to(inputs.device)

    def bias(self, inputs: Tensor) -> Tensor:
        """Return the bias (B, P), in nats, that suppresses the cue: ``prompter.steer(cue)``."""
        return suppression_bias(self.matches(inputs), CLIP)

    def summary(self) -> dict[str, Any]:
        """Return the values that a table shows, ready for JSON; unknown values are None."""
        return {
            "class": self.name, "target": self.target, "confirmed": self.confirmed,
            "score": to_json_number(self.score),
            "interval": [to_json_number(bound) for bound in self.interval],
            "p": self.p, "inside": self.inside, "outside": self.outside,
            "removal": to_json_value(vars(self.removal)),
            "transplant": to_json_value(vars(self.transplant)),
            "where": self.where, "fixed": to_json_number(self.fixed), "covers": self.covers,
            "off_object": to_json_number(self.off_object),
            "tag": self.tag, "keypoints": self.keypoints, "place": self.place.tolist(),
            "groups": [to_json_value(vars(group)) for group in self.groups],
            "examples": [
                {"name": example.name, "before": to_json_number(example.before),
                 "without": to_json_number(example.without)}
                for example in self.examples
            ],
            "cue_images": [
                {"name": image.name, "class": image.class_name, "in_class": image.in_class}
                for image in self.cue_images
            ],
        }  # fmt: skip


def intervention_context(
    store: FeatureStore,
    patches_of: Callable[[np.ndarray, dict[str, np.ndarray]], InterventionPatches],
    confirmed: Sequence[PatchFinder],
) -> InterventionContext:
    """Return the model and the access to images for the interventions on a candidate.

    Parameters
    ----------
    store : features of the images
    patches_of : function from rows and their arrays in the store to the patches of the candidate
    confirmed : confirmed cues of the class. Their patches do not count as off the object, so that a
        candidate inside a frame does not get the effect of the frame
    """

    def patches(rows: np.ndarray) -> InterventionPatches:
        arrays = store.gather(rows)
        of_candidate = patches_of(rows, arrays)
        off_object = of_candidate.off_object
        for shows in confirmed:
            off_object = off_object & ~shows(rows, arrays["values"])
        return replace(of_candidate, off_object=off_object)

    return InterventionContext(
        store.extractor.model, store.index.grid, store.inputs, patches, store.batch_size,
        store.index.labels,
    )  # fmt: skip


def intervention_patches(
    store: FeatureStore, tested: CandidateCue, rows: np.ndarray, arrays: dict[str, np.ndarray]
) -> InterventionPatches:
    """Return the patches of rows and of their arrays in the store.

    If the object of an image is not located, only patches of `tested.fixed` are off the object.
    """
    shape = store.index.grid.shape
    on_object = candidates.object_patches(arrays["objectness"])
    fixed = (store.index.labels[rows] == tested.target)[:, None] & tested.fixed
    is_located = candidates.is_compact(on_object & ~fixed, shape)
    off_object = candidates.background_patches(on_object, fixed, tested.repeated, shape)
    return InterventionPatches(
        marks=tested.detector.scores(arrays["values"]) > 0,
        on_object=on_object,
        off_object=off_object & (is_located[:, None] | fixed),
        is_usable=is_located | fixed.any(axis=1),
    )


def describe_cue(
    store: FeatureStore,
    tested: CandidateCue,
    result: InterventionResult,
    context: InterventionContext,
    correction: tuple[int, float],
    alpha: float,
    seed: int,
) -> SpuriousCue:
    """Return a tested candidate as a cue.

    Parameters
    ----------
    store : features of the images
    tested, result, context : candidate, and the results and context of its interventions
    correction : number of judged candidates, and the weight of this one in alpha
    alpha, seed : as in `discover_spurious`
    """
    candidate, in_class, index = tested.candidate, tested.in_class, store.index
    n_judged, alpha_weight = correction
    removal, transplant = result.effects(tested.target, seed)
    p = corrected_p(candidate.p, n_judged, removal, transplant, alpha_weight)
    inside, outside = candidate.has_cue[in_class], candidate.has_cue[~in_class]
    removal_effects = result.removal[np.isfinite(result.removal)]
    value, interval = score(inside, outside, removal_effects, seed)
    cue_rows = tested.rows[candidate.has_cue & in_class]
    arrays = store.gather(cue_rows)
    patches = context.patches(cue_rows)
    marks = patches.marks
    fixed, covers = candidates.mean_overlap(marks), float(marks.mean())
    is_fixed = fixed > candidates.FIXED_OVERLAP
    density = arrays["keypoints"][marks].mean() if marks.any() else 0.0
    cue = SpuriousCue(
        target=tested.target, name=store.data.name(tested.target), score=value,
        interval=interval, confirmed=p < alpha, p=p, inside=float(inside.mean()),
        outside=float(outside.mean()), removal=removal, transplant=transplant,
        where=EVERYWHERE if covers > 0.5 else SAME_PLACE if is_fixed else AROUND,
        fixed=fixed, covers=covers,
        keypoints=float(density / max(arrays["keypoints"].mean(), 1e-6)),
        place=marks.mean(axis=0).reshape(index.grid.shape),
        examples=_examples(store, tested.detector, cue_rows, arrays["values"], patches, result),
        groups=(), detector=tested.detector.for_features(store.projection),
        model=store.extractor.model, preprocessing=store.extractor.preprocessing,
        keypoint_detector=store.extractor.detector, grid=index.grid,
        cue_images=images_of(store, tested.rows[candidate.has_cue], tested.target),
        off_object=part_off_object(patches),
    )  # fmt: skip
    if not cue.confirmed:
        return cue
    rows = {
        "class, cue": cue_rows[patches.is_usable],
        "class, no cue": tested.rows[~candidate.has_cue & in_class],
        "others": tested.rows[~candidate.has_cue & ~in_class],
    }
    prompter = AttentionPrompter(context.model, strength=STRENGTH, layers=LAYERS)
    groups = group_accuracies(
        context, store.index.is_correct, cue.matches,
        lambda scores: prompter.steer(scores, suppress=True), partial(paste_cue, context),
        cue.target, rows, seed,
    )  # fmt: skip
    return replace(cue, groups=groups)


def part_off_object(patches: InterventionPatches) -> float:
    """Return the fraction of the patches of a cue that are off the object, in usable images."""
    usable = patches.of(np.flatnonzero(patches.is_usable))
    of_cue = usable.off_object[usable.marks]
    return float(of_cue.mean()) if len(of_cue) else float("nan")


def images_of(store: FeatureStore, rows: np.ndarray, target: int) -> tuple[CueImage, ...]:
    """Return the images of rows, those of the class `target` first."""
    labels = store.index.labels[rows].tolist()
    images = [
        CueImage(store.name(row), store.data.name(label), label == target)
        for row, label in zip(rows.tolist(), labels, strict=True)
    ]
    return tuple(sorted(images, key=lambda image: not image.in_class))


def _examples(
    store: FeatureStore,
    detector: CueDetector,
    rows: np.ndarray,
    values: np.ndarray,
    patches: InterventionPatches,
    result: InterventionResult,
) -> tuple[Example, ...]:
    """Return the images that match the cue best, those that interventions can use first."""
    order = np.lexsort((-detector.image_probability(values), ~patches.is_usable))[:MAX_EXAMPLES]
    matches = detector(values[order])
    pictures = store.images(rows[order])
    grid = store.index.grid
    examples = []
    for position, row in enumerate(rows[order].tolist()):
        before, without = probabilities(result, row)
        example_matches = matches[position].reshape(grid.shape)
        off_object = patches.off_object[order[position]].reshape(grid.shape)
        examples.append(
            Example(
                store.name(row), pictures.pixels[position], example_matches, before, without, grid,
                off_object,
            )
        )  # fmt: skip
    return tuple(examples)


def probabilities(result: InterventionResult, row: int) -> tuple[float, float]:
    """Return the probability of the class in an image, before and without the cue, or NaN."""
    position = np.flatnonzero(result.rows == row)
    if not len(position):
        return float("nan"), float("nan")
    odds = [result.before[position[0]], result.without[position[0]]]
    before, without = torch.tensor(odds, device="cpu").sigmoid().tolist()
    return before, without
