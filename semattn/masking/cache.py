"""`KeypointCache`: the keypoints of a data set, found once and kept on the disk.

A folder of shards, each a safetensors file with the keypoints of some thousand pictures and the
identities of those pictures, and one JSON file with the options. A shard is whole or not there, so
that a build that was stopped goes on; reading maps the files, so that workers share the memory.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import SemattnError
from semattn.files import whole, write_text
from semattn.images import read
from semattn.input_list import changes, contents, identify, lines_by_name
from semattn.keypoints import Keypoints, detect

SHARD = 1024  # pictures a file
INDEX, INPUTS = "keypoints.json", ".pictures.jsonl"
FORMAT = 2


class CacheError(SemattnError, ValueError):
    """A cache of other pictures, or one that is damaged."""


class KeypointCache:
    """The keypoints of each picture of a list, in the picture's own pixels.

    Parameters
    ----------
    folder : where `build` wrote them

    Examples
    --------
    >>> import tempfile
    >>> picture = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> picture[12:16, 44:48] = 255
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = KeypointCache.build([picture], folder)
    ...     len(cache), cache[0].xy.round().tolist()
    (1, [[46.0, 14.0]])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            self.count, self.shard = int(about["count"]), int(about["shard"])
            self.detector = str(about["detector"])
            if self.count < 0 or self.shard < 1:
                raise ValueError("a count below 0")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CacheError(
                f"cache: expected the keypoints of a data set, got {self.folder} without a whole "
                f"{INDEX} — build it again"
            ) from error
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # each process opens the files for itself

    def __getitem__(self, index: int) -> Keypoints:
        if not 0 <= index < self.count:
            raise IndexError(f"index: expected 0 to {self.count - 1}, got {index}")
        number, place = divmod(index, self.shard)
        offsets, sizes, rows = self._shard(number)
        table: Tensor = rows[offsets[place] : offsets[place + 1]]
        height, width = sizes[place]
        return Keypoints(
            xy=table[:, :2],
            response=table[:, 2],
            size=table[:, 3],
            angle=table[:, 4],
            descriptor=None,
            image_size=(height, width),
            detector=self.detector,
        )

    @property
    def seconds(self) -> float:
        """What finding all of them took, whenever that was."""
        from safetensors import safe_open

        total = 0.0
        for number in range(-(-self.count // self.shard)):
            with safe_open(self.folder / _file(number), framework="pt") as opened:
                total += float((opened.metadata() or {}).get("seconds", 0.0))
        return total

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            from safetensors import SafetensorError, safe_open

            file = self.folder / _file(number)
            try:
                # The tensors lie in the file, which is mapped: what is not asked for is not read.
                with safe_open(file, framework="pt") as opened:
                    offsets, sizes, rows = (
                        opened.get_tensor(name) for name in ("offsets", "sizes", "rows")
                    )
                if rows.ndim != 2 or rows.shape[1] != 5 or len(offsets) != len(sizes) + 1:
                    raise ValueError(f"rows {tuple(rows.shape)}, of {len(offsets)} pictures")
                self._open[number] = (offsets.tolist(), sizes.tolist(), rows)
            except (OSError, SafetensorError, ValueError) as error:
                raise CacheError(
                    f"cache: expected the whole file {file}, got {error} — delete it and build "
                    "the cache again"
                ) from error
        return self._open[number]

    @classmethod
    def build(
        cls,
        pictures: Sequence[Any],
        folder: str | os.PathLike[str],
        *,
        detector: str = "sift",
        longest: int = 512,
        workers: int | None = None,
        shard: int = SHARD,
        progress: Callable[[int, int], None] | None = None,
        identities: Sequence[str] | None = None,
        replace: bool = False,
    ) -> KeypointCache:
        """Find the keypoints of every picture, or of those that are not there yet.

        A shard is kept where the content of all its pictures is the one that it was made from,
        whatever their folder is called; else its keypoints are found again.

        Parameters
        ----------
        pictures : paths, arrays or PIL images, as `semattn.images.read` takes them
        folder : made if it is not there
        detector : a name in `semattn.detectors`
        longest : pictures whose shorter side is longer are looked at shrunk to it; what is finer
            would not be seen in a crop of half that size
        workers : threads; one a processor by default
        shard : pictures a file
        progress : told how many are done, and of how many
        identities : `semattn.input_list.identify` of the pictures, where it is at hand
        replace : give the folder to these pictures though it holds the keypoints of others

        Raises
        ------
        CacheError
            Where the folder holds the keypoints of other pictures, unless `replace`.

        Warns
        -----
        UserWarning
            Where pictures were edited in place, and their shards are made again.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        workers = workers or os.cpu_count() or 1
        lines = _identities(pictures, place, workers) if identities is None else list(identities)
        about = {
            "format": FORMAT, "count": len(pictures), "shard": shard, "detector": detector,
            "longest": longest,
        }  # fmt: skip
        kept = _check(place, about, lines, replace=replace)
        text = json.dumps(about, indent=1) + "\n"
        if not (place / INDEX).exists() or (place / INDEX).read_text(encoding="utf-8") != text:
            write_text(place / INDEX, text)
        with ThreadPoolExecutor(workers) as pool:
            for number, first in enumerate(range(0, len(pictures), shard)):
                chosen = range(first, min(first + shard, len(pictures)))
                if number not in kept:
                    start = time.perf_counter()
                    found = pool.map(lambda i: _found(pictures[i], detector, longest), chosen)
                    own = lines[chosen.start : chosen.stop]
                    spent = time.perf_counter() - start
                    _write_shard(place / _file(number), list(found), own, spent)
                if progress is not None:
                    progress(chosen.stop, len(pictures))
        return cls(place)


def _identities(pictures: Sequence[Any], folder: Path, workers: int) -> list[str]:
    """Return the lines of pictures; those that are the same as in the last call are not read."""
    file = folder / INPUTS
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    lines = identify(pictures, None, lines_by_name(text.splitlines()), workers)
    fresh = "".join(f"{line}\n" for line in lines)
    if fresh != text:
        write_text(file, fresh)
    return lines


def _check(folder: Path, about: dict[str, Any], lines: list[str], *, replace: bool) -> set[int]:
    """Return the numbers of the shards to keep; refuse a folder with those of other pictures."""
    try:
        there = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, RecursionError):
        there = None
    refusal = CacheError(
        f"cache: expected the keypoints of these {about['count']} pictures, got those of others "
        f"in {folder} — give another folder, or delete this one"
    )
    if there != about and not replace:
        raise refusal
    kept, size = set(), int(about["shard"])
    edited = 0
    for number in range(-(-len(lines) // size)):
        after = lines[number * size : (number + 1) * size]
        before = _lines_of(folder / _file(number))
        if before is None:
            continue
        differ = changes(before, after)
        alike = isinstance(there, dict) and {**there, "count": 0} == {**about, "count": 0}
        if differ is None and alike:
            kept.add(number)
        elif differ is not None and (differ.added or differ.removed) and not replace:
            raise refusal
        else:
            edited += len(after)
    if edited and not replace:
        warnings.warn(
            f"keypoints of {edited} pictures are found again: some of them were edited since they "
            f"were kept in {folder}",
            stacklevel=3,
        )
    for number in range(-(-int(about["count"]) // size), _shards(there)):
        (folder / _file(number)).unlink(missing_ok=True)
    return kept


def _shards(about: Any) -> int:
    """Return the number of shards that an index speaks of, 0 where it is damaged."""
    try:
        return -(-int(about["count"]) // int(about["shard"]))
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return 0


def _lines_of(file: Path) -> list[str] | None:
    """Return the identities of a shard's pictures; None where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            lines = json.loads((opened.metadata() or {})["pictures"])
        contents(lines)
        return [str(line) for line in lines]
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None


def _found(picture: Any, detector: str, longest: int) -> Keypoints:
    """The keypoints of one picture, in its own pixels."""
    whole = read(picture)
    factor = longest / min(whole.size)
    if factor >= 1:
        return detect(np.asarray(whole)[None], detector)[0]
    sides = round(whole.width * factor), round(whole.height * factor)
    seen = whole.resize(sides, Image.Resampling.BICUBIC)
    found = detect(np.asarray(seen)[None], detector)[0]
    stretch = torch.tensor([whole.width / seen.width, whole.height / seen.height], device="cpu")
    return Keypoints(
        xy=(found.xy + 0.5) * stretch - 0.5,
        response=found.response,
        size=found.size * float(stretch.prod().sqrt()),
        angle=found.angle,
        descriptor=None,
        image_size=(whole.height, whole.width),
        detector=found.detector,
    )


def _write_shard(file: Path, found: list[Keypoints], lines: list[str], seconds: float) -> None:
    from safetensors.torch import save

    rows = [
        torch.cat([one.xy, one.response[:, None], one.size[:, None], one.angle[:, None]], dim=1)
        for one in found
    ]
    counts = torch.tensor([0, *map(len, rows)], device="cpu")
    content = save(
        {
            "rows": torch.cat(rows).contiguous(),
            "offsets": counts.cumsum(0),
            "sizes": torch.tensor([one.image_size for one in found], device="cpu"),
        },
        metadata={"seconds": f"{seconds:.3f}", "pictures": json.dumps(lines)},
    )
    with whole(file) as stream:
        stream.write(content)


def _file(number: int) -> str:
    return f"keypoints-{number:05}.safetensors"
