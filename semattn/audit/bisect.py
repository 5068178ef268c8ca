"""Bisection of a batch that fails, down to the image that causes the failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..data.loading import LoadedBatch, Skipped
from ..errors import SemattnError

Result = TypeVar("Result")

NO_MEMORY = "out of memory with a batch of this image only"


def bisect_failures(
    call: Callable[[LoadedBatch], Result], loaded: LoadedBatch
) -> tuple[list[Result], list[Skipped]]:
    """Return the results of `call` on a batch or its parts, in order, and the images it fails on.

    Halving the batch handles both a lack of memory and an error that a single image causes.
    """
    try:
        return [call(loaded)], []
    except Exception as error:  # noqa: BLE001 — a model may raise anything
        short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        reason = NO_MEMORY if short else _one_line(error)
        del error
    if short and torch.cuda.is_available():
        torch.cuda.empty_cache()
    assert loaded.images is not None
    size = len(loaded.images.names)
    if size == 1:
        return [], [Skipped(loaded.images.names[0], reason)]
    results, failed = bisect_failures(call, loaded.part(slice(size // 2)))
    second_results = bisect_failures(call, loaded.part(slice(size // 2, None)))
    return results + second_results[0], failed + second_results[1]


def _one_line(error: Exception) -> str:
    """Return the text of an error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SemattnError) else f"{type(error).__name__}: {text}"
