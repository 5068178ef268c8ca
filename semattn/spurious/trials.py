"""The two trials of a candidate: what goes with it, and what comes with it in other classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.model_inputs import move_to_model
from ..attention.output_meaning import predict
from ..grid import PatchGrid
from ..prompting import AttentionPrompter
from .effects import answer, answer_without, pasted
from .evidence import effect

TRIED = 30  # images of a trial
ROUNDS = 4  # each with other partners
HOPELESS = 0.5  # p of a first round of transplants after which nothing more is tried
CHOICE = 12  # images that the one with most room is taken of
STRENGTH = 1.0
LAYERS = "last-half"
GROUPS = ("class, cue", "class, no cue", "others, cue put there", "others")


@dataclass(frozen=True, eq=False)
class Trial:
    """The images of a trial, and what came out, an image a number.

    Parameters
    ----------
    rows : (n,), images of the class that show the cue
    before, without : (n,), log-odds of the class with the cue's patches, and without
    removed, put : (n,), what goes from the log-odds, and what comes to others'; where transplants
        did nothing, removal was not tried: `without` and `removed` are NaN
    """

    rows: np.ndarray
    before: np.ndarray
    without: np.ndarray
    removed: np.ndarray
    put: np.ndarray


@dataclass(frozen=True)
class Group:
    """Accuracy on a group of `count` images, and when attention is led away from the cue."""

    name: str
    count: int
    accuracy: float
    prompted: float


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches (n, P) of images.

    Parameters
    ----------
    marks : those that show the cue
    thing : those that are on the object
    off : those that are neither on the object, nor beside it, nor of a cue that is known already
    """

    marks: np.ndarray
    thing: np.ndarray
    off: np.ndarray


@dataclass(frozen=True, eq=False)
class Known:
    """What a trial may use: rows are numbers of images.

    Parameters
    ----------
    model, grid : of the search
    inputs : from rows (n,) to images (n, C, H, W)
    patches : from rows to what is known of their patches
    batch : images in the model at once
    """

    model: nn.Module
    grid: PatchGrid
    inputs: Callable[[np.ndarray], Tensor]
    patches: Callable[[np.ndarray], Patches]
    batch: int


def run(known: Known, target: int, bears: np.ndarray, others: np.ndarray, seed: int) -> Trial:
    """Both trials of one candidate.

    It is removed in two ways, by hiding its patches from attention and by exchanging them; the one
    that is surer counts, with twice its p.

    Parameters
    ----------
    target : the class
    bears : rows of the class that show the candidate
    others : rows of other classes that do not
    """
    rng = np.random.default_rng((seed, target))
    rows = bears if len(bears) <= TRIED else np.sort(rng.choice(bears, TRIED, replace=False))
    images, own, theirs = known.inputs(rows), known.patches(rows), known.patches(others)
    shown = widened(own.marks, known.grid)
    gone = shown & own.off
    everywhere = bool(own.marks.mean() > 0.5)
    before = _answers(known, images, target)
    bare, hidden = theirs.off, theirs.thing
    put: list[np.ndarray] = []
    for _ in range(ROUNDS):
        into = _fitting(rng, gone, ~hidden)
        region = gone & ~hidden[into]
        plain = _fitting(rng, region, bare)
        region &= bare[plain]
        target_images, source = known.inputs(others[into]), known.inputs(others[plain])
        put.append(
            _pasted(known, target, target_images, images, region, everywhere)
            - _pasted(known, target, target_images, source, region, everywhere)
        )
        if effect(put[0]).p > HOPELESS:
            nothing = np.full(len(rows), np.nan)
            return Trial(rows, before, nothing, nothing, put[0])
    removed, left = _exchanged(known, target, images, (shown, gone), others, bare, everywhere, rng)
    without = before - _each(known, lambda part: answer_without(
        known.model, _moved(known, images[part]), _classes(target, images[part]),
        torch.from_numpy(gone[part]),
    ), len(rows))  # fmt: skip
    # Where it is most of an image, nothing would be left to attend to.
    if not everywhere and effect(without).p < effect(removed).p:
        removed, left = without, before - without
    return Trial(rows, before, left, removed, np.mean(put, axis=0))


