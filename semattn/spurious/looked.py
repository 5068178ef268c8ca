"""Images that were looked at: what is known of them lies on the shelf, read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import SemattnError
from ..grid import PatchGrid
from ..images import Images
from ..shelf import Shelf
from .data import Labelled
from .discovery import Skipped
from .looking import Looker
from .space import Space, fit_space

SAMPLED = 64  # images that the space is made of

Progress = Callable[[str, int, int], None]


class Looked:
    """Every image, once. Rows are numbers of images that could be read.

    Parameters
    ----------
    looker, data, shelf : who looks, at what, and where it is kept; what is on the shelf already is
        not looked at again
    size : images in the model at once
    seed : of the space
    said : told of the progress

    Attributes
    ----------
    labels : (n,), the class that each row is searched under
    right : (n,), whether the model says so
    skipped : what could not be read
    space, grid : of the patches

    Raises
    ------
    SemattnError
        Where no image can be read, and for labels that the model has not.
    """

    def __init__(
        self, looker: Looker, data: Labelled, shelf: Shelf, size: int, seed: int, said: Progress
    ) -> None:
        self.looker, self.data, self.shelf, self.size = looker, data, shelf, size
        self.space = self._space(seed, said)
        self.skipped: list[Skipped] = []
        self._at: list[tuple[int, int]] = []
        sources: list[int] = []
        labels: list[int] = []
        right: list[bool] = []
        grid: dict[str, np.ndarray] = {}
        for number, start in enumerate(range(0, len(data), size)):
            stop = min(start + size, len(data))
            kept = shelf.arrays(f"look-{number:06d}")
            if kept is None:
                kept = self._look(range(start, stop))
                shelf.keep_arrays(f"look-{number:06d}", kept)
            for index, why in zip(kept["skipped"], kept["reasons"], strict=True):
                self.skipped.append(Skipped(data.source_name(int(index)), str(why)))
            sources += kept["sources"].tolist()
            labels += kept["labels"].tolist()
            right += kept["right"].tolist()
            self._at += [(number, place) for place in range(len(kept["sources"]))]
            grid = grid or {name: kept[name] for name in ("shape", "cell") if name in kept}
            said("looking", stop, len(data))
        if not sources:
            some = "; ".join(f"{one.name}: {one.reason}" for one in self.skipped[:3])
            raise SemattnError(f"dataset: expected images that can be read, got none ({some})")
        self.sources, self.labels = np.array(sources), np.array(labels)
        self.right = np.array(right)
        h, w, height, width, prefix = grid["shape"].tolist()
        self.grid = PatchGrid((h, w), (height, width), tuple(grid["cell"].tolist()), prefix)

    def __len__(self) -> int:
        return len(self.sources)

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
                number, batch = wanted, self.shelf.arrays(f"look-{wanted:06d}") or {}
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

    def _space(self, seed: int, said: Progress) -> Space:
        kept = self.shelf.arrays("space")
        if kept is None:
            parts = []
            wanted = strided(np.arange(len(self.data)), SAMPLED)
            for start in range(0, len(wanted), self.size):
                sources = [self.data[int(i)][0] for i in wanted[start : start + self.size]]
                _, images, why = self.looker.read(sources)
                if images is not None:
                    parts.append(self.looker.look(images).features.flatten(0, 1).numpy())
                said("sampling", min(start + self.size, len(wanted)), len(wanted))
            if not parts:
                first = self.data.source_name(int(wanted[start + why[0][0]]))
                raise SemattnError(
                    "dataset: expected images that can be read, got none among "
                    f"{len(wanted)} ({first}: {why[0][1]})"
                )
            made = fit_space(np.concatenate(parts), seed)
            things = np.array([made.things.start, made.things.stop])
            kept = {"mean": made.mean, "axes": made.axes, "things": things}
            self.shelf.keep_arrays("space", kept)
        return Space(kept["mean"], kept["axes"], slice(*kept["things"].tolist()))

    def _look(self, every: Sequence[int]) -> dict[str, np.ndarray]:
        """What is kept of a batch."""
        pairs = [self.data[i] for i in every]
        good, images, why = self.looker.read([one[0] for one in pairs])
        skipped: dict[str, Any] = {
            "skipped": np.array([every[i] for i, _ in why], int),
            "reasons": np.array([reason for _, reason in why], dtype=str),
        }
        if images is None:
            nothing = np.zeros(0, int)
            return skipped | {"sources": nothing, "labels": nothing, "right": nothing.astype(bool)}
        seen = self.looker.look(images)
        predicted = seen.logits.argmax(dim=-1).numpy()
        known = [pairs[i][1] for i in good]
        labels = np.array([p if k is None else k for p, k in zip(predicted, known, strict=True)])
        if (wrong := labels[(labels < 0) | (labels >= seen.logits.shape[-1])]).size:
            raise SemattnError(
                f"dataset: expected labels below {seen.logits.shape[-1]}, the model's outputs, got "
                f"{wrong[0]} — give the model's own class numbers, or images alone"
            )
        grid = seen.grid
        return skipped | {
            "sources": np.array([every[i] for i in good], int), "labels": labels.astype(int),
            "right": predicted == labels,
            "values": self.space(seen.features.numpy()).astype(np.float16),
            "thing": seen.thing.numpy().astype(np.float16),
            "keypoints": seen.keypoints.numpy().astype(np.float16),
            "shape": np.array([*grid.shape, *grid.image_size, grid.prefix], int),
            "cell": np.array(grid.cell),
        }  # fmt: skip


def strided(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly over them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
