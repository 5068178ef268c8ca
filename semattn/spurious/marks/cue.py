"""Recurring mark that a model uses for a class: a cue with an exact place in every image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...images import Picture, Preprocessing, pixels_of
from ...keypoints.local_features import fine_sift
from ...prompting import AttentionPrompter
from .. import candidates
from ..cue import (
    EVERYWHERE,
    MAX_EXAMPLES,
    SAME_PLACE,
    Example,
    SpuriousCue,
    images_of,
    probabilities,
)
from ..feature_store import FeatureStore
from ..interventions import InterventionContext, InterventionResult, group_accuracies, hide
from ..significance import corrected_p, score
from .candidates import MarkCandidate
from .mark import Mark, describe_mark
from .masks import erase_pixels, patches_of_masks, region_masks, replace_changed
from .template import Region
from .transplants import mark_transplant

ANYWHERE = "a mark at any place"


@dataclass(frozen=True, eq=False, repr=False)
class MarkCue(SpuriousCue):
    """Cue that is a recurring mark, found by matching keypoints; `mark` holds its template.

    ``prompter.steer(cue, suppress=True)`` hides the patches of the mark in all layers.

    Parameters
    ----------
    mark : the mark, its picture and its frequency; the other fields are those of `SpuriousCue`
    """

    mark: Mark | None = None

    def locate(self, inputs: Tensor | Picture) -> list[list[Region]]:
        """Return the places of the mark in each image.

        Parameters
        ----------
        inputs : images (B, C, H, W) of the model, or one picture; outlines are in its pixels
        """
        assert self.mark is not None
        if not isinstance(inputs, Tensor):
            return [self.mark.locate(inputs)]
        return self._locate_pixels(pixels_of(inputs.detach(), self._preprocessing()))

    def matches(self, inputs: Tensor, model: nn.Module | None = None) -> Tensor:
        """Return which patches of images (B, C, H, W) show the mark: (B, P), 0 or 1."""
        model = self.model if model is None else model
        grid = self.grid if model is None else AttentionPrompter(model).grid(inputs)
        if grid is None or grid.image_size != tuple(inputs.shape[-2:]):
            raise ValueError(
                "model: expected the model of the search for images of another size, got none — "
                "call cue.matches(inputs, model) or load_discovery(file, model)"
            )
        masks = region_masks(self.locate(inputs), grid.image_size)
        return torch.from_numpy(patches_of_masks(masks, grid)).float().to(inputs.device)

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the patches (B, P) of images that `AttentionPrompter.steer` hides."""
        return self.matches(inputs)

    def erase(self, inputs: Tensor | Picture) -> Any:
        """Return images in which the mark is inpainted at each of its places, see `Mark.erase`.

        Parameters
        ----------
        inputs : images (B, C, H, W) of the model, of which the pixels of the mark are replaced; or
            one picture, whose pixels (H, W, 3) uint8 are returned
        """
        assert self.mark is not None
        if not isinstance(inputs, Tensor):
            return self.mark.erase(inputs)
        preprocessing = self._preprocessing()
        pixels = pixels_of(inputs.detach(), preprocessing)
        size = pixels.shape[1:3]
        masks = [self.mark.pixels_of(regions, size) for regions in self._locate_pixels(pixels)]
        erased = erase_pixels(pixels, np.stack(masks))
        return replace_changed(inputs, pixels, erased, preprocessing)

    def summary(self) -> dict[str, Any]:
        """Return the values that a table shows, ready for JSON."""
        assert self.mark is not None
        return super().summary() | {"mark": self.mark.summary()}

    def _locate_pixels(self, pixels: np.ndarray) -> list[list[Region]]:
        assert self.mark is not None
        return [self.mark.template.locate(fine_sift(image)) for image in pixels]

    def _preprocessing(self) -> Preprocessing:
        if self.preprocessing is not None:
            return self.preprocessing
        if self.model is None:
            raise ValueError(
                "model: expected the model of the search, got none — call "
                "load_discovery(file, model)"
            )
        return Preprocessing.of(self.model)


def describe_mark_cue(
    store: FeatureStore,
    candidate: MarkCandidate,
    result: InterventionResult,
    context: InterventionContext,
    correction: tuple[int, float],
    alpha: float,
    seed: int,
) -> MarkCue:
    """Return a tested mark as a cue; parameters are those of `describe_cue`."""
    n_judged, alpha_weight = correction
    removal, transplant = result.effects(candidate.target, seed)
    p = corrected_p(candidate.p, n_judged, removal, transplant, alpha_weight, removal_ways=1)
    inside = candidate.shown[candidate.in_class]
    outside = candidate.shown[~candidate.in_class]
    value, interval = score(inside, outside, result.removal[np.isfinite(result.removal)], seed)
    cue_rows = candidate.cue_rows
    patches = candidate.patches(store, cue_rows)
    fixed, covers = candidates.mean_overlap(patches), float(patches.mean())
    density = store.gather(cue_rows)["keypoints"]
    grid = store.index.grid
    name = store.data.name(candidate.target)
    mark = describe_mark(
        candidate.mark, candidate.shown, candidate.labels, store.data.name, n_judged, alpha,
        lambda row: (store.name(row), store.images(np.array([row])).pixels[0]),
    )  # fmt: skip
    is_fixed = fixed > candidates.FIXED_OVERLAP
    cue = MarkCue(
        target=candidate.target, name=name, score=value, interval=interval, confirmed=p < alpha,
        p=p, inside=float(inside.mean()), outside=float(outside.mean()), removal=removal,
        transplant=transplant,
        where=EVERYWHERE if covers > 0.5 else SAME_PLACE if is_fixed else ANYWHERE,
        fixed=fixed, covers=covers,
        keypoints=float(density[patches].mean() / max(density.mean(), 1e-6)),
        place=patches.mean(axis=0).reshape(grid.shape),
        examples=_examples(store, candidate, result), groups=(), detector=None,
        model=store.extractor.model, preprocessing=store.extractor.preprocessing,
        keypoint_detector=store.extractor.detector, grid=grid, mark=mark,
        cue_images=images_of(store, candidate.rows[candidate.shown], candidate.target),
    )  # fmt: skip
    if not cue.confirmed:
        return cue
    rows = {
        "class, cue": cue_rows,
        "class, no cue": candidate.rows[candidate.in_class & ~candidate.shown],
        "others": candidate.rows[~candidate.in_class & ~candidate.shown],
    }
    transplant_mark = mark_transplant(store, candidate, mark.matte)
    return replace(cue, groups=group_accuracies(
        context, store.index.is_correct, cue.hidden, lambda patches: hide(context.model, patches),
        lambda sources, others: transplant_mark(sources, others)[0], cue.target, rows, seed,
    ))  # fmt: skip


def _examples(
    store: FeatureStore, candidate: MarkCandidate, result: InterventionResult
) -> tuple[Example, ...]:
    """Return the images of the class with the most matches of the mark."""
    regions = candidate.mark.regions
    rows = sorted(candidate.cue_rows.tolist(), key=lambda row: (-regions[row][0].matches, row))
    rows = rows[:MAX_EXAMPLES]
    grid = store.index.grid
    patches = candidate.patches(store, np.array(rows)).astype(np.float32)
    pixels = store.images(np.array(rows)).pixels
    return tuple(
        Example(store.name(row), pixels[i], patches[i].reshape(grid.shape),
                *probabilities(result, row), grid)
        for i, row in enumerate(rows)
    )  # fmt: skip
