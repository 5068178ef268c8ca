"""Reading of batches by worker processes, some of which may crash.

The workers belong to a PyTorch `DataLoader`. In the main thread, PyTorch would install a signal
handler that raises an exception as soon as a worker dies, even while the model runs. The loader
therefore runs in a separate thread. If a worker dies, its batch is read again, image by image.
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
from ..utils.input_identity import identity_of
from ..utils.processes import spare_cores
from ..utils.remote_path import fetch
from .loading import ImageLoader, LoadedBatch, Skipped

AHEAD = 2  # batches that are read ahead
MOST_WORKERS = 16
TRIES = 3  # a worker may also be killed for lack of memory
GRACE = 15.0  # seconds; torch notices a dead worker within 5
KILLED = "image: expected a readable picture, got one that crashes the reader — remove it"
_DIED = "DataLoader worker"  # start of torch's error for a dead worker


@dataclass(frozen=True)
class BatchRange:
    """Range of images that are read together: `first` to `stop`, excluded."""

    first: int
    stop: int


class BatchDataset(Dataset):
    """Batches of a data set, prepared for the model, with their keypoints.

    Parameters
    ----------
    image_loader : loader of the images
    sources : the pictures
    threads : threads that detect keypoints in a batch; None for one per core
    labels : labels of the pictures, which are part of their identities; None for no identities
    """

    def __init__(
        self, image_loader: ImageLoader, sources: Sequence[Any], threads: int | None,
        labels: Sequence[int | None] | None = None,
    ) -> None:  # fmt: skip
        self.image_loader, self.sources, self.threads = image_loader, sources, threads
        self.labels = labels

    def load(self, batch: BatchRange) -> LoadedBatch:
        """Return the images of a batch."""
        numbers = range(batch.first, batch.stop)
        pictures = fetch([self.sources[i] for i in numbers])
        # Computed before reading, so that a picture that is edited meanwhile counts as changed.
        identities = self.identities(batch, pictures)
        loaded = self.image_loader.load(batch.first, pictures, threads=self.threads)
        source_of = {
            self.image_loader.name(i, picture): picture
            for i, picture in zip(numbers, pictures, strict=True)
        }
        skipped = [
            skipped_image._replace(
                reason=relative_reason(
                    skipped_image.reason, source_of[skipped_image.name], skipped_image.name
                )
            )
            for skipped_image in loaded.skipped
        ]
        return replace(loaded, skipped=skipped, identities=identities)

    def identities(self, batch: BatchRange, pictures: Sequence[Any]) -> tuple[str, ...]:
        """Return a line of `semattn.utils.input_identity` for each image of a batch."""
        if self.labels is None:
            return ()
        return tuple(
            identity_of(picture, self.image_loader.name(i, picture), self.labels[i])
            for i, picture in enumerate(pictures, batch.first)
        )

    def __getitem__(self, batch: BatchRange) -> bytes:
        # Bytes go through a pipe; tensors would use shared memory, and torch silently loses a batch
        # if that is full.
        return self.to_bytes(self.load(batch))

    def to_bytes(self, loaded: LoadedBatch) -> bytes:
        """Return a batch as bytes for `pickle.loads` in another process of this run."""
        buffer = io.BytesIO()
        _Sender(buffer, self.image_loader.preprocessing).dump(loaded)
        return buffer.getvalue()


class _Sender(pickle.Pickler):
    """Pickler of a batch that sends pictures as pixels, a quarter of the size of model inputs."""

    def __init__(self, stream: io.BytesIO, preprocessing: Preprocessing) -> None:
        super().__init__(stream, protocol=5)
        self.preprocessing = preprocessing

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Images):
            return _rebuild_images, (self.preprocessing, value.pixels, value.names)
        if type(value) is Tensor:  # torch's reducer takes a millisecond per tensor
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _rebuild_images(
    preprocessing: Preprocessing, pixels: np.ndarray, names: tuple[str, ...]
) -> Images:
    """Return the images as `prepare` returns them."""
    return Images(
        preprocessing.inputs(pixels), pixels, names, batched=True, prepared=True,
        preprocessing=preprocessing,
    )  # fmt: skip


def load_batches(
    image_loader: ImageLoader, sources: Sequence[Any], batches: Sequence[BatchRange], workers: int,
    labels: Sequence[int | None] | None = None,
) -> Generator[LoadedBatch, None, None]:  # fmt: skip
    """Yield every batch, in order, read ahead by `workers` processes; 0 reads in this process.

    A picture that crashes a worker is skipped, and reading continues.
    """
    if not workers:
        dataset = BatchDataset(image_loader, sources, None, labels)
        yield from (dataset.load(batch) for batch in batches)
        return
    dataset = BatchDataset(image_loader, sources, 1, labels)
    done = 0
    while done < len(batches):
        with _ThreadedLoader(partial(_loader, dataset, batches[done:], workers)) as received:
            try:
                for loaded in received:
                    done += 1
                    yield loaded
            except RuntimeError as error:
                if not str(error).startswith(_DIED):
                    raise
                yield _read_separately(dataset, batches[done])
                done += 1


def default_workers(model: nn.Module) -> int:
    """Return the number of reading processes: as many as the model leaves cores for."""
    return min(MOST_WORKERS, spare_cores(model))


def _loader(
    data: BatchDataset, batches: Sequence[BatchRange], workers: int
) -> Iterator[LoadedBatch]:
    """Return the batches that workers send."""
    loader = DataLoader(
        data, batch_size=None, sampler=list(batches), num_workers=min(workers, len(batches))
    )  # fmt: skip
    return map(pickle.loads, loader)  # written by our own workers


def _read_separately(data: BatchDataset, batch: BatchRange) -> LoadedBatch:
    """Read a batch whose reading killed a worker again, each image in its own worker."""
    return LoadedBatch.joined(
        [_read_image(data, number) for number in range(batch.first, batch.stop)]
    )


def _read_image(data: BatchDataset, number: int) -> LoadedBatch:
    """Read one image; it is skipped if every worker that reads it dies."""
    for _ in range(TRIES):
        with _ThreadedLoader(
            partial(_loader, data, [BatchRange(number, number + 1)], 1)
        ) as received:
            try:
                return next(iter(received))
            except RuntimeError as error:
                if not str(error).startswith(_DIED):
                    raise
    skipped = [Skipped(data.image_loader.name(number, data.sources[number]), KILLED)]
    batch = BatchRange(number, number + 1)
    return LoadedBatch(None, [], skipped, 1, (), data.identities(batch, [data.sources[number]]))


class _ThreadedLoader:
    """Loader that runs in a thread, a few batches ahead; its exceptions are raised by the consumer.

    A worker that is killed while it writes leaves half a message, and torch waits forever for the
    rest. The consumer therefore watches the workers too, and abandons the thread.
    """

    def __init__(self, start: Callable[[], Iterator[LoadedBatch]]) -> None:
        self.waiting: queue.Queue[Any] = queue.Queue(AHEAD)
        self.over = threading.Event()
        self.workers: list[multiprocessing.process.BaseProcess] = []
        self.thread = threading.Thread(
            target=self._run, args=(start,), name="semattn-loading", daemon=True
        )

    def __enter__(self) -> Iterator[LoadedBatch]:
        self.thread.start()
        return self._coming()

    def __exit__(self, *error: object) -> None:
        self.over.set()
        deadline = time.monotonic() + GRACE
        while self.thread.is_alive() and time.monotonic() < deadline:
            try:
                self.waiting.get(timeout=0.05)
            except queue.Empty:
                continue
        for worker in self.workers:
            worker.kill()

    def _coming(self) -> Iterator[LoadedBatch]:
        while True:
            kind, value = self._next()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    def _next(self) -> Any:
        """Return the next message; an error if a worker died and no message arrives."""
        ended_at = None
        while True:
            try:
                return self.waiting.get(timeout=0.5)
            except queue.Empty:
                if any(worker.exitcode for worker in self.workers):
                    ended_at = ended_at or time.monotonic()
                    if time.monotonic() - ended_at > GRACE:
                        return "error", RuntimeError(f"{_DIED} is gone")

    def _run(self, start: Callable[[], Iterator[LoadedBatch]]) -> None:
        try:
            before = set(multiprocessing.active_children())
            received = start()
            children = multiprocessing.active_children()
            self.workers = [process for process in children if process not in before]
            for loaded in received:
                self._put(("batch", loaded))
                if self.over.is_set():
                    return
            self._put(("end", None))
        except BaseException as error:  # noqa: BLE001 — the consumer raises it
            self._put(("error", error))

    def _put(self, message: Any) -> None:
        while not self.over.is_set():
            try:
                self.waiting.put(message, timeout=0.05)
                return
            except queue.Full:
                continue