def _exchanged(
    known: Known,
    target: int,
    images: Tensor,
    marks: tuple[np.ndarray, np.ndarray],
    others: np.ndarray,
    bare: np.ndarray,
    light: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """What goes from the log-odds with the cue, and what is left of them.

    It is replaced by what an image without it shows at the same place, against what another image
    with it shows there: what of the object lies beneath is gone from both. `marks` are the patches
    that show it, and those of them that are off the object.
    """
    shown, gone = marks
    swapped, left = [], []
    for _ in range(ROUNDS):
        alike = _fitting(rng, shown, gone, itself=False)
        region = shown & gone[alike]
        plain = _fitting(rng, region, bare)
        region &= bare[plain]
        replaced = _pasted(known, target, images, known.inputs(others[plain]), region, light)
        swapped.append(_pasted(known, target, images, images[alike], region, light) - replaced)
        left.append(replaced)
    return np.mean(swapped, axis=0), np.mean(left, axis=0)


def widened(marks: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Patches (n, P) and their neighbours: a cue ends within a patch."""
    from scipy.ndimage import maximum_filter

    made: np.ndarray = maximum_filter(
        marks.reshape(-1, *grid.shape), size=(1, 3, 3), mode="constant"
    ).reshape(marks.shape)
    return made


def _fitting(
    rng: np.random.Generator, wanted: np.ndarray, free: np.ndarray, itself: bool = True
) -> np.ndarray:
    """For each of the patches `wanted` (n, P), which of `free` (m, P) has most of them.

    Of `CHOICE` that are drawn; not its own number unless `itself`.
    """
    found = []
    for number, one in enumerate(wanted):
        drawn = rng.permutation(len(free))
        drawn = drawn[: CHOICE + 1] if itself else drawn[drawn != number][: CHOICE + 1]
        found.append(drawn[np.argmax((free[drawn] & one).sum(axis=1))])
    return np.array(found)


def groups(
    known: Known,
    cue: Callable[[Tensor], Tensor],
    target: int,
    rows: dict[str, np.ndarray],
    labels: np.ndarray,
    seed: int,
) -> tuple[Group, ...]:
    """Accuracy of the model, and led away from a cue, on each of `GROUPS`.

    `rows` has the images of the class with it and without, and others; `cue` gives matches (B, P).
    """
    rng = np.random.default_rng((seed, target, 1))
    drawn = {name: one if len(one) <= TRIED else rng.choice(one, TRIED, replace=False)
             for name, one in rows.items()}  # fmt: skip
    if not (len(drawn["class, cue"]) and len(drawn["others"])):
        return ()
    source = drawn["class, cue"][np.arange(len(drawn["others"])) % len(drawn["class, cue"])]
    given = known.inputs(source)
    own = known.patches(source)
    gone = widened(own.marks, known.grid) & own.off
    region = torch.from_numpy(gone & ~known.patches(drawn["others"]).thing)
    others = known.inputs(drawn["others"])
    light = bool(own.marks.mean() > 0.5)
    pictures = {
        **{name: known.inputs(drawn[name]) for name in GROUPS[:2] if len(drawn[name])},
        "others, cue put there": pasted(others, given, region, known.grid, light),
        "others": others,
    }
    prompter = AttentionPrompter(known.model, strength=STRENGTH, layers=LAYERS)
    found = []
    for name, images in pictures.items():
        wanted = labels[drawn["others" if name.startswith("others") else name]]
        right, prompted = [], []
        for at in range(0, len(images), known.batch):
            part = _moved(known, images[at : at + known.batch])
            with torch.no_grad():
                right.append(_predicted(known.model, part))
                with prompter.steer(cue(part).to(part.device), away=True):
                    prompted.append(_predicted(known.model, part))
        hits = [float((torch.cat(one).numpy() == wanted).mean()) for one in (right, prompted)]
        found.append(Group(name, len(images), *hits))
    return tuple(found)


def _moved(known: Known, images: Tensor) -> Tensor:
    return move_to_model(known.model, images, prepared=True)


def _predicted(model: nn.Module, inputs: Tensor) -> Tensor:
    """The predicted class of each image, (B,)."""
    logits, meaning = predict(model, inputs)
    return meaning.scores(logits).argmax(dim=1).cpu()


def _classes(target: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), target, device="cpu")


def _answers(known: Known, images: Tensor, target: int) -> np.ndarray:
    return _each(known, lambda part: answer(
        known.model, _moved(known, images[part]), _classes(target, images[part])
    ), len(images))  # fmt: skip


def _pasted(
    known: Known, target: int, into: Tensor, source: Tensor, region: np.ndarray, light: bool
) -> np.ndarray:
    """Log-odds of images with a region of others."""
    here = torch.from_numpy(region)
    return _answers(known, pasted(into, source, here, known.grid, light), target)


def _each(known: Known, of: Callable[[slice], Tensor], count: int) -> np.ndarray:
    parts = [of(slice(at, at + known.batch)) for at in range(0, count, known.batch)]
    return torch.cat(parts).float().cpu().numpy()
