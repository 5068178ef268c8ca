"""What a model is shown: batch by batch, what is known of each lies on the shelf.

A kept batch is used where its images are as they were, and the space that its values are in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import SemattnError, relative_reason
from ..identity import all_unchanged, combined, from_array, identity_of, to_array
from ..redone import Redone
from ..shelf import Shelf
from .data import Labelled
from .looking import Looker
from .space import Space, fit_space

SAMPLED = 64  # images that the space is made of
PREFIX = "look-"  # of the arrays of a batch
PATCHES = ("shape", "cell", "origin")  # of the grid
STATE = ("identities", "space")  # which images a batch is of, and which space its values are in
ABOUT = ("sources", "labels", "right", "skipped", "reasons", *STATE, *PATCHES)  # small, of a batch

Progress = Callable[[str, int, int], None]


class Views:
    """Batches of images, each looked at once, by whichever process needs it first.

    Parameters
    ----------
    looker, data, shelf : who looks, at what, and where it is kept
    names : of the images, relative to the data set
    size : images in the model at once
    seed : of the space
    said : told of the progress

    Raises
    ------
    SemattnError
        Where no image can be read, and for labels that the model has not.
    """

    def __init__(
        self, looker: Looker, data: Labelled, shelf: Shelf, names: Sequence[str], size: int,
        seed: int, said: Progress,
    ) -> None:  # fmt: skip
        self.looker, self.data, self.shelf, self.size = looker, data, shelf, size
        self.names, self.seed, self.said = names, seed, said
        self.redone = Redone(("batch", "batches"), len(shelf.numbered(PREFIX)))
        self._current: set[int] = set()  # batches that were compared with the images
        self._dropped: set[int] = set()

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """What is known of a batch; it is looked at where that was not done yet."""
        kept = self.shelf.arrays(self._name(number)) if self._is_current(number) else None
        if kept is None:
            kept = self._look(self._of(number))
            self.shelf.keep_arrays(self._name(number), kept)
            self._current.add(number)
            self.redone.again(from_array(kept["identities"]))
        return kept

    def about(self, number: int) -> dict[str, np.ndarray]:
        """The same without what is known of patches, which is nearly all of it."""
        current = self._is_current(number)
        kept = self.shelf.arrays(self._name(number), ABOUT) if current else None
        return self[number] if kept is None else kept

    def missing(self) -> list[int]:
        """The batches that nobody has looked at yet, as the images are now."""
        return [one for one in range(len(self)) if not self._is_current(one)]

    def drop_beyond(self) -> None:
        """Remove batches of images that are no more."""
        for number, name in self.shelf.numbered(PREFIX).items():
            if number >= len(self):
                self._drop(name)

    def _is_current(self, number: int) -> bool:
        """Return whether a batch is kept and of the images as they are now; compare it once."""
        if number in self._current:
            return True
        name = self._name(number)
        kept = self.shelf.arrays(name, STATE)
        if kept is None:
            return False
        lines = from_array(kept.get("identities"))
        if str(kept.get("space")) == self.space_digest and self._are_current(
            lines, self._of(number)
        ):
            self._current.add(number)
            return True
        if number not in self._dropped:  # another process may look at it just now
            self._dropped.add(number)
            self.redone.drop(lines)
        return False

    def _drop(self, name: str) -> None:
        self.redone.drop(from_array((self.shelf.arrays(name, STATE) or {}).get("identities")))
        self.shelf.remove(name)

    def _are_current(self, lines: Sequence[str], numbers: Sequence[int]) -> bool:
        if len(lines) != len(numbers):
            return False
        pairs = [self.data[int(i)] for i in numbers]
        sources, labels = [one[0] for one in pairs], [one[1] for one in pairs]
        return all_unchanged(lines, sources, [self.names[int(i)] for i in numbers], labels)

    def _identities(self, numbers: Sequence[int]) -> list[str]:
        lines = []
        for i in numbers:
            source, label = self.data[int(i)]
            lines.append(identity_of(source, self.names[int(i)], label))
        return lines

    def look(self, process: tuple[int, int]) -> int:
        """Look at what is missing of a process's part; how many images that were."""
        place, count = process
        mine = [one for one in range(place, len(self), count) if not self._is_current(one)]
        total, done = sum(len(self._of(one)) for one in mine), 0
        for number in mine:
            self.about(number)
            done += len(self._of(number))
            self.said("looking", done, total)
        return total

    @cached_property
    def space(self) -> Space:
        """Of the patches; the same for all processes."""
        kept = self._space
        return Space(kept["mean"], kept["axes"], slice(*kept["things"].tolist()))

    @cached_property
    def space_digest(self) -> str:
        """Digest of the images that the space is made of."""
        return combined(from_array(self._space["identities"]))

    @cached_property
    def _space(self) -> dict[str, np.ndarray]:
        kept = self.shelf.arrays("space")
        if kept is None or not self._are_current(
            from_array(kept.get("identities")), self._sample
        ):  # fmt: skip
            self.shelf.keep_arrays("space", self._sampled())
            kept = self.shelf.arrays("space")
            assert kept is not None
        return kept

    @property
    def _sample(self) -> list[int]:
        """The images that the space is made of, evenly over all."""
        chosen: list[int] = strided(np.arange(len(self.data)), SAMPLED).tolist()
        return chosen

    def _of(self, number: int) -> range:
        """The images of a batch."""
        start = number * self.size
        return range(start, min(start + self.size, len(self.data)))

    @staticmethod
    def _name(number: int) -> str:
        return f"{PREFIX}{number:06d}"

    def _sampled(self) -> dict[str, np.ndarray]:
        """The space, of images evenly over all."""
        parts = []
        wanted = self._sample
        identities = self._identities(wanted)  # before the pictures are read
        for start in range(0, len(wanted), self.size):
            sources = [self.data[i][0] for i in wanted[start : start + self.size]]
            _, images, why = self.looker.read(sources)
            if images is not None:
                parts.append(self.looker.look(images).features.flatten(0, 1).numpy())
            self.said("sampling", min(start + self.size, len(wanted)), len(wanted))
        if not parts:
            first = self.data.source_name(wanted[start + why[0][0]])
            raise SemattnError(
                "dataset: expected images that can be read, got none among "
                f"{len(wanted)} ({first}: {why[0][1]})"
            )
        made = fit_space(np.concatenate(parts), self.seed)
        things = np.array([made.things.start, made.things.stop])
        lines = to_array(identities)
        return {"mean": made.mean, "axes": made.axes, "things": things, "identities": lines}

    def _look(self, every: Sequence[int]) -> dict[str, np.ndarray]:
        """What is kept of a batch."""
        pairs = [self.data[i] for i in every]
        space = self.space_digest
        lines = [
            identity_of(source, self.names[i], label)
            for i, (source, label) in zip(every, pairs, strict=True)
        ]
        good, images, why = self.looker.read([one[0] for one in pairs])
        skipped: dict[str, Any] = {
            "skipped": np.array([every[i] for i, _ in why], int),
            "reasons": np.array(
                [relative_reason(reason, pairs[i][0], self.names[every[i]]) for i, reason in why],
                dtype=str,
            ),
            "identities": to_array(lines), "space": np.array(space),
        }  # fmt: skip
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
