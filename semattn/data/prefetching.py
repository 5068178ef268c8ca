"""Batches on their way to the model: by the workers of a DataLoader, one of which may die.

The loader lives in a thread of its own. There, torch has no signal handler that would raise in
the middle of the model's work when a worker dies; the batch is read again, image by image.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.process
import pickle
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import relative_reason
from ..images import Images, Preprocessing
from ..utils.cores import spare_cores
from ..utils.identity import identity_of
from .loading import Loaded, Reader
from .skipped import Skipped

AHEAD = 2  # batches that wait for the model
MOST_WORKERS = 16
TRIES = 3  # workers may be killed by others, for memory
GRACE = 15.0  # seconds: torch finds out a death within 5
KILLED = "image: expected a picture, got one that killed the process that read it — remove it"
_DIED = "DataLoader worker"  # how torch's error begins when one is gone


@dataclass(frozen=True)
class Batch:
    """Which images are read together: from `first` on, `stop` excluded."""

    first: int
    stop: int


class Batches(Dataset):
    """Batches of a data set, read as the model takes them, with their keypoints.

    Parameters
    ----------
    reader : reads
    sources : the pictures
    threads : that look for keypoints in a batch; one a processor for None
    labels : of the pictures, which are part of their identities; None identifies none
    """

    def __init__(
        self, reader: Reader, sources: Sequence[Any], threads: int | None,
        labels: Sequence[int | None] | None = None,
    ) -> None:  # fmt: skip
        self.reader, self.sources, self.threads = reader, sources, threads
        self.labels = labels

    def load(self, batch: Batch) -> Loaded:
        """The images of a batch."""
        numbers = range(batch.first, batch.stop)
        chosen = [self.sources[i] for i in numbers]
        # Before the pictures are read: a picture that is edited meanwhile differs later.
        identities = self.identities(batch)
        loaded = self.reader.load(batch.first, chosen, threads=self.threads)
        source_of = {self.reader.name(i, self.sources[i]): self.sources[i] for i in numbers}
        skipped = [
            one._replace(reason=relative_reason(one.reason, source_of[one.name], one.name))
            for one in loaded.skipped
        ]
        return replace(loaded, skipped=skipped, identities=identities)

    def identities(self, batch: Batch) -> tuple[str, ...]:
        """Return a line of `semattn.utils.identity` for each image of a batch."""
        if self.labels is None:
            return ()
        return tuple(
            identity_of(self.sources[i], self.reader.name(i, self.sources[i]), self.labels[i])
            for i in range(batch.first, batch.stop)
        )

    def __getitem__(self, batch: Batch) -> bytes:
        # As bytes, a batch goes through a pipe; tensors would go by shared memory, and where that
        # is full, torch loses the batch without a word.
        stream = io.BytesIO()
        _Sender(stream, self.reader.wanted).dump(self.load(batch))
        return stream.getvalue()


class _Sender(pickle.Pickler):
    """Pickles a batch: pictures as their pixels, a quarter of what the model takes."""

    def __init__(self, stream: io.BytesIO, wanted: Preprocessing) -> None:
        super().__init__(stream, protocol=5)
        self.wanted = wanted

    def reducer_override(self, what: Any) -> Any:
        if isinstance(what, Images):
            return _received, (self.wanted, what.pixels, what.names)
        if type(what) is Tensor:  # torch's own way takes a millisecond for each
            return torch.from_numpy, (what.numpy(),)
        return NotImplemented


def _received(wanted: Preprocessing, pixels: np.ndarray, names: tuple[str, ...]) -> Images:
    """What `prepare` made of these pictures."""
    return Images(wanted.inputs(pixels), pixels, names, batched=True, prepared=True)


def stream(
    reader: Reader, sources: Sequence[Any], batches: Sequence[Batch], workers: int,
    labels: Sequence[int | None] | None = None,
) -> Generator[Loaded, None, None]:  # fmt: skip
    """Every batch, in order, read ahead by `workers` processes; 0 reads in this one.

    A picture whose reading kills a worker is skipped, and the others go on.
    """
    if not workers:
        own = Batches(reader, sources, None, labels)
        yield from (own.load(one) for one in batches)
        return
    data = Batches(reader, sources, 1, labels)
    done = 0
    while done < len(batches):
        with _Behind(partial(_loader, data, batches[done:], workers)) as coming:
            try:
                for loaded in coming:
                    done += 1
                    yield loaded
            except RuntimeError as error:
                if not str(error).startswith(_DIED):
                    raise
                yield _alone(data, batches[done])
                done += 1


def default_workers(model: nn.Module) -> int:
    """Processes that read: as many as the model leaves cores for."""
    return min(MOST_WORKERS, spare_cores(model))


def _loader(data: Batches, batches: Sequence[Batch], workers: int) -> Iterator[Loaded]:
    """The batches, as workers send them."""
    made = DataLoader(
        data, batch_size=None, sampler=list(batches), num_workers=min(workers, len(batches))
    )  # fmt: skip
    return map(pickle.loads, made)  # what our own workers made


def _alone(data: Batches, batch: Batch) -> Loaded:
    """A batch whose reading killed a worker: each image by a worker of its own."""
    return Loaded.joined([_one(data, number) for number in range(batch.first, batch.stop)])


def _one(data: Batches, number: int) -> Loaded:
    """One image; it is to blame where every worker dies that reads it, and nothing else."""
    for _ in range(TRIES):
        with _Behind(partial(_loader, data, [Batch(number, number + 1)], 1)) as coming:
            try:
                return next(iter(coming))
            except RuntimeError as error:
                if not str(error).startswith(_DIED):
                    raise
    skipped = [Skipped(data.reader.name(number, data.sources[number]), KILLED)]
    return Loaded(None, [], skipped, 1, (), data.identities(Batch(number, number + 1)))


class _Behind:
    """A loader that is run through in a thread, a few steps ahead; what it raises comes over.

    A worker that is killed while it writes leaves half a message, for whose rest torch waits
    forever. So its death is watched for from here, too, and the waiting thread is given up.
    """

    def __init__(self, start: Callable[[], Iterator[Loaded]]) -> None:
        self.waiting: queue.Queue[Any] = queue.Queue(AHEAD)
        self.over = threading.Event()
        self.workers: list[multiprocessing.process.BaseProcess] = []
        self.thread = threading.Thread(
            target=self._run, args=(start,), name="semattn-loading", daemon=True
        )

    def __enter__(self) -> Iterator[Loaded]:
        self.thread.start()
        return self._coming()

    def __exit__(self, *error: object) -> None:
        self.over.set()
        end = time.monotonic() + GRACE
        while self.thread.is_alive() and time.monotonic() < end:
            try:
                self.waiting.get(timeout=0.05)
            except queue.Empty:
                continue
        for one in self.workers:
            one.kill()

    def _coming(self) -> Iterator[Loaded]:
        while True:
            kind, value = self._next()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    def _next(self) -> Any:
        """The next message; an error where a worker died and nothing comes any more."""
        since = None
        while True:
            try:
                return self.waiting.get(timeout=0.5)
            except queue.Empty:
                if any(one.exitcode for one in self.workers):
                    since = since or time.monotonic()
                    if time.monotonic() - since > GRACE:
                        return "error", RuntimeError(f"{_DIED} is gone")

    def _run(self, start: Callable[[], Iterator[Loaded]]) -> None:
        try:
            before = set(multiprocessing.active_children())
            coming = start()
            self.workers = [one for one in multiprocessing.active_children() if one not in before]
            for one in coming:
                self._put(("batch", one))
                if self.over.is_set():
                    return
            self._put(("end", None))
        except BaseException as error:  # noqa: BLE001 — it is raised where the batches are taken
            self._put(("error", error))

    def _put(self, what: Any) -> None:
        while not self.over.is_set():
            try:
                self.waiting.put(what, timeout=0.05)
                return
            except queue.Full:
                continue
