"""Loading of images for an analysis, in batches and ahead of time; unreadable ones are skipped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..errors import ImageError, ShapeError
from ..images import Images, display_name, prepare
from ..keypoints import Keypoints, detect
from ..utils.input_identity import content_digest
from ..utils.processes import spare_cores


class Skipped(NamedTuple):
    """Name of an image that was skipped, and the reason in one line."""

    name: str
    reason: str


@dataclass(frozen=True)
class LoadedBatch:
    """Readable images of one batch with their keypoints and numbers, and the skipped ones.

    `n_sources` counts all sources, readable or not. `identities` has one entry per source, or is
    empty if the loader does not identify sources.
    """

    images: Images | None
    keypoints: list[Keypoints]
    skipped: list[Skipped]
    n_sources: int
    numbers: tuple[int, ...] = ()
    identities: tuple[str, ...] = ()

    def part(self, rows: slice) -> LoadedBatch:
        """Return a part of the readable images."""
        assert self.images is not None
        images = Images(
            self.images.inputs[rows], self.images.pixels[rows], self.images.names[rows],
            batched=True, prepared=self.images.prepared, preprocessing=self.images.preprocessing,
        )  # fmt: skip
        return LoadedBatch(images, self.keypoints[rows], [], len(images.names), self.numbers[rows])

    @classmethod
    def joined(cls, parts: Sequence[LoadedBatch]) -> LoadedBatch:
        """Join several batches into one."""
        batches = [part.images for part in parts if part.images is not None]
        names = [name for images in batches for name in images.names]
        return cls(
            concatenate_images(batches, names) if batches else None,
            [keypoints for part in parts for keypoints in part.keypoints],
            [skipped for part in parts for skipped in part.skipped],
            sum(part.n_sources for part in parts),
            tuple(number for part in parts for number in part.numbers),
            tuple(line for part in parts for line in part.identities),
        )


class ImageLoader:
    """Loader of images and keypoints for a model; all inputs must have one size.

    Parameters
    ----------
    preprocessing : a `Preprocessing`, or a function that returns it
    detector, needs : keypoint detector, and what the density needs ("keypoints", "descriptors")
    names : names of all images, by number; None takes the name of the source
    identifies : fill `LoadedBatch.identities`
    """

    identifies = False

    def __init__(
        self,
        preprocessing: Any,
        detector: Any,
        needs: Iterable[str],
        names: Sequence[str] | None = None,
    ) -> None:
        self.preprocessing, self.detector, self.names = preprocessing, detector, names
        self.descriptors = "descriptors" in needs
        self.sizes: set[tuple[int, ...]] = set()

    def name(self, number: int, source: Any) -> str:
        """Return the display name of an image."""
        return self.names[number] if self.names else display_name(source) or f"image {number}"

    def load(
        self, first: int, sources: list[Any], strict: bool = False, threads: int | None = None
    ) -> LoadedBatch:
        """Read images, numbered from `first`, and detect their keypoints.

        `strict` raises for an unreadable image instead of skipping it. `threads` is the number of
        threads that detect keypoints, None for one per processor.
        """
        identities = self.identities(first, sources) if self.identifies else ()
        names = [self.name(number, source) for number, source in enumerate(sources, first)]
        indices, readable, reasons = prepare_readable(sources, self.preprocessing, strict)
        skipped = [Skipped(names[i], reason) for i, reason in reasons.items()]
        if not readable:
            return LoadedBatch(None, [], skipped, len(sources), (), identities)
        for images in readable:
            if len(images.inputs) > 1:
                raise ShapeError(
                    f"images: expected one image per item, got a batch of {len(images.inputs)} — "
                    "give the batch itself, or a list of its images"
                )
        self.sizes |= {tuple(images.inputs.shape[1:]) for images in readable}
        if len(self.sizes) > 1:
            raise ShapeError(
                "images: expected tensors of one size, got "
                f"{', '.join(map(str, sorted(self.sizes)))} — "
                "resize them to the size of the model's input"
            )
        batch = concatenate_images(readable, [names[i] for i in indices])
        keypoints = detect(
            batch.pixels, self.detector, workers=threads, descriptors=self.descriptors
        )
        numbers = tuple(first + i for i in indices)
        return LoadedBatch(batch, keypoints, skipped, len(sources), numbers, identities)

    def identities(self, first: int, sources: Sequence[Any]) -> tuple[str, ...]:
        """Return the name and the SHA-256 of the content of each source."""
        pairs = enumerate(sources, first)
        return tuple(f"{self.name(i, source)} {content_digest(source)}" for i, source in pairs)


def prepare_readable(
    sources: Sequence[Any], preprocessing: Any, strict: bool = False
) -> tuple[list[int], list[Images], dict[int, str]]:
    """Prepare the images that can be read; the others are skipped.

    Parameters
    ----------
    sources, preprocessing : as for `semattn.images.prepare`
    strict : raise for an image that cannot be read

    Returns
    -------
    tuple of list, list, dict
        The indices of the readable sources, their images, and the reason for each other index.
    """
    indices: list[int] = []
    readable: list[Images] = []
    reasons: dict[int, str] = {}
    for index, source in enumerate(sources):
        try:
            readable.append(prepare(source, preprocessing))
            indices.append(index)
        except (ImageError, ShapeError, OSError) as error:
            if strict:
                raise
            reasons[index] = " ".join(str(error).split())
    return indices, readable, reasons


def concatenate_images(batches: Sequence[Images], names: Sequence[str]) -> Images:
    """Concatenate images of one size to one batch with the given names."""
    return Images(
        torch.cat([images.inputs for images in batches]),
        np.concatenate([images.pixels for images in batches]),
        tuple(names),
        batched=True,
        prepared=all(images.prepared for images in batches),
        notes=tuple(dict.fromkeys(note for images in batches for note in images.notes)),
        preprocessing=batches[0].preprocessing if batches else None,
    )


def load_ahead(
    load: Callable[[int, list[Any]], LoadedBatch], images: Iterable[Any], size: int, ahead: bool
) -> Iterator[LoadedBatch]:
    """Yield batches of `size` images; with `ahead`, load the next while one is processed."""
    sources_left, first = iter(images), 0
    pending: deque[Future[LoadedBatch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="semattn-reading") as executor:
        while sources := list(islice(sources_left, size)):
            if not ahead:
                yield load(first, sources)
            else:
                pending.append(executor.submit(load, first, sources))
                if len(pending) > 1:
                    yield pending.popleft().result()
            first += len(sources)
        while pending:
            yield pending.popleft().result()


def has_spare_cores(model: nn.Module) -> bool:
    """Return whether images can be loaded in another thread without slowing down the model."""
    return spare_cores(model) > 0


def as_iterable(images: Any) -> tuple[Iterable[Any] | None, int | None]:
    """Return an iterable of images and its length; None and 1 for a single image."""
    single = isinstance(images, (str, bytes, Path)) or not isinstance(images, Iterable)
    depth = getattr(images, "ndim", None)
    if single or depth in (2, 3) or hasattr(images, "convert"):
        return None, 1
    if depth == 4 and len(images) == 1:
        return None, 1
    return images, len(images) if isinstance(images, Sized) else None
