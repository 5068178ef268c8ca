"""Random access to the features of all images; each batch is computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..data.labelled import LabelledImages
from ..errors import SemattnError
from ..grid import PatchGrid
from ..images import Images
from ..keypoints import detect
from ..keypoints.local_features import fine_sift, keypoints_to_arrays
from ..utils.atomic_files import read_arrays
from ..utils.input_identity import (
    combined_digest,
    identities_from_array,
    identities_to_array,
)
from ..utils.processes import Progress
from ..utils.run_store import RunStore
from .batch_store import BATCH, BatchIndex, BatchStore, strided
from .feature_extractor import FeatureExtractor
from .projection import FeatureProjection, fit_projection

SAMPLED = 64  # images that the projection is fitted on
PREFIX = "features-"  # name prefix of a stored batch
PROJECTION = "projection"  # name of the stored projection
GRID = ("shape", "cell", "origin")  # arrays of the grid
PATCHES = ("values", "objectness", "keypoints")  # arrays of patches, nearly all of a batch


@dataclass(frozen=True, eq=False)
class FeatureIndex(BatchIndex):
    """Index of the images that could be read.

    Parameters
    ----------
    is_correct : (n,), rows whose label the model predicts
    grid : patch grid
    """

    is_correct: np.ndarray
    grid: PatchGrid


class FeatureStore(BatchStore):
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

    prefix, stage = PREFIX, "extracting features"
    index_arrays = (*BATCH, "is_correct", *GRID)

    def __init__(
        self, extractor: FeatureExtractor, data: LabelledImages, run_store: RunStore,
        names: Sequence[str], batch_size: int, seed: int, progress: Progress,
    ) -> None:  # fmt: skip
        super().__init__(data, run_store, names, batch_size, progress)
        self.extractor, self.seed = extractor, seed

    # --- random access

    @cached_property
    def index(self) -> FeatureIndex:
        """Index of all images; missing batches are extracted."""
        index, batches = self.read_index()
        is_correct = np.concatenate(
            [arrays["is_correct"] for arrays in batches if "is_correct" in arrays]
        )
        grid = next(arrays for arrays in batches if "shape" in arrays)
        return FeatureIndex(**vars(index), is_correct=is_correct, grid=_grid_from_arrays(grid))

    def accuracy(self) -> float:
        """Return the fraction of labelled images that the model predicts correctly."""
        labels, sources = self.data.labels, self.index.sources
        has_label = [not labels or labels[source] is not None for source in sources]
        return float(self.index.is_correct[has_label].mean())

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values (n, P, D), objectness (n, P) and keypoints (n, P) of rows, in order."""
        return gather_patches([self.index.places[row] for row in rows], self._load)

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

    # --- extraction of a batch

    def _read(self, sources: list[Any]) -> tuple[list[int], Images | None, list[tuple[int, str]]]:
        return self.extractor.read(sources)

    def _batch_arrays(self, images: Images, labels: list[int | None]) -> dict[str, np.ndarray]:
        features = self.extractor.extract(images)
        predicted = features.logits.argmax(dim=-1).numpy()
        searched = np.array(
            [p if label is None else label for p, label in zip(predicted, labels, strict=True)]
        )
        classes = features.logits.shape[-1]
        if (wrong := searched[(searched < 0) | (searched >= classes)]).size:
            raise SemattnError(
                f"dataset: expected labels from 0 to {classes - 1}, the outputs of the model, got "
                f"{wrong[0]} — give class numbers of the model, or no labels"
            )
        return {
            "labels": searched.astype(int), "is_correct": predicted == searched,
            "values": self.projection(features.features.numpy()).astype(np.float16),
            "objectness": features.objectness.numpy().astype(np.float16),
            "keypoints": features.keypoints.numpy().astype(np.float16),
            **_grid_to_arrays(features.grid),
            **keypoints_to_arrays(detect(images.pixels, fine_sift)),
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
    def _basis(self) -> str:
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


def gather_patches(
    places: Sequence[tuple[int, int]], load: Callable[[int], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the arrays `PATCHES` of images, given their batches and positions, in order.

    `load` returns the arrays of a batch.
    """
    gathered: dict[str, list[np.ndarray]] = {name: [] for name in PATCHES}
    loaded_batch, arrays = -1, dict[str, np.ndarray]()
    for batch, position in places:
        if batch != loaded_batch:
            loaded_batch, arrays = batch, load(batch)
        for name in PATCHES:
            gathered[name].append(arrays[name][position])
    return {name: np.stack(parts).astype(np.float32) for name, parts in gathered.items()}


def load_patches(folder: Path, batch: int) -> dict[str, np.ndarray]:
    """Return the arrays `PATCHES` of a stored batch of the run store in `folder`."""
    return read_arrays(folder / f"{PREFIX}{batch:06d}.npz", PATCHES)


def _grid_to_arrays(grid: PatchGrid) -> dict[str, np.ndarray]:
    """Return a grid as the arrays `GRID`."""
    shape = np.array([*grid.shape, *grid.image_size, grid.prefix], int)
    return {"shape": shape, "cell": np.array(grid.cell), "origin": np.array(grid.origin, float)}


def _grid_from_arrays(arrays: dict[str, np.ndarray]) -> PatchGrid:
    h, w, height, width, prefix = arrays["shape"].tolist()
    origin = tuple(arrays["origin"].tolist()) if "origin" in arrays else (0.0, 0.0)
    return PatchGrid((h, w), (height, width), tuple(arrays["cell"].tolist()), prefix, origin)
