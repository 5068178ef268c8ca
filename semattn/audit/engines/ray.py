"""Engine of a Ray cluster, by Ray Data: CPU tasks read the images, a pool of actors computes.

A unit is a row. Ray repeats the rows of machines and processes that die. The result of a unit does
not depend on the attempt, so that repeated rows are harmless. Results go to the driver, which
writes them, so that no other machine needs access to the folder of the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ...attention.model_call import model_device
from ...data.loading import ImageLoader, LoadedBatch
from ...data.prefetching import BatchDataset, load_batches
from ...data.sources import Source
from ...utils.ray_session import EngineError, check_engine, enter_folder, import_ray, ray_session
from ...utils.remote_path import fetch
from ..batch_size import Unit
from ..unit_computer import UnitComputer, UnitTask
from ..unit_store import UnitResult
from . import engines
from .attempts import Attempts, attempt, start_attempts

Result = TypeVar("Result")

READING_CPUS = 1.0
MAX_BLOCKS = 4096  # rows of more units share tasks, because the driver keeps a record of each task
TRIES = 3  # processes that a unit may end before it is left out
INIT_DEATHS = 20  # actors that may die in a row before they are ready
MAX_BYTES = 2**31 - 1  # of the images of a unit: a cell of an Arrow table is not larger
LEFT_OUT = (
    f"unit: expected images that can be computed, got {{unit}}, which ended its process {TRIES} "
    "times — the same command tries it again"
)


@engines.register("ray")
class RayEngine:
    """Engine of a Ray cluster, whose machines read the images by their paths.

    Parameters
    ----------
    model : a vision transformer. It is put into the object store once and loaded once per actor
    workers : greatest number of reading tasks at a time; None for no limit
    address : of the cluster, see `semattn.utils.ray_session.ray_session`
    actors : number of copies of the model, or the least and the greatest number; None for 1 up to
        what the cluster can hold
    gpus : GPUs of each copy; None for 1 if the cluster has GPUs, else 0
    """

    seconds_between_saves = 10.0  # one process saves the sums of all actors

    def __init__(
        self, model: nn.Module, *, workers: int | None = None, address: str | None = None,
        actors: int | tuple[int, int] | None = None, gpus: float | None = None,
    ) -> None:  # fmt: skip
        check_engine("ray", address)
        bounds = (actors, actors) if isinstance(actors, int) else actors
        if bounds is not None and not 1 <= bounds[0] <= bounds[1]:
            raise ValueError(f"actors: expected at least 1, in order, got {actors} — give 1 or 1-8")
        if workers is not None and workers < 1:
            raise ValueError(f"workers: expected at least 1 with Ray, got {workers} — leave it out")
        self.model_device, self.threads = model_device(model), torch.get_num_threads()
        self.workers, self.address, self.bounds, self.gpus = workers, address, bounds, gpus

    def __enter__(self) -> RayEngine:
        with ExitStack() as stack:
            self.ray = stack.enter_context(ray_session(self.address))
            self._plan(self.ray.cluster_resources())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop Ray if `__enter__` started it; raise its errors in one line."""
        self._stack.__exit__(*error)

    def _plan(self, resources: dict[str, float]) -> None:
        """Choose the device, the number of actors and their CPUs."""
        cpus, gpus = max(1.0, resources.get("CPU", 1.0)), resources.get("GPU", 0.0)
        if self.gpus is None:
            self.gpus = 1.0 if gpus else 0.0
        if self.model_device.type != "cpu" and not self.gpus:
            raise EngineError(
                f"model: expected a model on the CPU, got one on {self.model_device} and a cluster "
                "without GPUs — move it with model.to('cpu')"
            )
        self.device = torch.device("cuda" if self.gpus else "cpu")
        self.reading_cpus = min(READING_CPUS, cpus / 2)
        spare = cpus - self.reading_cpus
        most = int(gpus / self.gpus) if self.gpus else int(spare / self.threads)
        self.actors = self.bounds or (1, max(1, most))
        # Copies that need more CPUs than there are would wait forever.
        share = min(float(self.threads), spare / self.actors[0])
        self.actor_cpus = None if self.gpus else (int(share) if share >= 1 else round(share, 3))

    def call(self, computer: UnitComputer, function: Callable[[UnitComputer], Result]) -> Result:
        """Return the result of a function, called once by a task with the resources of an actor."""
        task = self.ray.remote(num_cpus=self.actor_cpus, num_gpus=self.gpus)(_call)
        arguments = (self._put(computer), str(self.device), self.threads, function)
        result: Result = self.ray.get(task.remote(*arguments))
        return result

    def run(
        self, computer: UnitComputer, source: Source, units: Sequence[Unit],
        report: Callable[[int], None],
    ) -> Generator[UnitResult, None, None]:  # fmt: skip
        """Compute the units and yield their results as they arrive."""
        attempts = start_attempts(self.ray)
        tasks = (UnitTask.of(unit, source) for unit in units)
        start = (self._put(computer), str(self.device), self.threads, attempts)
        read = partial(_read, computer.image_loader, attempts)
        for result in self.stream(tasks, read, UnitActor, start):
            yield result  # it is stored when this generator continues
            report(result.unit.stop - result.unit.first)

    def stream(
        self, tasks: Iterable[Any], read: Callable[[Any], Any], actor: type, start: tuple[Any, ...]
    ) -> Iterator[Any]:
        """Yield ``actor(*start)(task, read(task))`` of all tasks, in any order.

        The driver holds the tasks, and the results that were not yielded yet.
        """
        rows = [{"task": self.ray.cloudpickle.dumps(task)} for task in tasks]
        if not rows:
            return
        blocks = min(len(rows), MAX_BLOCKS)
        with self._context():
            data = self.ray.data.from_items(rows, override_num_blocks=blocks)
            del rows
            computed = data.map(
                # max_calls, of tasks only, keeps Ray from reading inside the actors.
                partial(_read_row, Path.cwd(), read), num_cpus=self.reading_cpus,
                concurrency=self.workers, max_calls=0,
            ).map(
                _RowActor, fn_constructor_args=(Path.cwd(), actor, start), num_cpus=self.actor_cpus,
                num_gpus=self.gpus or None,
                compute=self.ray.data.ActorPoolStrategy(
                    min_size=self.actors[0], max_size=self.actors[1]
                ),
            )  # fmt: skip
            # Without prefetching, so that a result is yielded, and stored, when it arrives.
            for table in computed.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for content in table.column("result"):
                    result = self.ray.cloudpickle.loads(content.as_py())
                    if isinstance(result, BaseException):
                        raise result
                    yield result

    @contextmanager
    def _context(self) -> Iterator[None]:
        """Set the options of Ray Data for this driver."""
        context_class = self.ray.data.DataContext
        previous = context_class.get_current()
        context = previous.copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_consecutive_actor_init_deaths = INIT_DEATHS
        context.execution_no_progress_timeout_s = -1  # a cluster may need long to grow
        context_class._set_current(context)
        try:
            yield
        finally:
            context_class._set_current(previous)

    def _put(self, computer: UnitComputer) -> list[Any]:
        """Return a list with the reference to a computer, which is put into the object store."""
        cloudpickle = self.ray.cloudpickle
        for part in computer.model.modules():
            module = type(part).__module__
            if PathFinder.find_spec(module.partition(".")[0]) is None and module in sys.modules:
                cloudpickle.register_pickle_by_value(sys.modules[module])  # a model of PATH.py
        try:
            content = cloudpickle.dumps(computer)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise EngineError(
                "model: expected a model that can be sent to other processes, got "
                f"{type(computer.model).__name__} ({type(error).__name__}: {reason}) — define its "
                "class in a module, without open files, locks and handles"
            ) from error
        return [self.ray.put(content)]


