"""Two interventions on a candidate: removal, and transplant into images of other classes.

Effects are changes of the log-odds of a class, in nats, and of the scores of all classes. A cue is
removed by suppressing attention to it, or by replacing its pixels with those of another image. Each
replacement and each transplant is compared with a control, which pastes the same region of a
control image: pasting creates borders, which change the output too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.model_call import move_to_model
from ..attention.output_meaning import predict
from ..grid import PatchGrid
from ..prompting import AttentionPrompter
from ..prompting.bias import HIDING_CLIP
from ..targets import OutputMeaning
from .significance import Effect, class_effect, effect, mean_of_valid

MAX_IMAGES = 30  # images of an intervention, at most
ROUNDS = 4  # repetitions with other partner images
FUTILITY_P = 0.5  # p-value of the first transplants above which the rest is skipped
# Least log-probability that counts: changes among smaller ones are as large as the effect of a cue,
# and do not change what the model answers. On development seeds 0 to 2 (moving marks, two sets,
# true regions, linear heads) specificity and transplant pass for 83 % of 24 marks at rate .5 and
# 54 % at .2, without a least value for 75 and 46 %; of the classes without a mark, 8 % pass in both
# cases.
MIN_LOG_SCORE = math.log(1e-4)
N_PARTNERS = 12  # random images of which the best fitting is taken
STRENGTH = 1.0
LAYERS = "last-half"
GROUPS = ("class, cue", "class, no cue", "others, cue transplanted", "others")


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log p / (1 - p) of one class per image: logits (B, K) and classes (B,) to (B,).

    Examples
    --------
    >>> log_odds(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).tolist()
    [0.0]
    """
    return OutputMeaning().log_odds(logits, classes)


