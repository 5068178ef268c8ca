"""Resumable store of arrays that are computed from batches of the images of a data set.

Each batch is computed once and kept on disk. A stored batch is used if its images have not changed,
and neither has the basis of its values, such as a projection.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..data.labelled import LabelledImages, Part
from ..data.loading import Skipped
from ..errors import SemattnError, relative_reason
from ..keypoints import Keypoints
from ..keypoints.local_features import keypoints_from_arrays
from ..utils.input_identity import (
    all_unchanged,
    combined_digest,
    identities_from_array,
    identities_to_array,
    identity_of,
)
from ..utils.processes import Progress
from ..utils.ray_session import TaskMap
from ..utils.remote_path import fetch
from ..utils.run_store import RecomputedParts, RunStore

BASIS = "basis"  # digest of what values depend on, besides the images of their batch
STATE = ("identities", BASIS)
BATCH = ("sources", "labels", "skipped", "reasons", *STATE)  # small arrays of each batch


@dataclass(frozen=True, eq=False)
class BatchIndex:
    """Index of the images that could be read; a row is the number of such an image.

    Parameters
    ----------
    sources : (n,), number of each image in the data set
    labels : (n,), class of each row
    places : batch of each row, and its position in the batch
    skipped : images that could not be read
    digest : digest of all images, on which all derived results depend
    """

    sources: np.ndarray
    labels: np.ndarray
    places: list[tuple[int, int]]
    skipped: list[Skipped]
    digest: str


class BatchStore(ABC):
    """Arrays of the batches of a data set, computed by the process that needs them first.

    Parameters
    ----------
    data, run_store : data set, and disk store
    names : names of the images, relative to the data set
    batch_size : images per batch
    progress : called with the stage, the number of images done, and the total
    """

    prefix: ClassVar[str]  # name prefix of a stored batch
    stage: ClassVar[str]  # name of the extraction for `progress`
    index_arrays: ClassVar[tuple[str, ...]] = BATCH

    def __init__(
        self, data: LabelledImages, run_store: RunStore, names: Sequence[str], batch_size: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.data, self.run_store, self.names = data, run_store, names
        self.batch_size, self.progress = batch_size, progress
        stored = len(run_store.numbered(self.prefix))
        self.recomputed = RecomputedParts(("batch", "batches"), stored)
        self._current: set[int] = set()  # batches that match the present images
        self._dropped: set[int] = set()

    @abstractmethod
    def _read(self, sources: list[Any]) -> tuple[list[int], Any, list[tuple[int, str]]]:
        """Return the positions of the readable pictures, the pictures, and the failures."""

    @abstractmethod
    def _batch_arrays(self, images: Any, labels: list[int | None]) -> dict[str, np.ndarray]:
        """Return the arrays of the pictures of a batch; "labels" is one of them."""

    @property
    def _basis(self) -> str:
        """Digest of what the values depend on, besides the images of their batch."""
        return ""

    def read_index(self) -> tuple[BatchIndex, list[dict[str, np.ndarray]]]:
        """Return the index of all images, and the small arrays of each batch.

        Missing batches are extracted.

        Raises
        ------
        SemattnError
            If no image can be read.
        """
        batches, digests = [], []
        skipped: list[Skipped] = []
        places: list[tuple[int, int]] = []
        for number in range(self.n_batches):
            arrays = self._load_index(number)
            for image, reason in zip(arrays["skipped"], arrays["reasons"], strict=True):
                skipped.append(Skipped(self.data.source_name(int(image)), str(reason)))
            places += [(number, position) for position in range(len(arrays["sources"]))]
            digests.append(combined_digest(identities_from_array(arrays["identities"])))
            batches.append(arrays)
            done = min((number + 1) * self.batch_size, len(self.data))
            self.progress(self.stage, done, len(self.data))
        if not places:
            reasons = "; ".join(f"{image.name}: {image.reason}" for image in skipped[:3])
            raise SemattnError(f"dataset: expected images that can be read, got none ({reasons})")
        sources, labels = (
            np.concatenate([arrays[name] for arrays in batches]) for name in ("sources", "labels")
        )
        digest = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        return BatchIndex(sources, labels, places, skipped, digest), batches

    @property
    def n_batches(self) -> int:
        """Number of batches of the data set."""
        return math.ceil(len(self.data) / self.batch_size)

    @property
    @abstractmethod
    def index(self) -> BatchIndex:
        """Index of all images; missing batches are extracted."""

    def __len__(self) -> int:
        return len(self.index.sources)

    def name(self, row: int) -> str:
        """Return the name of an image."""
        return self.data.source_name(int(self.index.sources[row]))

    def keypoints(self, rows: Sequence[int] | np.ndarray) -> list[Keypoints]:
        """Return the keypoints of rows with descriptors, in order."""
        gathered, loaded_batch, of_batch = [], -1, list[Keypoints]()
        for row in rows:
            batch, position = self.index.places[row]
            if batch != loaded_batch:
                loaded_batch, of_batch = batch, keypoints_from_arrays(self._load(batch))
            gathered.append(of_batch[position])
        return gathered

    def extract(self, process: tuple[int, int]) -> int:
        """Extract the missing batches of a process's part; return their number of images."""
        place, count = process
        numbers = [n for n in range(place, self.n_batches, count) if not self._is_current(n)]
        total, done = sum(len(self._image_numbers(number)) for number in numbers), 0
        for number in numbers:
            self._load_index(number)
            done += len(self._image_numbers(number))
            self.progress(self.stage, done, total)
        return total

    def extract_by(self, run_tasks: TaskMap) -> None:
        """Extract the missing batches by the tasks of a map, see `semattn.utils.ray_session`."""
        missing = self.missing()
        extracted = run_tasks(_extract_part, map(self._part, missing))
        for number, arrays in zip(missing, extracted, strict=True):
            self._keep(number, arrays)
            done = min((number + 1) * self.batch_size, len(self.data))
            self.progress(self.stage, done, len(self.data))

    def _part(self, number: int) -> tuple[BatchStore, range]:
        """Return a store of one batch, which another process can extract, and its numbers."""
        numbers, part = self._image_numbers(number), copy(self)
        part.data = Part([self.data[i] for i in numbers], numbers.start)  # type: ignore[assignment]
        part.names = Part([self.names[i] for i in numbers], numbers.start)
        part.run_store = part.progress = part.recomputed = None  # type: ignore[assignment]
        return part, numbers

    def missing(self) -> list[int]:
        """Return the numbers of the batches that are not stored for the present images."""
        return [number for number in range(self.n_batches) if not self._is_current(number)]

    def drop_beyond(self) -> None:
        """Remove the stored batches beyond the number of images."""
        for number, name in self.run_store.numbered(self.prefix).items():
            if number >= self.n_batches:
                state = self.run_store.read_arrays(name, STATE) or {}
                self.recomputed.drop(identities_from_array(state.get("identities")))
                self.run_store.remove(name)

    def _load(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of a batch; compute them if they are not stored."""
        name = self._batch_name(number)
        arrays = self.run_store.read_arrays(name) if self._is_current(number) else None
        if arrays is None:
            arrays = self._extract_batch(self._image_numbers(number))
            self._keep(number, arrays)
        return arrays

    def _keep(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        self.run_store.store_arrays(self._batch_name(number), arrays)
        self._current.add(number)
        self.recomputed.again(identities_from_array(arrays["identities"]))

    def _load_index(self, number: int) -> dict[str, np.ndarray]:
        """Return the small arrays of a batch."""
        is_current = self._is_current(number)
        arrays = (
            self.run_store.read_arrays(self._batch_name(number), self.index_arrays)
            if is_current
            else None
        )
        return self._load(number) if arrays is None else arrays

    def _is_current(self, number: int) -> bool:
        """Return whether a batch is stored for the present images; compare it once."""
        if number in self._current:
            return True
        state = self.run_store.read_arrays(self._batch_name(number), STATE)
        if state is None:
            return False
        identities = identities_from_array(state.get("identities"))
        if str(state.get(BASIS)) == self._basis and self._are_unchanged(
            identities, self._image_numbers(number)
        ):
            self._current.add(number)
            return True
        if number not in self._dropped:  # another process may extract it at the moment
            self._dropped.add(number)
            self.recomputed.drop(identities)
        return False

    def _are_unchanged(self, identities: Sequence[str], numbers: Sequence[int]) -> bool:
        if len(identities) != len(numbers):
            return False
        pairs = [self.data[i] for i in numbers]
        sources, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return all_unchanged(identities, sources, [self.names[i] for i in numbers], labels)

    def _identities(
        self, numbers: Sequence[int], pairs: Iterable[tuple[Any, int | None]]
    ) -> list[str]:
        return [
            identity_of(source, self.names[i], label)
            for i, (source, label) in zip(numbers, pairs, strict=True)
        ]

    def _image_numbers(self, number: int) -> range:
        """Return the image numbers of a batch."""
        start = number * self.batch_size
        return range(start, min(start + self.batch_size, len(self.data)))

    def _extract_batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch that are stored."""
        pairs = [self.data[i] for i in numbers]
        sources = fetch([source for source, _ in pairs])
        pairs = [(source, label) for source, (_, label) in zip(sources, pairs, strict=True)]
        identities = self._identities(numbers, pairs)
        read_positions, images, failures = self._read(sources)
        arrays: dict[str, Any] = {
            "skipped": np.array([numbers[position] for position, _ in failures], int),
            "reasons": np.array(
                [relative_reason(reason, pairs[position][0], self.names[numbers[position]])
                 for position, reason in failures],
                dtype=str,
            ),
            "identities": identities_to_array(identities),
            BASIS: np.array(self._basis),
            "sources": np.array([numbers[position] for position in read_positions], int),
            "labels": np.zeros(0, int),
        }  # fmt: skip
        if not read_positions:
            return arrays
        return arrays | self._batch_arrays(
            images, [pairs[position][1] for position in read_positions]
        )

    def _batch_name(self, number: int) -> str:
        return f"{self.prefix}{number:06d}"


def _extract_part(item: tuple[BatchStore, range]) -> dict[str, np.ndarray]:
    """Return the arrays of the batch of a part of a store."""
    part, numbers = item
    return part._extract_batch(numbers)


def strided(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
