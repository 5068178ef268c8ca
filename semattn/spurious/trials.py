"""The two trials of a candidate: what goes with it, and what comes with it in other classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.sites import as_taken
from ..attention.target import output_tensor
from ..grid import PatchGrid
from ..prompting import AttentionPrompter
from .effects import answer, answer_without, pasted
from .evidence import effect

TRIED = 30  # images of a trial
ROUNDS = 4  # each with other partners
HOPELESS = 0.1  # p of a first round of transplants after which nothing more is tried
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
class Known:
    """What a trial may use: rows are numbers of images.

    Parameters
    ----------
    model, grid : of the search
    inputs : from rows (n,) to images (n, C, H, W)
    marks : from rows to patches that show the cue (n, P)
    off : from rows to patches that are not on the object (n, P)
    batch : images in the model at once
    """

    model: nn.Module
    grid: PatchGrid
    inputs: Callable[[np.ndarray], Tensor]
    marks: Callable[[np.ndarray], np.ndarray]
    off: Callable[[np.ndarray], np.ndarray]
    batch: int


def run(known: Known, target: int, bears: np.ndarray, others: np.ndarray, seed: int) -> Trial:
    """Both trials of one candidate.

    Parameters
    ----------
    target : the class
    bears : rows of the class that show the candidate
    others : rows of other classes that do not
    """
    rng = np.random.default_rng((seed, target))
    rows = bears if len(bears) <= TRIED else np.sort(rng.choice(bears, TRIED, replace=False))
    images, marks = known.inputs(rows), known.marks(rows)
    gone = marks & known.off(rows)
    everywhere = bool(marks.mean() > 0.5)
    before = _answers(known, images, target)
    partners = [_drawn(rng, others, len(rows)) for _ in range(2 * ROUNDS)]
    put: list[np.ndarray] = []
    for number in range(ROUNDS):
        into, plain = partners[2 * number], partners[2 * number + 1]
        source, others_images = known.inputs(plain), known.inputs(into)
        region = gone & known.off(into) & known.off(plain)
        put.append(
            _pasted(known, target, others_images, images, region, everywhere)
            - _pasted(known, target, others_images, source, region, everywhere)
        )
        if effect(put[0]).p > HOPELESS:
            nothing = np.full(len(rows), np.nan)
            return Trial(rows, before, nothing, nothing, put[0])
    if everywhere:
        removed, left = _exchanged(known, target, images, gone, partners[1::2])
    else:
        left = _each(known, lambda part: answer_without(
            known.model, as_taken(known.model, images[part]), _classes(target, images[part]),
            torch.from_numpy(gone[part]),
        ), len(rows))  # fmt: skip
        removed = before - left
    return Trial(rows, before, left, removed, np.mean(put, axis=0))


def _exchanged(
    known: Known,
    target: int,
    images: Tensor,
    gone: np.ndarray,
    partners: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """What goes with a cue that is most of an image, and what is left of the log-odds.

    Nothing would be left to attend to without it: it is replaced by what an image without it shows
    at the same place, against what another image with it shows there.
    """
    with_it = np.roll(np.arange(len(images)), 1)
    swapped, left = [], []
    for plain in partners:
        region = gone & known.off(plain) & gone[with_it]
        replaced = _pasted(known, target, images, known.inputs(plain), region, True)
        swapped.append(_pasted(known, target, images, images[with_it], region, True) - replaced)
        left.append(replaced)
    return np.mean(swapped, axis=0), np.mean(left, axis=0)


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
    marks = known.marks(source)
    region = torch.from_numpy(marks & known.off(source) & known.off(drawn["others"]))
    others = known.inputs(drawn["others"])
    light = bool(marks.mean() > 0.5)
    pictures = {
        "class, cue": known.inputs(drawn["class, cue"]),
        "class, no cue": known.inputs(drawn["class, no cue"]),
        "others, cue put there": pasted(others, given, region, known.grid, light),
        "others": others,
    }
    prompter = AttentionPrompter(known.model, strength=STRENGTH, layers=LAYERS)
    found = []
    for name, images in pictures.items():
        wanted = labels[drawn["others" if name.startswith("others") else name]]
        right, prompted = [], []
        for at in range(0, len(images), known.batch):
            part = as_taken(known.model, images[at : at + known.batch])
            with torch.no_grad():
                right.append(output_tensor(known.model(part)).argmax(-1).cpu())
                with prompter.steer(cue(part).to(part.device), away=True):
                    prompted.append(output_tensor(known.model(part)).argmax(-1).cpu())
        if right:
            hits = [float((torch.cat(one).numpy() == wanted).mean()) for one in (right, prompted)]
            found.append(Group(name, len(images), *hits))
    return tuple(found)


def _classes(target: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), target)


def _answers(known: Known, images: Tensor, target: int) -> np.ndarray:
    return _each(known, lambda part: answer(
        known.model, as_taken(known.model, images[part]), _classes(target, images[part])
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


def _drawn(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, none twice while there are others."""
    turns = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(turns)])[:count]