def class_log_odds(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """Return the log-odds (B,) of one class per image."""
    with torch.no_grad():
        logits, meaning = predict(model, inputs)
        return meaning.log_odds(logits, classes)


def hide(model: nn.Module, hidden: Tensor) -> AbstractContextManager[None]:
    """Return a context in which the patches `hidden` (B, P) are suppressed in all layers."""
    prompter = AttentionPrompter(model, strength=1.0, layers="all", clip=HIDING_CLIP)
    return prompter.steer(hidden.to(torch.float32), suppress=True)


def paste_patches(
    into: Tensor, source: Tensor, patches: Tensor, grid: PatchGrid, match_colours: bool = False
) -> Tensor:
    """Return images (B, C, H, W) with the pixels of `patches` (B, P) copied from `source`.

    With `match_colours`, the colour balance of the other pixels is matched to that of `source`:
    their channels are shifted by the mean difference in the region, without its common brightness.
    """
    region = grid.upsample(patches.to(into.dtype), mode="nearest")[:, None] > 0
    base = into + _colour_shift(into, source, region) if match_colours else into
    return torch.where(region, source, base)


def _colour_shift(into: Tensor, source: Tensor, region: Tensor) -> Tensor:
    """Return the colour shift (B, C, 1, 1) from `into` to `source` in a region."""
    count = region.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    difference = ((source - into).float() * region).sum(dim=(2, 3), keepdim=True) / count
    return (difference - difference.mean(dim=1, keepdim=True)).to(into.dtype)


@dataclass(frozen=True, eq=False)
class InterventionResult:
    """Images and results of the interventions on one candidate.

    Parameters
    ----------
    rows : (n,), images of the class that show the cue
    before, without : (n,), log-odds of the class with the cue and without it
    removal, transplant : (n,), effects on the log-odds of the class; if transplants have no effect,
        removal is not tried, and `without` and `removal` are NaN
    transplant_by_class : (n, K), the effect of the transplant on the score of every class:
        log-probabilities, or log-odds of independent classes, of `MIN_LOG_SCORE` or more; NaN for
        the receiver's own class
    """

    rows: np.ndarray
    before: np.ndarray
    without: np.ndarray
    removal: np.ndarray
    transplant: np.ndarray
    transplant_by_class: np.ndarray

    def effects(self, target: int, seed: int) -> tuple[Effect, Effect]:
        """Return the mean effects of removal and transplant on the class."""
        transplant = class_effect(self.transplant, self.transplant_by_class, target, seed)
        return effect(self.removal, seed), transplant


@dataclass(frozen=True)
class Group:
    """Accuracy on a group of `count` images, unchanged and with attention to the cue suppressed."""

    name: str
    count: int
    accuracy: float
    prompted: float


@dataclass(frozen=True, eq=False)
class InterventionPatches:
    """Patches (n, P) of images, and the images that interventions use.

    Parameters
    ----------
    marks : patches that show the cue
    on_object : patches on the object
    off_object : patches that are not on the object, not next to it, and not of a confirmed cue
    is_usable : (n,), images whose object is located, or whose class has a mark at a fixed place: in
        others, parts of the object would be taken for its surroundings
    """

    marks: np.ndarray
    on_object: np.ndarray
    off_object: np.ndarray
    is_usable: np.ndarray

    def of(self, positions: np.ndarray) -> InterventionPatches:
        """Return the patches of some of the images."""
        return InterventionPatches(*(values[positions] for values in vars(self).values()))


@dataclass(frozen=True, eq=False)
class InterventionContext:
    """Model and access to images for interventions; rows are numbers of images.

    Parameters
    ----------
    model, grid : of the search
    inputs : function from rows (n,) to images (n, C, H, W)
    patches : function from rows to their patches
    batch_size : images per forward pass
    labels : classes (N,) of all images of the search
    """

    model: nn.Module
    grid: PatchGrid
    inputs: Callable[[np.ndarray], Tensor]
    patches: Callable[[np.ndarray], InterventionPatches]
    batch_size: int
    labels: np.ndarray


def run_interventions(
    context: InterventionContext, target: int, cue_rows: np.ndarray, others: np.ndarray, seed: int
) -> InterventionResult:
    """Return the results of both interventions on one candidate, in images that are usable.

    The cue is removed in two ways, by suppressing attention to its patches and by exchanging them.
    The way with the lower p-value counts, with twice its p-value.

    Parameters
    ----------
    target : the class
    cue_rows : rows of the class that show the candidate
    others : rows of other classes that do not show it
    """
    rng = np.random.default_rng((seed, target))
    patches, other_patches = context.patches(cue_rows), context.patches(others)
    of_cue, of_others = (np.flatnonzero(part.is_usable) for part in (patches, other_patches))
    if not (len(of_cue) and len(of_others)):
        return no_result(target)
    of_cue = sample_rows(of_cue, rng)
    rows, patches = cue_rows[of_cue], patches.of(of_cue)
    others, other_patches = others[of_others], other_patches.of(of_others)
    images = context.inputs(rows)
    widened_marks = widen(patches.marks, context.grid)
    removable = widened_marks & patches.off_object
    is_everywhere = bool(patches.marks.mean() > 0.5)
    before = class_answers(context, images, target)
    free, occupied = other_patches.off_object, other_patches.on_object
    transplants: list[np.ndarray] = []
    for _ in range(ROUNDS):
        receivers = _best_covering(rng, removable, ~occupied)
        region = removable & ~occupied[receivers]
        controls = _best_covering(rng, region, free)
        region &= free[controls]
        receiver_images = context.inputs(others[receivers])
        control_images = context.inputs(others[controls])
        changes = _answers_after_paste(
            context, target, receiver_images, images, region, is_everywhere
        ) - _answers_after_paste(
            context, target, receiver_images, control_images, region, is_everywhere
        )
        changes[np.arange(len(rows)), 1 + context.labels[others[receivers]]] = np.nan
        transplants.append(changes)
        if effect(transplants[0][:, 0]).p > FUTILITY_P:
            unknown = np.full_like(before, np.nan)
            return to_result(rows, before, unknown, unknown, transplants[0])
    removal, after = _exchange(
        context, target, images, (widened_marks, removable), others, free, is_everywhere, rng
    )
    without = before - class_answers(context, images, target, removable)
    # A cue that covers most of the image cannot be hidden: no patches would be left.
    if not is_everywhere and effect(without[:, 0]).p < effect(removal[:, 0]).p:
        removal, after = without, before - without
    return to_result(rows, before, after, removal, mean_of_valid(np.array(transplants)))


def sample_rows(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return at most `MAX_IMAGES` of the rows, drawn at random."""
    if len(rows) <= MAX_IMAGES:
        return rows
    return np.sort(rng.choice(rows, MAX_IMAGES, replace=False))


def to_result(
    rows: np.ndarray,
    before: np.ndarray,
    without: np.ndarray,
    removal: np.ndarray,
    transplant: np.ndarray,
) -> InterventionResult:
    """Return the result of answers and effects (n, 1 + K), see `class_answers`."""
    return InterventionResult(
        rows, before[:, 0], without[:, 0], removal[:, 0], transplant[:, 0], transplant[:, 1:]
    )


def no_result(target: int) -> InterventionResult:
    """Return the result of interventions on no image, whose p-values are 1."""
    rows, none = np.empty(0, int), np.empty(0)
    return InterventionResult(rows, none, none, none, none, np.empty((0, target + 1)))


def _exchange(
    context: InterventionContext,
    target: int,
    images: Tensor,
    marks: tuple[np.ndarray, np.ndarray],
    others: np.ndarray,
    free: np.ndarray,
    match_colours: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the effects of exchanging the cue, and the answers after it, each (n, 1 + K).

    The cue is replaced by the same region of an image without it. The control is the same region of
    another image with it, so that both replace what the cue covers of the object. `marks` are the
    patches that show the cue, and those of them that are off the object.
    """
    widened_marks, removable = marks
    effects, after = [], []
    for _ in range(ROUNDS):
        partners = _best_covering(rng, widened_marks, removable, itself=False)
        region = widened_marks & removable[partners]
        controls = _best_covering(rng, region, free)
        region &= free[controls]
        replaced = _answers_after_paste(
            context, target, images, context.inputs(others[controls]), region, match_colours
        )
        effects.append(
            _answers_after_paste(context, target, images, images[partners], region, match_colours)
            - replaced
        )
        after.append(replaced)
    return np.mean(effects, axis=0), np.mean(after, axis=0)


def widen(marks: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Return patches (n, P) and their neighbours, because a cue may end within a patch."""
    from scipy.ndimage import maximum_filter

    widened_marks: np.ndarray = maximum_filter(
        marks.reshape(-1, *grid.shape), size=(1, 3, 3), mode="constant"
    ).reshape(marks.shape)
    return widened_marks


def _best_covering(
    rng: np.random.Generator, regions: np.ndarray, free: np.ndarray, itself: bool = True
) -> np.ndarray:
    """Return for each of the `regions` (n, P) the row of `free` (m, P) that covers most of it.

    The row is chosen from `N_PARTNERS` random rows; a region's own number is excluded unless
    `itself`.
    """
    best = []
    for number, region in enumerate(regions):
        draws = rng.permutation(len(free))
        draws = draws[: N_PARTNERS + 1] if itself else draws[draws != number][: N_PARTNERS + 1]
        best.append(draws[np.argmax((free[draws] & region).sum(axis=1))])
    return np.array(best)


def group_accuracies(
    context: InterventionContext,
    is_correct: np.ndarray,
    patches_of: Callable[[Tensor], Tensor],
    suppressed: Callable[[Tensor], AbstractContextManager[None]],
    transplant: Callable[[np.ndarray, np.ndarray], Tensor],
    target: int,
    rows: dict[str, np.ndarray],
    seed: int,
) -> tuple[Group, ...]:
    """Return the accuracy on each of `GROUPS`, unchanged and with attention to the cue suppressed.

    Images that do not show the cue are not predicted again: suppression does not change them.

    Parameters
    ----------
    is_correct : (N,), whether the model is right about each image of the search
    patches_of : function from images (B, C, H, W) to the patches (B, P) that show the cue
    suppressed : function from such patches to the context in which they are suppressed
    transplant : function from rows that show the cue, and rows that get it, to images with it
    target : the class
    rows : images of the class with the cue and without it, and others
    """
    rng = np.random.default_rng((seed, target, 1))
    sampled = {
        name: group if len(group) <= MAX_IMAGES else rng.choice(group, MAX_IMAGES, replace=False)
        for name, group in rows.items()
    }
    others = sampled["others"]
    if not (len(sampled["class, cue"]) and len(others)):
        return ()
    source = sampled["class, cue"][np.arange(len(others)) % len(sampled["class, cue"])]
    transplanted = transplant(source, others)
    pictures = {
        **{name: (sampled[name], context.inputs(sampled[name]))
           for name in GROUPS[:2] if len(sampled[name])},
        "others, cue transplanted": (others, transplanted),
        "others": (others, context.inputs(others)),
    }  # fmt: skip

    groups = []
    for name, (numbers, images) in pictures.items():
        labels = context.labels[numbers]
        before = (
            _are_right(context, images, labels) if images is transplanted else is_correct[numbers]
        )
        after = _are_right_without(context, images, labels, before, patches_of, suppressed)
        groups.append(Group(name, len(images), float(before.mean()), float(after.mean())))
    return tuple(groups)


def paste_cue(context: InterventionContext, sources: np.ndarray, receivers: np.ndarray) -> Tensor:
    """Return the images (n, C, H, W) of receivers with the patches of the cue of sources pasted.

    Both are rows (n,); patches on the object of either are not pasted.
    """
    patches = context.patches(sources)
    removable = widen(patches.marks, context.grid) & patches.off_object
    region = torch.from_numpy(removable & ~context.patches(receivers).on_object)
    match_colours = bool(patches.marks.mean() > 0.5)
    images = context.inputs(sources)
    return paste_patches(context.inputs(receivers), images, region, context.grid, match_colours)


def _are_right(context: InterventionContext, images: Tensor, labels: np.ndarray) -> np.ndarray:
    """Return for which images (n, C, H, W) the model predicts the label."""
    predicted = _in_batches(
        context,
        lambda batch: _predict(context.model, _to_model(context, images[batch])),
        len(images),
    )
    is_right: np.ndarray = predicted == labels
    return is_right


def _are_right_without(
    context: InterventionContext,
    images: Tensor,
    labels: np.ndarray,
    before: np.ndarray,
    patches_of: Callable[[Tensor], Tensor],
    suppressed: Callable[[Tensor], AbstractContextManager[None]],
) -> np.ndarray:
    """Return `_are_right` with the cue suppressed; `before` where no patch shows it."""
    after = before.copy()
    for start in range(0, len(images), context.batch_size):
        inputs = _to_model(context, images[start : start + context.batch_size])
        with torch.no_grad():
            patches = patches_of(inputs)
        shown = patches.any(dim=1)
        if not shown.any():
            continue
        with suppressed(patches[shown]):
            predicted = _predict(context.model, inputs[shown]).numpy()
        rows = start + np.flatnonzero(shown.cpu().numpy())
        after[rows] = predicted == labels[rows]
    return after


def _to_model(context: InterventionContext, images: Tensor) -> Tensor:
    """Return images on the device and in the precision of the model."""
    return move_to_model(context.model, images, prepared=True)


def _predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the predicted class of each image, (B,)."""
    with torch.no_grad():
        logits, meaning = predict(model, inputs)
    return meaning.scores(logits).argmax(dim=1).cpu()


def class_answers(
    context: InterventionContext, images: Tensor, target: int, hidden: np.ndarray | None = None
) -> np.ndarray:
    """Return the log-odds of the class, then the scores of all classes: (n, 1 + K), in nats.

    Scores are `MIN_LOG_SCORE` or more. Patches `hidden` (n, P) are suppressed in all layers.
    """

    def answers(batch: slice) -> Tensor:
        inputs = _to_model(context, images[batch])
        hiding = (
            nullcontext()
            if hidden is None
            else hide(context.model, torch.from_numpy(hidden[batch]))
        )
        with torch.no_grad(), hiding:
            logits, meaning = predict(context.model, inputs)
        classes = torch.full((len(inputs),), target, device="cpu")
        scores = meaning.log_scores(logits).clamp(min=MIN_LOG_SCORE)
        return torch.cat([meaning.log_odds(logits, classes)[:, None], scores], dim=1)

    return _in_batches(context, answers, len(images))


def _answers_after_paste(
    context: InterventionContext,
    target: int,
    into: Tensor,
    source: Tensor,
    region: np.ndarray,
    match_colours: bool,
) -> np.ndarray:
    """Return the answers after a region of other images was pasted in."""
    mask = torch.from_numpy(region)
    return class_answers(
        context, paste_patches(into, source, mask, context.grid, match_colours), target
    )


def _in_batches(
    context: InterventionContext, function: Callable[[slice], Tensor], count: int
) -> np.ndarray:
    results = [
        function(slice(start, start + context.batch_size))
        for start in range(0, count, context.batch_size)
    ]
    return torch.cat(results).float().cpu().numpy()
