"""Attempts of a Ray cluster at the units of an audit, counted to find units that end processes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...utils.ray_session import import_ray


class Attempts:
    """Number of attempts at each stage of a unit that have begun and not ended.

    An attempt ends with an error or without one, but not if its process dies. So the number is that
    of the processes that died, as long as no attempt at the unit is running.
    """

    def __init__(self) -> None:
        self.open: Counter[tuple[str, int]] = Counter()

    def begin(self, stage: str, number: int) -> None:
        """Count an attempt at the unit with a number."""
        self.open[stage, number] += 1

    def end(self, stage: str, number: int) -> None:
        """Count the end of an attempt."""
        if self.open[stage, number] <= 1:  # 0 if this counter started after the attempt
            del self.open[stage, number]
        else:
            self.open[stage, number] -= 1

    def count(self, stage: str, number: int) -> int:
        """Return the number of open attempts."""
        return self.open[stage, number]


class RemoteAttempts(Attempts):
    """`Attempts` in an actor of Ray."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, stage: str, number: int) -> None:
        """Count an attempt, before it may end this process."""
        import_ray().get(self.actor.begin.remote(stage, number))

    def end(self, stage: str, number: int) -> None:
        """Count the end of an attempt."""
        import_ray().get(self.actor.end.remote(stage, number))

    def count(self, stage: str, number: int) -> int:
        """Return the number of open attempts."""
        return int(import_ray().get(self.actor.count.remote(stage, number)))


@contextmanager
def attempt(attempts: Attempts, stage: str, number: int) -> Iterator[None]:
    """Count an attempt that is open until the ``with`` ends."""
    attempts.begin(stage, number)
    try:
        yield
    finally:
        attempts.end(stage, number)


def start_attempts(ray: Any) -> RemoteAttempts:
    """Start the actor that counts attempts, on the machine of the driver, with which it ends.

    If its process dies, it starts again, without the earlier attempts.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(
        Attempts
    )
    # Sent as source, so that its process starts without importing semattn, which takes seconds.
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)
    try:
        return RemoteAttempts(make.remote())
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
