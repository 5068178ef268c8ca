"""What a model is shown: batch by batch, what is known of each lies on the shelf."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import SemattnError
from ..shelf import Shelf
from .data import Labelled
from .looking import Looker
from .space import Space, fit_space

SAMPLED = 64  # images that the space is made of
PATCHES = ("shape", "cell", "origin")  # of the grid
ABOUT = ("sources", "labels", "right", "skipped", "reasons", *PATCHES)  # small, of a batch

Progress = Callable[[str, int, int], None]


class Views:
    """Batches of images, each looked at once, by whichever process needs it first.

    Parameters
    ----------
    looker, data, shelf : who looks, at what, and where it is kept
    size : images in the model at once
    seed : of the space
    said : told of the progress

    Raises
    ------
    SemattnError
        Where no image can be read, and for labels that the model has not.
    """

    def __init__(
        self, looker: Looker, data: Labelled, shelf: Shelf, size: int, seed: int, said: Progress
    ) -> None:
        self.looker, self.data, self.shelf, self.size = looker, data, shelf, size
        self.seed, self.said = seed, said

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """What is known of a batch; it is looked at where that was not done yet."""
        name = self._name(number)
        kept = self.shelf.arrays(name)
        if kept is None:
            kept = self._look(self._of(number))
            self.shelf.keep_arrays(name, kept)
        return kept

    def about(self, number: int) -> dict[str, np.ndarray]:
        """The same without what is known of patches, which is nearly all of it."""
        kept = self.shelf.arrays(self._name(number), ABOUT)
        return self[number] if kept is None else kept

    def missing(self) -> list[int]:
        """The batches that nobody has looked at yet."""
        return [one for one in range(len(self)) if not self.shelf.has_arrays(self._name(one))]

    def look(self, process: tuple[int, int]) -> int:
        """Look at what is missing of a process's part; how many images that were."""
        place, count = process
        mine = [one for one in self.missing() if one % count == place]
        total, done = sum(len(self._of(one)) for one in mine), 0
        for number in mine:
            self.about(number)
            done += len(self._of(number))
            self.said("looking", done, total)
        return total

    @cached_property
    def space(self) -> Space:
        """Of the patches; the same for all processes."""
        kept = self.shelf.arrays("space")
        if kept is None:
            self.shelf.keep_arrays("space", self._sampled())
            kept = self.shelf.arrays("space")
            assert kept is not None
        return Space(kept["mean"], kept["axes"], slice(*kept["things"].tolist()))

    def _of(self, number: int) -> range:
        """The images of a batch."""
        start = number * self.size
        return range(start, min(start + self.size, len(self.data)))

    @staticmethod
    def _name(number: int) -> str:
        return f"look-{number:06d}"

    def _sampled(self) -> dict[str, np.ndarray]:
        """The space, of images evenly over all."""
        parts = []
        wanted = strided(np.arange(len(self.data)), SAMPLED)
        for start in range(0, len(wanted), self.size):
            sources = [self.data[int(i)][0] for i in wanted[start : start + self.size]]
            _, images, why = self.looker.read(sources)
            if images is not None:
                parts.append(self.looker.look(images).features.flatten(0, 1).numpy())
            self.said("sampling", min(start + self.size, len(wanted)), len(wanted))
        if not parts:
            first = self.data.source_name(int(wanted[start + why[0][0]]))
            raise SemattnError(
                "dataset: expected images that can be read, got none among "
                f"{len(wanted)} ({first}: {why[0][1]})"
            )
        made = fit_space(np.concatenate(parts), self.seed)
        things = np.array([made.things.start, made.things.stop])
        return {"mean": made.mean, "axes": made.axes, "things": things}

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
            "cell": np.array(grid.cell), "origin": np.array(grid.origin, float),
        }  # fmt: skip


def strided(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly over them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
