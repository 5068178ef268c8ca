"""Pictures on their way to an analysis: one by one, read ahead, those that are none left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..cores import spare_cores
from ..errors import ImageError, ShapeError
from ..identity import content_digest
from ..images import Images, called, prepare
from ..keypoints import Keypoints, detect
from .figures import Skipped


@dataclass(frozen=True)
class Loaded:
    """The readable images of one batch, with their keypoints and numbers, and those that are none.

    `given` is how many there were in all, `identities` identifies all of them where it was asked
    for.
    """

    images: Images | None
    keypoints: list[Keypoints]
    skipped: list[Skipped]
    given: int
    numbers: tuple[int, ...] = ()
    identities: tuple[str, ...] = ()

    def part(self, rows: slice) -> Loaded:
        """Some of the images that could be read."""
        assert self.images is not None
        images = Images(
            self.images.inputs[rows], self.images.pixels[rows], self.images.names[rows],
            batched=True, prepared=self.images.prepared,
        )  # fmt: skip
        return Loaded(images, self.keypoints[rows], [], len(images.names), self.numbers[rows])

    @classmethod
    def joined(cls, parts: Sequence[Loaded]) -> Loaded:
        """Several batches as one."""
        some = [one for one in parts if one.images is not None]
        every = [one.images for one in some if one.images is not None]
        return cls(
            _together(every, [name for one in every for name in one.names]) if every else None,
            [found for one in some for found in one.keypoints],
            [one for part in parts for one in part.skipped],
            sum(one.given for one in parts),
            tuple(number for one in some for number in one.numbers),
            tuple(line for part in parts for line in part.identities),
        )


class Reader:
    """Reads pictures as a model wants them, and finds their keypoints; all must be of one size.

    Parameters
    ----------
    wanted : a `Preprocessing`, or a function that finds it out
    detector, needs : which keypoints, and with what
    names : of all pictures, by number; their own for None
    identifies : fill `Loaded.identities`
    """

    identifies = False

    def __init__(
        self, wanted: Any, detector: Any, needs: Iterable[str], names: Sequence[str] | None = None
    ) -> None:
        self.wanted, self.detector, self.names = wanted, detector, names
        self.descriptors = "descriptors" in needs
        self.sizes: set[tuple[int, ...]] = set()

    def name(self, number: int, source: Any) -> str:
        """What a picture is called."""
        return self.names[number] if self.names else called(source) or f"image {number}"

    def load(
        self, first: int, sources: list[Any], strict: bool = False, threads: int | None = None
    ) -> Loaded:
        """Read pictures, the first of which is number `first`, and find their keypoints.

        `strict` raises for one that is none; `threads` look for keypoints, one a processor for
        None.
        """
        identities = self.identities(first, sources) if self.identifies else ()
        good: list[Images] = []
        names, numbers, skipped = [], [], []
        for number, source in enumerate(sources, first):
            name = self.name(number, source)
            try:
                good.append(prepare(source, self.wanted))
                names.append(name)
                numbers.append(number)
            except (ImageError, ShapeError, OSError) as error:
                if strict:
                    raise
                skipped.append(Skipped(name, " ".join(str(error).split())))
        if not good:
            return Loaded(None, [], skipped, len(sources), (), identities)
        for one in good:
            if len(one.inputs) > 1:
                raise ShapeError(
                    f"images: expected one after the other, got {len(one.inputs)} at once — "
                    "give a batch as it is, or a list of its images"
                )
        self.sizes |= {tuple(one.inputs.shape[1:]) for one in good}
        if len(self.sizes) > 1:
            raise ShapeError(
                "images: expected tensors of one size, got "
                f"{', '.join(map(str, sorted(self.sizes)))} — "
                "give them at the size of the model's input"
            )
        images = _together(good, names)
        found = detect(images.pixels, self.detector, workers=threads, descriptors=self.descriptors)
        return Loaded(images, found, skipped, len(sources), tuple(numbers), identities)

    def identities(self, first: int, sources: Sequence[Any]) -> tuple[str, ...]:
        """Return name and SHA-256 of the content of each picture."""
        pairs = enumerate(sources, first)
        return tuple(f"{self.name(number, one)} {content_digest(one)}" for number, one in pairs)


def _together(every: Sequence[Images], names: Sequence[str]) -> Images:
    """Images of one size as one batch, under these names."""
    return Images(
        torch.cat([one.inputs for one in every]),
        np.concatenate([one.pixels for one in every]),
        tuple(names),
        batched=True,
        prepared=all(one.prepared for one in every),
        notes=tuple(dict.fromkeys(note for one in every for note in one.notes)),
    )


def read_ahead(
    load: Callable[[int, list[Any]], Loaded], images: Iterable[Any], size: int, ahead: bool
) -> Iterator[Loaded]:
    """Batches of `size` images, each loaded, if `ahead`, while the one before is measured."""
    every, first = iter(images), 0
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="semattn-reading") as reader:
        while sources := list(islice(every, size)):
            if not ahead:
                yield load(first, sources)
            else:
                waiting.append(reader.submit(load, first, sources))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            first += len(sources)
        while waiting:
            yield waiting.popleft().result()


def has_spare_cores(model: nn.Module) -> bool:
    """Whether reading does not take from the model what it gives."""
    return spare_cores(model) > 0


def several(images: Any) -> tuple[Iterable[Any] | None, int | None]:
    """The images one by one, and how many there are, if it is not a single one."""
    single = isinstance(images, (str, bytes, Path)) or not isinstance(images, Iterable)
    depth = getattr(images, "ndim", None)
    if single or depth in (2, 3) or hasattr(images, "convert"):
        return None, 1
    if depth == 4 and len(images) == 1:
        return None, 1
    return images, len(images) if isinstance(images, Sized) else None
