"""A batch that fails is tried in halves, down to the image that is to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ..data.loading import Loaded
from ..data.skipped import Skipped
from ..errors import SemattnError

Made = TypeVar("Made")

NO_MEMORY = "out of memory with this image alone"


def attempt(call: Callable[[Loaded], Made], loaded: Loaded) -> tuple[list[Made], list[Skipped]]:
    """What `call` makes of a batch, whole or in parts, in order; and the images it fails on.

    Memory that ran out and errors that a single image causes look alike from outside: half a batch
    settles both.
    """
    try:
        return [call(loaded)], []
    except Exception as error:  # noqa: BLE001 — a model may raise anything
        short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        reason = NO_MEMORY if short else _said(error)
        del error
    if short and torch.cuda.is_available():
        torch.cuda.empty_cache()
    assert loaded.images is not None
    size = len(loaded.images.names)
    if size == 1:
        return [], [Skipped(loaded.images.names[0], reason)]
    made, failed = attempt(call, loaded.part(slice(size // 2)))
    others = attempt(call, loaded.part(slice(size // 2, None)))
    return made + others[0], failed + others[1]


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SemattnError) else f"{type(error).__name__}: {text}"
