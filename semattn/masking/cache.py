"""`KeypointCache`: on-disk store of the keypoints of a data set.

The folder holds shards and one JSON file with the options. Each shard is a safetensors file with
the keypoints and the identities of about a thousand images. Shards are written atomically, so
that an interrupted build can be resumed. Files are memory-mapped, so that processes share memory.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semattn.errors import SemattnError
from semattn.images import read
from semattn.keypoints import Keypoints, detect
from semattn.utils.atomic_files import write_bytes, write_text
from semattn.utils.input_identity import (
    content_digests,
    find_changes,
    identify_inputs,
    stored_identities,
)

from ..utils.processes import Progress

SHARD_SIZE = 1024  # images per file
INDEX, IMAGE_LIST = "keypoints.json", ".images.jsonl"
FORMAT = 2


class CacheError(SemattnError, ValueError):
    """Error for a cache that was built from other images, or that is damaged."""


class KeypointCache:
    """Sequence of the keypoints of each picture of a list, in pixels of the original picture.

    Parameters
    ----------
    cache_dir : folder written by `build`

    Examples
    --------
    >>> import tempfile
    >>> image = np.zeros((64, 64, 3), dtype=np.uint8)
    >>> image[12:16, 44:48] = 255
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = KeypointCache.build([image], folder)
    ...     len(cache), cache[0].xy.round().tolist()
    (1, [[46.0, 14.0]])
    """

    def __init__(self, cache_dir: str | os.PathLike[str]) -> None:
        self.cache_dir = Path(cache_dir)
        try:
            index = json.loads((self.cache_dir / INDEX).read_text(encoding="utf-8"))
            self.count, self.shard_size = int(index["count"]), int(index["shard_size"])
            self.detector = str(index["detector"])
            if self.count < 0 or self.shard_size < 1:
                raise ValueError("count or shard_size out of range")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CacheError(
                f"cache: expected a keypoint cache, got {self.cache_dir} without a valid {INDEX} — "
                "build the cache again"
            ) from error
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # each process opens its own file handles

    def __getitem__(self, index: int) -> Keypoints:
        if not 0 <= index < self.count:
            raise IndexError(f"index: expected 0 to {self.count - 1}, got {index}")
        shard_number, row = divmod(index, self.shard_size)
        offsets, sizes, rows = self._read_shard(shard_number)
        values: Tensor = rows[offsets[row] : offsets[row + 1]]
        height, width = sizes[row]
        return Keypoints(
            xy=values[:, :2],
            response=values[:, 2],
            size=values[:, 3],
            angle=values[:, 4],
            descriptor=None,
            image_size=(height, width),
            detector=self.detector,
        )

    @property
    def seconds(self) -> float:
        """Total detection time in seconds, over all builds of this cache."""
        from safetensors import safe_open

        total = 0.0
        for number in range(-(-self.count // self.shard_size)):
            with safe_open(self.cache_dir / _shard_name(number), framework="pt") as opened:
                total += float((opened.metadata() or {}).get("seconds", 0.0))
        return total

    def _read_shard(self, shard_number: int) -> Any:
        if shard_number not in self._open:
            from safetensors import SafetensorError, safe_open

            path = self.cache_dir / _shard_name(shard_number)
            try:
                # The file is memory-mapped: only the rows that are accessed are read.
                with safe_open(path, framework="pt") as opened:
                    offsets, sizes, rows = (
                        opened.get_tensor(name) for name in ("offsets", "sizes", "rows")
                    )
                if rows.ndim != 2 or rows.shape[1] != 5 or len(offsets) != len(sizes) + 1:
                    raise ValueError(
                        f"rows of shape {tuple(rows.shape)} and {len(offsets)} offsets"
                    )
                self._open[shard_number] = (offsets.tolist(), sizes.tolist(), rows)
            except (OSError, SafetensorError, ValueError) as error:
                raise CacheError(
                    f"cache: expected a valid shard {path}, got {error} — delete this file and "
                    "build the cache again"
                ) from error
        return self._open[shard_number]

    @classmethod
    def build(
        cls,
        images: Sequence[Any],
        cache_dir: str | os.PathLike[str],
        *,
        detector: str = "sift",
        max_side: int = 512,
        workers: int | None = None,
        shard_size: int = SHARD_SIZE,
        progress: Progress | None = None,
        identities: Sequence[str] | None = None,
        replace: bool = False,
    ) -> KeypointCache:
        """Detect the keypoints of all images that are not in the cache yet.

        A shard is reused if the content of all its images is unchanged, even if the images
        were moved to another folder. Otherwise its keypoints are detected again.

        Parameters
        ----------
        images : paths, arrays or PIL images, as accepted by `semattn.images.read`
        cache_dir : created if it does not exist
        detector : a name in `semattn.detectors`
        max_side : images whose shorter side is longer than this are resized to it before
            detection; finer detail would not be visible in a crop of half that size
        workers : number of threads; the number of processors by default
        shard_size : images per file
        progress : called with the stage, the number of finished images and the total
        identities : result of `semattn.utils.input_identity.identify_inputs` for the images, if
            known
        replace : overwrite a folder that holds the keypoints of other images

        Raises
        ------
        CacheError
            If the folder holds the keypoints of other images and `replace` is false.

        Warns
        -----
        UserWarning
            If images were edited in place; their shards are computed again.
        """
        target_dir = Path(cache_dir)
        target_dir.mkdir(parents=True, exist_ok=True)
        workers = workers or os.cpu_count() or 1
        lines = (
            _identify_images(images, target_dir, workers)
            if identities is None
            else list(identities)
        )
        index = {
            "format": FORMAT, "count": len(images), "shard_size": shard_size, "detector": detector,
            "max_side": max_side,
        }  # fmt: skip
        valid_shards = _find_valid_shards(target_dir, index, lines, replace=replace)
        text = json.dumps(index, indent=1) + "\n"
        if (
            not (target_dir / INDEX).exists()
            or (target_dir / INDEX).read_text(encoding="utf-8") != text
        ):
            write_text(target_dir / INDEX, text)
        with ThreadPoolExecutor(workers) as pool:
            for number, begin in enumerate(range(0, len(images), shard_size)):
                indices = range(begin, min(begin + shard_size, len(images)))
                if number not in valid_shards:
                    start_time = time.perf_counter()
                    keypoints = pool.map(
                        lambda i: _detect_keypoints(images[i], detector, max_side), indices
                    )
                    shard_lines = lines[indices.start : indices.stop]
                    seconds = time.perf_counter() - start_time
                    _write_shard(
                        target_dir / _shard_name(number), list(keypoints), shard_lines, seconds
                    )
                if progress is not None:
                    progress("keypoints", indices.stop, len(images))
        return cls(target_dir)


def _identify_images(images: Sequence[Any], cache_dir: Path, workers: int) -> list[str]:
    """Return the identity lines of the images, reading only those changed since the last call."""
    path = cache_dir / IMAGE_LIST
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = identify_inputs(images, None, stored_identities(text.splitlines()), workers)
    new_text = "".join(f"{line}\n" for line in lines)
    if new_text != text:
        write_text(path, new_text)
    return lines


def _find_valid_shards(
    cache_dir: Path, index: dict[str, Any], lines: list[str], *, replace: bool
) -> set[int]:
    """Return the numbers of the reusable shards; raise if the folder belongs to other images."""
    try:
        old_index = json.loads((cache_dir / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, RecursionError):
        old_index = None
    refusal = CacheError(
        f"cache: expected the keypoints of these {index['count']} images, got those of other "
        f"images in {cache_dir} — choose another folder, or delete this one"
    )
    if old_index != index and not replace:
        raise refusal
    valid, size = set(), int(index["shard_size"])
    edited = 0
    for number in range(-(-len(lines) // size)):
        after = lines[number * size : (number + 1) * size]
        before = _read_identities(cache_dir / _shard_name(number))
        if before is None:
            continue
        difference = find_changes(before, after)
        same_options = isinstance(old_index, dict) and {**old_index, "count": 0} == {
            **index,
            "count": 0,
        }
        if difference is None and same_options:
            valid.add(number)
        elif difference is not None and (difference.added or difference.removed) and not replace:
            raise refusal
        else:
            edited += len(after)
    if edited and not replace:
        warnings.warn(
            f"keypoints of {edited} images are computed again: some of these images were "
            f"edited after the cache {cache_dir} was built",
            stacklevel=3,
        )
    for number in range(-(-int(index["count"]) // size), _count_shards(old_index)):
        (cache_dir / _shard_name(number)).unlink(missing_ok=True)
    return valid


def _count_shards(index: Any) -> int:
    """Return the number of shards of an index, 0 if the index is damaged."""
    try:
        return -(-int(index["count"]) // int(index["shard_size"]))
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return 0


def _read_identities(path: Path) -> list[str] | None:
    """Return the identities of a shard's images, or None if the shard is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            lines = json.loads((opened.metadata() or {})["images"])
        content_digests(lines)
        return [str(line) for line in lines]
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None


