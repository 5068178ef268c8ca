"""Images that were looked at: what is known of them lies on the shelf, read when asked for."""

from __future__ import annotations

import hashlib

import numpy as np
from torch import Tensor

from ..errors import SemattnError
from ..grid import PatchGrid
from ..identity import combined, from_array
from ..images import Images
from .discovery import Skipped
from .views import PATCHES, Views


class Looked:
    """Every image, once. Rows are numbers of images that could be read.

    Parameters
    ----------
    views : what is known of each batch; those that nobody has looked at yet are looked at

    Attributes
    ----------
    looker, data, shelf, size, space : as of `Views`
    labels : (n,), the class that each row is searched under
    right : (n,), whether the model says so
    skipped : what could not be read
    grid : of the patches
    identity : digest of all images, on which everything derived from them depends

    Raises
    ------
    SemattnError
        Where no image can be read, and for labels that the model has not.
    """

    def __init__(self, views: Views) -> None:
        self.looker, self.data = views.looker, views.data
        self.shelf, self.size, self.space = views.shelf, views.size, views.space
        self.skipped: list[Skipped] = []
        self._views = views
        self._at: list[tuple[int, int]] = []
        sources: list[int] = []
        labels: list[int] = []
        right: list[bool] = []
        grid: dict[str, np.ndarray] = {}
        digests: list[str] = []
        for number in range(len(views)):
            kept = views.about(number)
            for index, why in zip(kept["skipped"], kept["reasons"], strict=True):
                self.skipped.append(Skipped(self.data.source_name(int(index)), str(why)))
            sources += kept["sources"].tolist()
            labels += kept["labels"].tolist()
            right += kept["right"].tolist()
            self._at += [(number, place) for place in range(len(kept["sources"]))]
            digests.append(combined(from_array(kept["identities"])))
            grid = grid or {name: kept[name] for name in PATCHES if name in kept}
            views.said("looking", min((number + 1) * self.size, len(self.data)), len(self.data))
        self.identity = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        if not sources:
            some = "; ".join(f"{one.name}: {one.reason}" for one in self.skipped[:3])
            raise SemattnError(f"dataset: expected images that can be read, got none ({some})")
        self.sources, self.labels = np.array(sources), np.array(labels)
        self.right = np.array(right)
        h, w, height, width, prefix = grid["shape"].tolist()
        origin = tuple(grid["origin"].tolist()) if "origin" in grid else (0.0, 0.0)
        self.grid = PatchGrid((h, w), (height, width), tuple(grid["cell"].tolist()), prefix, origin)

    def __len__(self) -> int:
        return len(self.sources)

    def accuracy(self) -> float:
        """Return the share of labelled images that the model is right on."""
        given = self.data.labels
        has_label = [not given or given[source] is not None for source in self.sources]
        return float(self.right[has_label].mean())

    def name(self, row: int) -> str:
        """What an image is called."""
        return self.data.source_name(int(self.sources[row]))

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The values (n, P, D), things (n, P) and keypoints (n, P) of rows, in their order."""
        made: dict[str, list[np.ndarray]] = {"values": [], "thing": [], "keypoints": []}
        number, batch = -1, dict[str, np.ndarray]()
        for row in rows:
            wanted, place = self._at[row]
            if wanted != number:
                number, batch = wanted, self._views[wanted]
            for name, kept in made.items():
                kept.append(batch[name][place])
        return {name: np.stack(kept).astype(np.float32) for name, kept in made.items()}

    def images(self, rows: np.ndarray) -> Images:
        """The pictures of rows, read anew."""
        _, images, why = self.looker.read([self.data[int(self.sources[row])][0] for row in rows])
        if why or images is None:
            raise SemattnError(
                "dataset: expected images that stay as they are, got one that can no longer be "
                f"read ({why[0][1] if why else 'none'})"
            )
        return images

    def inputs(self, rows: np.ndarray) -> Tensor:
        """The same as the model takes them."""
        return self.images(rows).inputs
