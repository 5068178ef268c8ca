"""Output of a command to an object store: ``--out s3://bucket/run``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from ..errors import SemattnError
from ..utils.mirror import MirroredFolder, mirrored
from ..utils.remote_path import is_url
from .json_output import Content
from .printing import folder_shown_as

P = ParamSpec("P")


def writes_to_store(
    place_of: Callable[[str | None], tuple[int, int]],
) -> Callable[[Callable[P, Content | None]], Callable[P, Content | None]]:
    """Return a decorator for a command whose ``out`` may be the address of a folder on a store.

    The command writes to a local copy of that folder, which is copied to the store.

    Parameters
    ----------
    place_of : returns the index of this process and the number of processes from ``process``
    """

    def decorate(command: Callable[P, Content | None]) -> Callable[P, Content | None]:
        @wraps(command)
        def with_store(*arguments: P.args, **options: P.kwargs) -> Content | None:
            out: Any = options.get("out")
            if out is None or not is_url(out):
                return command(*arguments, **options)
            _, count = place_of(options.get("process"))  # type: ignore[arg-type]
            if count > 1 or options.get("engine") == "ray":
                _check_search(options)
            if count > 1:
                _check_batch_size(options)
            from ..zoo.weights import cache_dir

            with (
                mirrored(out, cache_dir() / "copies", count) as mirror,
                folder_shown_as(mirror.folder, str(mirror.remote)),
            ):
                options["out"] = str(mirror.folder)
                content = command(*arguments, **options)
                if count > 1 and (content is None or content.get("waiting_units")):
                    mirror.push()
                    mirror.pull()  # with the units that other machines have finished
                    content = command(*arguments, **options)
            return None if content is None else content | {"files": _addresses(content, mirror)}

        return with_store

    return decorate


def _check_batch_size(options: dict[str, Any]) -> None:
    """Raise SemattnError unless the batch size is given, which all processes must share."""
    if options.get("batch_size") is None:
        raise SemattnError(
            "out: expected --batch-size, on which several processes that write to a store must "
            "agree, got none — give it to all of them"
        )


def _check_search(options: dict[str, Any]) -> None:
    """Raise SemattnError for a search, whose processes read each other's features from a disk."""
    if "spurious" in str(options.get("jobs")):
        raise SemattnError(
            "out: expected a shared folder for the search of several processes, got an address — "
            "leave out the job spurious, or use one process without Ray"
        )


def _addresses(content: Content, mirror: MirroredFolder) -> dict[str, str]:
    """Return the addresses of the result files on the store."""
    files: dict[str, Path] = content.get("files", {})
    return {
        name: str(mirror.remote / Path(path).relative_to(mirror.folder).as_posix())
        for name, path in files.items()
    }
