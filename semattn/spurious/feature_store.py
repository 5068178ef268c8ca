"""Feature store: the features of each batch of images are computed once and kept on disk.

A stored batch is used if its images and the projection of its values have not changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..data.labelled import LabelledImages
from ..errors import SemattnError, relative_reason
from ..utils.input_identity import all_unchanged, combined, from_array, identity_of, to_array
from ..utils.progress import Progress
from ..utils.run_store import RecomputedParts, RunStore
from .feature_extractor import Looker
from .projection import Space, fit_space

SAMPLED = 64  # images that the projection is fitted on
PREFIX = "look-"  # name prefix of a stored batch
PATCHES = ("shape", "cell", "origin")  # arrays of the grid
STATE = ("identities", "space")  # digests of the images and of the projection of a batch
ABOUT = ("sources", "labels", "right", "skipped", "reasons", *STATE, *PATCHES)  # small arrays


class Views:
    """Batches of images, each extracted once, by the process that needs it first.

    Parameters
    ----------
    looker, data, store : feature extractor, data set, and disk store
    names : names of the images, relative to the data set
    size : images per forward pass
    seed : seed of the projection
    progress : called with the stage, the number of steps done, and the total

    Raises
    ------
    SemattnError
        If no image can be read, and for labels that the model does not have.
    """

    def __init__(
        self, looker: Looker, data: LabelledImages, store: RunStore, names: Sequence[str],
        size: int, seed: int, progress: Progress,
    ) -> None:  # fmt: skip
        self.looker, self.data, self.store, self.size = looker, data, store, size
        self.names, self.seed, self.progress = names, seed, progress
        self.recomputed = RecomputedParts(("batch", "batches"), len(store.numbered(PREFIX)))
        self._current: set[int] = set()  # batches that match the present images
        self._dropped: set[int] = set()

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of a batch; compute them if they are not stored."""
        arrays = self.store.read_arrays(self._name(number)) if self._is_current(number) else None
        if arrays is None:
            arrays = self._extract(self._image_numbers(number))
            self.store.store_arrays(self._name(number), arrays)
            self._current.add(number)
            self.recomputed.again(from_array(arrays["identities"]))
        return arrays

    def about(self, number: int) -> dict[str, np.ndarray]:
        """Return the arrays of a batch except those of patches, which are nearly all of it."""
        current = self._is_current(number)
        arrays = self.store.read_arrays(self._name(number), ABOUT) if current else None
        return self[number] if arrays is None else arrays

    def missing(self) -> list[int]:
        """Return the numbers of the batches that are not stored for the present images."""
        return [number for number in range(len(self)) if not self._is_current(number)]

    def drop_beyond(self) -> None:
        """Remove the stored batches beyond the number of images."""
        for number, name in self.store.numbered(PREFIX).items():
            if number >= len(self):
                self._drop(name)

    def _is_current(self, number: int) -> bool:
        """Return whether a batch is stored for the present images; compare it once."""
        if number in self._current:
            return True
        name = self._name(number)
        state = self.store.read_arrays(name, STATE)
        if state is None:
            return False
        lines = from_array(state.get("identities"))
        if str(state.get("space")) == self.space_digest and self._are_current(
            lines, self._image_numbers(number)
        ):
            self._current.add(number)
            return True
        if number not in self._dropped:  # another process may extract it at the moment
            self._dropped.add(number)
            self.recomputed.drop(lines)
        return False

    def _drop(self, name: str) -> None:
        self.recomputed.drop(
            from_array((self.store.read_arrays(name, STATE) or {}).get("identities"))
        )
        self.store.remove(name)

    def _are_current(self, lines: Sequence[str], numbers: Sequence[int]) -> bool:
        if len(lines) != len(numbers):
            return False
        pairs = [self.data[int(i)] for i in numbers]
        sources, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return all_unchanged(lines, sources, [self.names[int(i)] for i in numbers], labels)

    def _identities(self, numbers: Sequence[int]) -> list[str]:
        lines = []
        for i in numbers:
            source, label = self.data[int(i)]
            lines.append(identity_of(source, self.names[int(i)], label))
        return lines

    def look(self, process: tuple[int, int]) -> int:
        """Extract the missing batches of a process's part; return their number of images."""
        place, count = process
        numbers = [
            number for number in range(place, len(self), count) if not self._is_current(number)
        ]
        total, done = sum(len(self._image_numbers(number)) for number in numbers), 0
        for number in numbers:
            self.about(number)
            done += len(self._image_numbers(number))
            self.progress("looking", done, total)
        return total

    @cached_property
    def space(self) -> Space:
        """Projection of patch features, the same in all processes."""
        arrays = self._space
        return Space(arrays["mean"], arrays["axes"], slice(*arrays["things"].tolist()))

    @cached_property
    def space_digest(self) -> str:
        """Digest of the images that the projection was fitted on."""
        return combined(from_array(self._space["identities"]))

    @cached_property
    def _space(self) -> dict[str, np.ndarray]:
        arrays = self.store.read_arrays("space")
        if arrays is None or not self._are_current(
            from_array(arrays.get("identities")), self._sample
        ):  # fmt: skip
            self.store.store_arrays("space", self._fit_space())
            arrays = self.store.read_arrays("space")
            assert arrays is not None
        return arrays

    @property
    def _sample(self) -> list[int]:
        """Evenly spaced images that the projection is fitted on."""
        numbers: list[int] = strided(np.arange(len(self.data)), SAMPLED).tolist()
        return numbers

    def _image_numbers(self, number: int) -> range:
        """Return the image numbers of a batch."""
        start = number * self.size
        return range(start, min(start + self.size, len(self.data)))

    @staticmethod
    def _name(number: int) -> str:
        return f"{PREFIX}{number:06d}"

    def _fit_space(self) -> dict[str, np.ndarray]:
        """Fit the projection; return its arrays."""
        parts = []
        numbers = self._sample
        identities = self._identities(numbers)  # before the pictures are read
        for start in range(0, len(numbers), self.size):
            sources = [self.data[i][0] for i in numbers[start : start + self.size]]
            _, images, failures = self.looker.read(sources)
            if images is not None:
                parts.append(self.looker.look(images).features.flatten(0, 1).numpy())
            self.progress("sampling", min(start + self.size, len(numbers)), len(numbers))
        if not parts:
            first = self.data.source_name(numbers[start + failures[0][0]])
            raise SemattnError(
                "dataset: expected images that can be read, got none among "
                f"{len(numbers)} ({first}: {failures[0][1]})"
            )
        space = fit_space(np.concatenate(parts), self.seed)
        object_axes = np.array([space.object_axes.start, space.object_axes.stop])
        lines = to_array(identities)
        return {"mean": space.mean, "axes": space.axes, "things": object_axes, "identities": lines}

    def _extract(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch that are stored."""
        pairs = [self.data[i] for i in numbers]
        space = self.space_digest
        lines = [
            identity_of(source, self.names[i], label)
            for i, (source, label) in zip(numbers, pairs, strict=True)
        ]
        read_numbers, images, failures = self.looker.read([pair[0] for pair in pairs])
        skipped: dict[str, Any] = {
            "skipped": np.array([numbers[i] for i, _ in failures], int),
            "reasons": np.array(
                [relative_reason(reason, pairs[i][0], self.names[numbers[i]])
                 for i, reason in failures],
                dtype=str,
            ),
            "identities": to_array(lines), "space": np.array(space),
        }  # fmt: skip
        if images is None:
            empty = np.zeros(0, int)
            return skipped | {"sources": empty, "labels": empty, "right": empty.astype(bool)}
        features = self.looker.look(images)
        predicted = features.logits.argmax(dim=-1).numpy()
        known_labels = [pairs[i][1] for i in read_numbers]
        labels = np.array(
            [p if k is None else k for p, k in zip(predicted, known_labels, strict=True)]
        )
        if (wrong := labels[(labels < 0) | (labels >= features.logits.shape[-1])]).size:
            raise SemattnError(
                f"dataset: expected labels from 0 to {features.logits.shape[-1] - 1}, the outputs "
                f"of the model, got {wrong[0]} — give class numbers of the model, or no labels"
            )
        grid = features.grid
        return skipped | {
            "sources": np.array([numbers[i] for i in read_numbers], int),
            "labels": labels.astype(int), "right": predicted == labels,
            "values": self.space(features.features.numpy()).astype(np.float16),
            "thing": features.objectness.numpy().astype(np.float16),
            "keypoints": features.keypoints.numpy().astype(np.float16),
            "shape": np.array([*grid.shape, *grid.image_size, grid.prefix], int),
            "cell": np.array(grid.cell), "origin": np.array(grid.origin, float),
        }  # fmt: skip


def strided(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
