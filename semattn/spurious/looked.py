"""Access by row to the stored features of the images that could be read."""

from __future__ import annotations

import hashlib

import numpy as np
from torch import Tensor

from ..data.loading import Skipped
from ..errors import SemattnError
from ..grid import PatchGrid
from ..images import Images
from ..utils.input_identity import combined, from_array
from .feature_store import PATCHES, Views


class Looked:
    """Images of a search, each one once. A row is the number of an image that could be read.

    Parameters
    ----------
    views : feature store of the batches; missing batches are computed

    Attributes
    ----------
    looker, data, store, size, space : as in `Views`
    labels : (n,), class that each row is searched under
    right : (n,), rows whose label the model predicts
    skipped : images that could not be read
    grid : patch grid
    identity : digest of all images, on which all derived results depend

    Raises
    ------
    SemattnError
        If no image can be read, and for labels that the model does not have.
    """

    def __init__(self, views: Views) -> None:
        self.looker, self.data = views.looker, views.data
        self.store, self.size, self.space = views.store, views.size, views.space
        self.skipped: list[Skipped] = []
        self._views = views
        self._at: list[tuple[int, int]] = []
        sources: list[int] = []
        labels: list[int] = []
        right: list[bool] = []
        grid: dict[str, np.ndarray] = {}
        digests: list[str] = []
        for number in range(len(views)):
            about = views.about(number)
            for index, reason in zip(about["skipped"], about["reasons"], strict=True):
                self.skipped.append(Skipped(self.data.source_name(int(index)), str(reason)))
            sources += about["sources"].tolist()
            labels += about["labels"].tolist()
            right += about["right"].tolist()
            self._at += [(number, position) for position in range(len(about["sources"]))]
            digests.append(combined(from_array(about["identities"])))
            grid = grid or {name: about[name] for name in PATCHES if name in about}
            views.progress("looking", min((number + 1) * self.size, len(self.data)), len(self.data))
        self.identity = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        if not sources:
            reasons = "; ".join(f"{skipped.name}: {skipped.reason}" for skipped in self.skipped[:3])
            raise SemattnError(f"dataset: expected images that can be read, got none ({reasons})")
        self.sources, self.labels = np.array(sources), np.array(labels)
        self.right = np.array(right)
        h, w, height, width, prefix = grid["shape"].tolist()
        origin = tuple(grid["origin"].tolist()) if "origin" in grid else (0.0, 0.0)
        self.grid = PatchGrid((h, w), (height, width), tuple(grid["cell"].tolist()), prefix, origin)

    def __len__(self) -> int:
        return len(self.sources)

    def accuracy(self) -> float:
        """Return the fraction of labelled images that the model predicts correctly."""
        data_labels = self.data.labels
        has_label = [not data_labels or data_labels[source] is not None for source in self.sources]
        return float(self.right[has_label].mean())

    def name(self, row: int) -> str:
        """Return the name of an image."""
        return self.data.source_name(int(self.sources[row]))

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values (n, P, D), objectness (n, P) and keypoints (n, P) of rows, in order."""
        values: dict[str, list[np.ndarray]] = {"values": [], "thing": [], "keypoints": []}
        loaded_number, arrays = -1, dict[str, np.ndarray]()
        for row in rows:
            batch_number, position = self._at[row]
            if batch_number != loaded_number:
                loaded_number, arrays = batch_number, self._views[batch_number]
            for name, rows_of_array in values.items():
                rows_of_array.append(arrays[name][position])
        return {
            name: np.stack(rows_of_array).astype(np.float32)
            for name, rows_of_array in values.items()
        }

    def images(self, rows: np.ndarray) -> Images:
        """Read the pictures of rows again."""
        _, images, failures = self.looker.read(
            [self.data[int(self.sources[row])][0] for row in rows]
        )
        if failures or images is None:
            raise SemattnError(
                "dataset: expected images that do not change, got one that can no longer be "
                f"read ({failures[0][1] if failures else 'none'})"
            )
        return images

    def inputs(self, rows: np.ndarray) -> Tensor:
        """Return the pictures of rows as inputs of the model."""
        return self.images(rows).inputs
