"""Connection to a Ray cluster, and a map over tasks of it.

Ray is optional and is imported here and in `audit.engines.ray` only, when it is used.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..errors import SemattnError
from .registry import unknown_name_message

ENGINES = ("local", "ray")
TRIES = 3  # times that a task is repeated, if its process dies
AHEAD = 4  # tasks that are submitted for each CPU
LOGGERS = ("ray", "ray.data")  # they report progress that semattn reports itself
Item = TypeVar("Item")
Result = TypeVar("Result")


class EngineError(SemattnError, RuntimeError):
    """Error of a cluster: it cannot be reached, or it cannot run the work."""


def check_engine(engine: str, address: str | None) -> None:
    """Raise ValueError for an unknown engine, or for an address that it cannot use."""
    if engine not in ENGINES:
        raise ValueError(unknown_name_message("engine", engine, ENGINES))
    if address is not None and engine != "ray":
        raise ValueError(
            f"address: expected none with the engine {engine!r}, got {address!r} — choose the "
            "engine 'ray'"
        )
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"address: expected a cluster that this machine belongs to, got {address!r} — Ray Data "
            "does not run through Ray Client: start the command on a node of the cluster, for "
            "example with ray job submit"
        )


def import_ray() -> Any:
    """Return the module `ray`.

    Raises
    ------
    SemattnError
        If it is not installed; the message names the extra.
    """
    try:
        with _silent():
            import ray
            import ray.data
    except ImportError as error:
        raise SemattnError(
            f"engine: expected Ray, got none ({error}) — pip install 'semattn[ray]'"
        ) from error
    return ray


@contextmanager
def ray_session(address: str | None = None) -> Iterator[Any]:
    """Connect to a cluster, and disconnect at the end; return the module `ray`.

    A connection that exists is used and kept. Errors of Ray are raised as `EngineError`, in one
    line.

    Parameters
    ----------
    address : of the cluster; None takes ``RAY_ADDRESS`` or a cluster of this machine, or starts
        Ray on this machine until the end of the ``with``
    """
    ray = import_ray()
    is_connected = ray.is_initialized()
    if is_connected and address is not None:
        raise ValueError(
            f"address: expected none, because Ray is connected already, got {address!r} — call "
            "ray.shutdown() first"
        )
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    handler = _termination_handler()
    try:
        with _silent(), _one_line(ray):
            if not is_connected:
                ray.init(
                    address=address, include_dashboard=False, log_to_driver=False,
                    logging_level=logging.ERROR,
                )  # fmt: skip
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield ray
    finally:
        if not is_connected:
            ray.shutdown()
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


TaskMap = Callable[..., Iterator[Any]]
"""Function that takes a function, items and shared arguments, and yields the results in order."""


@contextmanager
def task_map(engine: str, address: str | None = None) -> Iterator[TaskMap]:
    """Return the map of an engine: `local_map` or, connected to a cluster, `remote_map`."""
    if engine == "local":
        yield local_map
        return
    with ray_session(address):
        yield remote_map


def local_map(
    function: Callable[..., Result], items: Iterable[Item], shared: tuple[Any, ...] = ()
) -> Iterator[Result]:
    """Yield ``function(item, *shared)`` of all items, in order, computed in this process."""
    return (function(item, *shared) for item in items)


def remote_map(
    function: Callable[..., Result], items: Iterable[Item], shared: tuple[Any, ...] = ()
) -> Iterator[Result]:
    """Yield ``function(item, *shared)`` of all items, in order, each computed by a task of one CPU.

    Ray must be connected. Tasks of machines and processes that die are repeated. `shared` is sent
    to each machine once. Libraries use as many threads in a task as in this process, because their
    number may change the last digits.
    """
    ray = import_ray()
    references = [ray.put(value) for value in shared]
    task = ray.remote(num_cpus=1, max_retries=TRIES)(_with_threads)
    ahead = max(2, AHEAD * int(ray.cluster_resources().get("CPU", 1)))
    remaining, pending, threads = iter(items), deque[Any](), _thread_count()
    folder = Path.cwd()
    while True:
        pending += [
            task.remote(function, folder, threads, item, *references)
            for item in islice(remaining, ahead - len(pending))
        ]
        if not pending:
            return
        yield ray.get(pending.popleft())


def enter_folder(folder: Path) -> None:
    """Change to the working folder of the driver, so that relative paths are the same."""
    with suppress(OSError):  # a machine that lacks it can still use absolute paths
        os.chdir(folder)


def _with_threads(
    function: Callable[..., Result], folder: Path, threads: int, *arguments: Any
) -> Result:
    from threadpoolctl import threadpool_limits

    enter_folder(folder)
    with threadpool_limits(threads):
        return function(*arguments)


def _thread_count() -> int:
    """Return the number of threads of the libraries of this process."""
    from threadpoolctl import threadpool_info

    return max((int(library["num_threads"]) for library in threadpool_info()), default=1)


@contextmanager
def _one_line(ray: Any) -> Iterator[None]:
    """Raise errors of Ray in one line, and errors of our own tasks as they were raised."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (SemattnError, OSError, ValueError)):
            raise cause from None
        raise EngineError(_message(cause)) from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise EngineError(_message(error)) from error


def _message(error: BaseException) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return (
        f"engine: expected a Ray cluster that runs the work, got {type(error).__name__}: "
        f"{reason} — check the cluster; the same command resumes"
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Ignore warnings of Ray about its own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\b")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _termination_handler() -> Any:
    """Return the handler of SIGTERM, which Ray replaces; None outside the main thread."""
    is_main = threading.current_thread() is threading.main_thread()
    return signal.getsignal(signal.SIGTERM) if is_main else None