def _detect_keypoints(image_input: Any, detector: str, max_side: int) -> Keypoints:
    """Return the keypoints of a picture, in pixels of the original picture."""
    image = read(image_input)
    factor = max_side / min(image.size)
    if factor >= 1:
        return detect(np.asarray(image)[None], detector)[0]
    new_size = round(image.width * factor), round(image.height * factor)
    resized = image.resize(new_size, Image.Resampling.BICUBIC)
    keypoints = detect(np.asarray(resized)[None], detector)[0]
    scale = torch.tensor([image.width / resized.width, image.height / resized.height], device="cpu")
    return Keypoints(
        xy=(keypoints.xy + 0.5) * scale - 0.5,
        response=keypoints.response,
        size=keypoints.size * float(scale.prod().sqrt()),
        angle=keypoints.angle,
        descriptor=None,
        image_size=(image.height, image.width),
        detector=keypoints.detector,
    )


def _write_shard(path: Path, keypoints: list[Keypoints], lines: list[str], seconds: float) -> None:
    from safetensors.torch import save

    rows = [
        torch.cat(
            [
                image_keypoints.xy,
                image_keypoints.response[:, None],
                image_keypoints.size[:, None],
                image_keypoints.angle[:, None],
            ],
            dim=1,
        )
        for image_keypoints in keypoints
    ]
    counts = torch.tensor([0, *map(len, rows)], device="cpu")
    content = save(
        {
            "rows": torch.cat(rows).contiguous(),
            "offsets": counts.cumsum(0),
            "sizes": torch.tensor(
                [image_keypoints.image_size for image_keypoints in keypoints], device="cpu"
            ),
        },
        metadata={"seconds": f"{seconds:.3f}", "images": json.dumps(lines)},
    )
    write_bytes(path, content)


def _shard_name(number: int) -> str:
    return f"keypoints-{number:05}.safetensors"
