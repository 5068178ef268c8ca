"""Random access to the features of all images; each batch is computed once and kept on disk.

A stored batch is used if its images and the projection of its values have not changed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ..data.labelled import LabelledImages
from ..data.loading import Skipped
from ..errors import SemattnError, relative_reason
from ..grid import PatchGrid
from ..images import Images
from ..utils.input_identity import (
    all_unchanged,
    combined_digest,
    identities_from_array,
    identities_to_array,
    identity_of,
)
from ..utils.processes import Progress
from ..utils.run_store import RecomputedParts, RunStore
from .feature_extractor import FeatureExtractor
from .projection import FeatureProjection, fit_projection

SAMPLED = 64  # images that the projection is fitted on
PREFIX = "features-"  # name prefix of a stored batch
PROJECTION = "projection"  # name of the stored projection
GRID = ("shape", "cell", "origin")  # arrays of the grid
STATE = ("identities", PROJECTION)  # digests of the images and of the projection of a batch
INDEX = ("sources", "labels", "is_correct", "skipped", "reasons", *STATE, *GRID)  # small arrays
PATCHES = ("values", "objectness", "keypoints")  # arrays of patches, nearly all of a batch


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """Index of the images that could be read; a row is the number of such an image.

    Parameters
    ----------
    sources : (n,), number of each image in the data set
    labels : (n,), class that each row is searched under
    is_correct : (n,), rows whose label the model predicts
    places : batch of each row, and its position in the batch
    skipped : images that could not be read
    grid : patch grid
    digest : digest of all images, on which all derived results depend
    """

    sources: np.ndarray
    labels: np.ndarray
    is_correct: np.ndarray
    places: list[tuple[int, int]]
    skipped: list[Skipped]
    grid: PatchGrid
    digest: str


class FeatureStore:
    """Features of the images of a data set, extracted by the process that needs them first.

    Parameters
    ----------
    extractor, data, run_store : feature extractor, data set, and disk store
    names : names of the images, relative to the data set
    batch_size : images per forward pass
    seed : seed of the projection
    progress : called with the stage, the number of images done, and the total

    Raises
    ------
    SemattnError
        From the methods: if no image can be read, and for labels that the model does not have.
    """

    def __init__(
        self, extractor: FeatureExtractor, data: LabelledImages, run_store: RunStore,
        names: Sequence[str], batch_size: int, seed: int, progress: Progress,
    ) -> None:  # fmt: skip
        self.extractor, self.data, self.run_store = extractor, data, run_store
        self.names, self.batch_size, self.seed, self.progress = names, batch_size, seed, progress
        self.recomputed = RecomputedParts(("batch", "batches"), len(run_store.numbered(PREFIX)))
        self._current: set[int] = set()  # batches that match the present images
        self._dropped: set[int] = set()

    # --- random access

    @cached_property
    def index(self) -> FeatureIndex:
        """Index of all images; missing batches are extracted."""
        skipped: list[Skipped] = []
        places: list[tuple[int, int]] = []
        sources: list[int] = []
        labels: list[int] = []
        is_correct: list[bool] = []
        grid_arrays: dict[str, np.ndarray] = {}
        digests: list[str] = []
        for number in range(self.n_batches):
            arrays = self._load_index(number)
            for image, reason in zip(arrays["skipped"], arrays["reasons"], strict=True):
                skipped.append(Skipped(self.data.source_name(int(image)), str(reason)))
            sources += arrays["sources"].tolist()
            labels += arrays["labels"].tolist()
            is_correct += arrays["is_correct"].tolist()
            places += [(number, position) for position in range(len(arrays["sources"]))]
            digests.append(combined_digest(identities_from_array(arrays["identities"])))
            grid_arrays = grid_arrays or {name: arrays[name] for name in GRID if name in arrays}
            done = min((number + 1) * self.batch_size, len(self.data))
            self.progress("extracting features", done, len(self.data))
        if not sources:
            reasons = "; ".join(f"{image.name}: {image.reason}" for image in skipped[:3])
            raise SemattnError(f"dataset: expected images that can be read, got none ({reasons})")
        return FeatureIndex(
            np.array(sources), np.array(labels), np.array(is_correct), places, skipped,
            _grid_from_arrays(grid_arrays),
            hashlib.sha256(" ".join(digests).encode()).hexdigest(),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.index.sources)

    def name(self, row: int) -> str:
        """Return the name of an image."""
        return self.data.source_name(int(self.index.sources[row]))

    def accuracy(self) -> float:
        """Return the fraction of labelled images that the model predicts correctly."""
        labels, sources = self.data.labels, self.index.sources
        has_label = [not labels or labels[source] is not None for source in sources]
        return float(self.index.is_correct[has_label].mean())

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values (n, P, D), objectness (n, P) and keypoints (n, P) of rows, in order."""
        gathered: dict[str, list[np.ndarray]] = {name: [] for name in PATCHES}
        loaded_batch, arrays = -1, dict[str, np.ndarray]()
        for row in rows:
            batch, position = self.index.places[row]
            if batch != loaded_batch:
                loaded_batch, arrays = batch, self._load(batch)
            for name in PATCHES:
                gathered[name].append(arrays[name][position])
        return {name: np.stack(parts).astype(np.float32) for name, parts in gathered.items()}

    def images(self, rows: np.ndarray) -> Images:
        """Read the pictures of rows again."""
        sources = [self.data[int(self.index.sources[row])][0] for row in rows]
        _, images, failures = self.extractor.read(sources)
        if failures or images is None:
            raise SemattnError(
                "dataset: expected images that do not change, got one that can no longer be "
                f"read ({failures[0][1] if failures else 'none'})"
            )
        return images

    def inputs(self, rows: np.ndarray) -> Tensor:
        """Return the pictures of rows as inputs of the model."""
        return self.images(rows).inputs

    # --- extraction and disk store

    @property
    def n_batches(self) -> int:
        """Number of batches of the data set."""
        return math.ceil(len(self.data) / self.batch_size)

    def extract(self, process: tuple[int, int]) -> int:
        """Extract the missing batches of a process's part; return their number of images."""
        place, count = process
        numbers = [n for n in range(place, self.n_batches, count) if not self._is_current(n)]
        total, done = sum(len(self._image_numbers(number)) for number in numbers), 0
        for number in numbers:
            self._load_index(number)
            done += len(self._image_numbers(number))
            self.progress("extracting features", done, total)
        return total

    def missing(self) -> list[int]:
        """Return the numbers of the batches that are not stored for the present images."""
        return [number for number in range(self.n_batches) if not self._is_current(number)]

    def drop_beyond(self) -> None:
        """Remove the stored batches beyond the number of images."""
        for number, name in self.run_store.numbered(PREFIX).items():
            if number >= self.n_batches:
                state = self.run_store.read_arrays(name, STATE) or {}
                self.recomputed.drop(identities_from_array(state.get("identities")))
                self.run_store.remove(name)

    def _load(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of a batch; compute them if they are not stored."""
        name = _batch_name(number)
        arrays = self.run_store.read_arrays(name) if self._is_current(number) else None
        if arrays is None:
            arrays = self._extract_batch(self._image_numbers(number), self.projection)
            self.run_store.store_arrays(name, arrays)
            self._current.add(number)
            self.recomputed.again(identities_from_array(arrays["identities"]))
        return arrays

    def _load_index(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays `INDEX` of a batch."""
        is_current = self._is_current(number)
        arrays = self.run_store.read_arrays(_batch_name(number), INDEX) if is_current else None
        return self._load(number) if arrays is None else arrays

    def _is_current(self, number: int) -> bool:
        """Return whether a batch is stored for the present images; compare it once."""
        if number in self._current:
            return True
        state = self.run_store.read_arrays(_batch_name(number), STATE)
        if state is None:
            return False
        identities = identities_from_array(state.get("identities"))
        if str(state.get(PROJECTION)) == self._projection_digest and self._are_unchanged(
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

    def _extract_batch(
        self, numbers: Sequence[int], projection: FeatureProjection
    ) -> dict[str, np.ndarray]:
        """Return the arrays of a batch that are stored."""
        pairs = [self.data[i] for i in numbers]
        identities = self._identities(numbers, pairs)
        read_positions, images, failures = self.extractor.read([source for source, _ in pairs])
        arrays: dict[str, Any] = {
            "skipped": np.array([numbers[position] for position, _ in failures], int),
            "reasons": np.array(
                [relative_reason(reason, pairs[position][0], self.names[numbers[position]])
                 for position, reason in failures],
                dtype=str,
            ),
            "identities": identities_to_array(identities),
            PROJECTION: np.array(self._projection_digest),
        }  # fmt: skip
        if images is None:
            empty = np.zeros(0, int)
            return arrays | {"sources": empty, "labels": empty, "is_correct": empty.astype(bool)}
        features = self.extractor.extract(images)
        predicted = features.logits.argmax(dim=-1).numpy()
        known_labels = [pairs[position][1] for position in read_positions]
        labels = np.array(
            [
                p if label is None else label
                for p, label in zip(predicted, known_labels, strict=True)
            ]
        )
        classes = features.logits.shape[-1]
        if (wrong := labels[(labels < 0) | (labels >= classes)]).size:
            raise SemattnError(
                f"dataset: expected labels from 0 to {classes - 1}, the outputs of the model, got "
                f"{wrong[0]} — give class numbers of the model, or no labels"
            )
        return arrays | {
            "sources": np.array([numbers[position] for position in read_positions], int),
            "labels": labels.astype(int), "is_correct": predicted == labels,
            "values": projection(features.features.numpy()).astype(np.float16),
            "objectness": features.objectness.numpy().astype(np.float16),
            "keypoints": features.keypoints.numpy().astype(np.float16),
            **_grid_to_arrays(features.grid),
        }  # fmt: skip

    # --- projection of the features

    @cached_property
    def projection(self) -> FeatureProjection:
        """Projection of patch features, the same in all processes."""
        arrays = self._projection_arrays
        return FeatureProjection(
            arrays["mean"], arrays["axes"], slice(*arrays["object_axes"].tolist())
        )

    @cached_property
    def _projection_digest(self) -> str:
        """Digest of the images that the projection was fitted on."""
        return combined_digest(identities_from_array(self._projection_arrays["identities"]))

    @cached_property
    def _projection_arrays(self) -> dict[str, np.ndarray]:
        arrays = self.run_store.read_arrays(PROJECTION)
        numbers = strided(np.arange(len(self.data)), SAMPLED).tolist()
        identities = [] if arrays is None else identities_from_array(arrays.get("identities"))
        if arrays is None or not self._are_unchanged(identities, numbers):
            self.run_store.store_arrays(PROJECTION, self._fit_projection(numbers))
            arrays = self.run_store.read_arrays(PROJECTION)
            assert arrays is not None
        return arrays

    def _fit_projection(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Fit the projection to images; return its arrays."""
        parts = []
        # Before the pictures are read, so that a later edit is detected.
        identities = self._identities(numbers, (self.data[i] for i in numbers))
        for start in range(0, len(numbers), self.batch_size):
            stop = min(start + self.batch_size, len(numbers))
            sources = [self.data[i][0] for i in numbers[start:stop]]
            _, images, failures = self.extractor.read(sources)
            if images is not None:
                parts.append(self.extractor.extract(images).features.flatten(0, 1).numpy())
            self.progress("fitting the projection", stop, len(numbers))
        if not parts:
            first = self.data.source_name(numbers[start + failures[0][0]])
            raise SemattnError(
                "dataset: expected images that can be read, got none among "
                f"{len(numbers)} ({first}: {failures[0][1]})"
            )
        projection = fit_projection(np.concatenate(parts), self.seed)
        axes = projection.object_axes
        return {
            "mean": projection.mean, "axes": projection.axes,
            "object_axes": np.array([axes.start, axes.stop]),
            "identities": identities_to_array(identities),
        }  # fmt: skip


def strided(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _batch_name(number: int) -> str:
    return f"{PREFIX}{number:06d}"


def _grid_to_arrays(grid: PatchGrid) -> dict[str, np.ndarray]:
    """Return a grid as the arrays `GRID`."""
    shape = np.array([*grid.shape, *grid.image_size, grid.prefix], int)
    return {"shape": shape, "cell": np.array(grid.cell), "origin": np.array(grid.origin, float)}


def _grid_from_arrays(arrays: dict[str, np.ndarray]) -> PatchGrid:
    h, w, height, width, prefix = arrays["shape"].tolist()
    origin = tuple(arrays["origin"].tolist()) if "origin" in arrays else (0.0, 0.0)
    return PatchGrid((h, w), (height, width), tuple(arrays["cell"].tolist()), prefix, origin)