def _load(references: list[Any], device: str, threads: int) -> UnitComputer:
    """Return a computer of the object store, with its model on a device."""
    ray = import_ray()
    torch.set_num_threads(threads)
    content = ray.get(references[0])
    try:
        computer: UnitComputer = ray.cloudpickle.loads(content)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"model: expected one that the machines of the cluster can load, got {reason} — "
            "install the packages of the model on all of them"
        ) from error
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            "gpus: expected a worker whose PyTorch uses its GPU, got one without CUDA — install "
            "PyTorch with CUDA on the machines with GPUs, or choose no GPUs"
        )
    computer.model.to(device)
    return computer


def _call(references: list[Any], device: str, threads: int, function: Any) -> Any:
    return function(_load(references, device, threads))


# --- rows of Ray Data: bytes, because Arrow has no other type for objects


def _read_row(folder: Path, read: Callable[[Any], Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a task with what was read for it, or with the error."""
    enter_folder(folder)
    cloudpickle = import_ray().cloudpickle
    content = _result_or_error(lambda: read(cloudpickle.loads(row["task"])))
    return {"task": row["task"], "content": content}


class _RowActor:
    """Actor that turns the row of a task into the row of its result."""

    def __init__(self, folder: Path, actor: type, start: tuple[Any, ...]) -> None:
        enter_folder(folder)
        self.loads = import_ray().cloudpickle.loads
        self.start: Callable[[], Any] | None = lambda: actor(*start)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": _result_or_error(lambda: self._compute(row))}

    def _compute(self, row: dict[str, Any]) -> Any:
        if self.start is not None:  # here, because an error of the constructor ends the actor
            self.actor, self.start = self.start(), None
        content = self.loads(row["content"])
        if isinstance(content, BaseException):
            raise content
        return self.actor(self.loads(row["task"]), content)


def _result_or_error(call: Callable[[], Any]) -> bytes:
    """Return the pickled result of a call, or the error that it raised."""
    cloudpickle = import_ray().cloudpickle
    try:
        return bytes(cloudpickle.dumps(call()))
    except Exception as error:  # noqa: BLE001 — the driver raises it
        try:
            return bytes(cloudpickle.dumps(error))
        except Exception:  # noqa: BLE001 — an error may hold anything
            return bytes(cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")))


# --- the two stages of a unit


def _read(image_loader: ImageLoader, attempts: Attempts, task: UnitTask) -> list[bytes] | None:
    """Return the pickled batches of a unit; None if the unit is to be left out.

    Once a process has died here, each batch is read by a process of its own, which names the image
    that ends it.
    """
    image_loader.names = task.names
    died = attempts.count("read", task.unit.number)
    if died >= TRIES or attempts.count("compute", task.unit.number) >= TRIES:
        return None
    with attempt(attempts, "read", task.unit.number):
        dataset = BatchDataset(image_loader, task.sources, 1, task.labels)
        if died:
            batches = load_batches(image_loader, task.sources, task.unit.batches, 1, task.labels)
            contents = [dataset.to_bytes(loaded) for loaded in batches]
        else:
            contents = [dataset[batch] for batch in task.unit.batches]
    if sum(map(len, contents)) > MAX_BYTES:
        raise ValueError(
            f"batch_size: expected units of at most 2 GiB of pixels with Ray, got {task.unit.size} "
            "images per batch — choose a smaller batch size"
        )
    return contents


class UnitActor:
    """Actor that computes units with its copy of the model."""

    def __init__(
        self, references: list[Any], device: str, threads: int, attempts: Attempts
    ) -> None:
        self.computer, self.attempts = _load(references, device, threads), attempts

    def __call__(self, task: UnitTask, contents: list[bytes] | None) -> UnitResult:
        """Return the result of a unit."""
        if contents is None or self.attempts.count("compute", task.unit.number) >= TRIES:
            image_loader = self.computer.image_loader
            image_loader.names = task.names
            dataset = BatchDataset(image_loader, task.sources, 1, task.labels)
            identities = [
                line for batch in task.unit.batches
                for line in dataset.identities(batch, fetch(
                    [task.sources[number] for number in range(batch.first, batch.stop)]
                ))
            ]  # fmt: skip
            reason = LEFT_OUT.format(unit=f"unit {task.unit.number}")
            return self.computer.leave_out(task, identities, reason)
        with attempt(self.attempts, "compute", task.unit.number):
            return self.computer.compute(task, map(_batch_from_bytes, contents))


def _batch_from_bytes(content: bytes) -> LoadedBatch:
    batch: LoadedBatch = import_ray().cloudpickle.loads(content)
    return batch
