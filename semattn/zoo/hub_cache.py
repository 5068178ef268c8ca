"""Models in the cache of the Hugging Face hub, and calls of hub clients without output.

A model that is in the cache is loaded from there as a folder: no request is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors",
    "pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
)  # fmt: skip
CONFIGS = ("config.json", "open_clip_config.json")


def cached_folder(repository: str) -> Path | None:
    """Return the folder in the cache with config and weights of a repository; None without."""
    try:
        from huggingface_hub import try_to_load_from_cache

        folders = [
            {Path(file).parent for name in names if isinstance(
                file := try_to_load_from_cache(repository, name), str)}
            for names in (CONFIGS, WEIGHTS)
        ]  # fmt: skip
    except (ImportError, ValueError):  # ValueError for a text that is not the name of a repository
        return None
    return next(iter(folders[0] & folders[1]), None)


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Limit loggers to errors until the ``with`` ends."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error of another library, at most 160 characters."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(". ")[0][:160]


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars for file access in this context."""
    from transformers.utils import logging as transformers_logging

    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()
