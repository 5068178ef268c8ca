"""Words: centres of descriptor clusters, the discrete form of descriptor targets."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semattn.errors import SemattnError, ShapeError
from semattn.utils.atomic_files import DAMAGE, read_about, read_arrays, write_arrays
from semattn.utils.validation import check_number, check_values

from .descriptor_targets import descriptor_targets

FORMAT = "semattn words 1"
CHUNK = 64  # images whose descriptors are computed at once


@dataclass(frozen=True, eq=False)
class DescriptorWords:
    """Words of descriptors, which `fit_words` returns.

    Parameters
    ----------
    centres : (K, D) float32, the centre of each word, on the CPU
    target, patch_size, window : of the descriptors, as for `descriptor_targets`
    """

    centres: Tensor
    target: str = "sift"
    patch_size: int = 16
    window: float = 16.0

    def __len__(self) -> int:
        """Return K, the number of words, which is the number of scores of a head."""
        return len(self.centres)

    def targets(self, images: Tensor) -> Tensor:
        """Return the words (B, P) int64 of the patches of images (B, 3, H, W)."""
        return self.assign(
            descriptor_targets(images, self.target, patch_size=self.patch_size, window=self.window)
        )

    @torch.no_grad()
    def assign(self, descriptors: Tensor) -> Tensor:
        """Return the nearest word (B, P) int64 of descriptors (B, P, D), by Euclidean distance.

        Raises
        ------
        ShapeError
            For descriptors of another length.
        """
        check_values("descriptors", descriptors)
        if descriptors.ndim != 3 or descriptors.shape[-1] != self.centres.shape[1]:
            raise ShapeError(
                f"descriptors: expected (B, P, {self.centres.shape[1]}), got "
                f"{tuple(descriptors.shape)} — compute them with the target {self.target!r} and "
                f"patch_size {self.patch_size}"
            )
        with torch.autocast(descriptors.device.type, enabled=False):
            centres = self.centres.to(descriptors.device, non_blocking=True)
            # |x - c|^2 without |x|^2, which is the same for all words.
            distance = centres.square().sum(1) - 2 * (descriptors.float() @ centres.T)
            return distance.argmin(-1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the words to `path` (npz), atomically; an existing file is replaced."""
        about = {
            "format": FORMAT, "target": self.target, "patch_size": self.patch_size,
            "window": self.window,
        }  # fmt: skip
        path = Path(path)
        text = json.dumps(about, allow_nan=False)
        write_arrays(path, {"centres": self.centres.numpy()}, text)
        return path


def load_words(path: str | os.PathLike[str]) -> DescriptorWords:
    """Read a file that `DescriptorWords.save` wrote; nothing is unpickled.

    Raises
    ------
    SemattnError
        For a file that is missing, damaged, or does not contain words.
    """
    path = Path(path)
    try:
        arrays = read_arrays(path)
        about = read_about(arrays)
        centres = arrays["centres"]
        if about.pop("format") != FORMAT or centres.ndim != 2 or centres.dtype != np.float32:
            raise ValueError("another format")
        check_number("patch_size", about["patch_size"], minimum=1, integer=True)
        check_number("window", about["window"], minimum=1)
        return DescriptorWords(torch.from_numpy(centres), **about)
    except FileNotFoundError:
        raise SemattnError(f"path: expected words, got {path}, which does not exist") from None
    except DAMAGE as error:
        raise SemattnError(
            f"path: expected a file written by DescriptorWords.save, got {path} "
            f"({' '.join(str(error).split())}) — it is damaged or of another kind"
        ) from error


def fit_words(
    images: Tensor,
    count: int = 512,
    target: str = "sift",
    *,
    patch_size: int = 16,
    window: float = 16.0,
    seed: int = 0,
) -> DescriptorWords:
    """Fit words to the descriptors of a sample of images, by k-means (scikit-learn).

    Parameters
    ----------
    images : (B, 3, H, W), as for `descriptor_targets`; fit once, before the training
    count : K, the number of words; the images have at least as many patches
    target, patch_size, window : as for `descriptor_targets`
    seed : seed of the clusters

    Raises
    ------
    ValueError
        For fewer patches than words.

    Examples
    --------
    >>> images = torch.rand(4, 3, 64, 64)
    >>> words = fit_words(images, count=8)
    >>> words.targets(images).shape, len(words)
    (torch.Size([4, 16]), 8)
    """
    from sklearn.cluster import MiniBatchKMeans

    check_number("count", count, minimum=2, integer=True)
    check_values("images", images)
    options: dict[str, Any] = {"patch_size": patch_size, "window": float(window)}
    chunks = [descriptor_targets(chunk, target, **options).cpu() for chunk in images.split(CHUNK)]
    rows = torch.cat(chunks).flatten(0, 1).float().numpy()
    if len(rows) < count:
        raise ValueError(
            f"images: expected at least {count} patches for {count} words, got {len(rows)} — give "
            "more images or a smaller count"
        )
    clusters = MiniBatchKMeans(count, n_init=3, random_state=seed).fit(rows)
    centres = np.ascontiguousarray(clusters.cluster_centers_, dtype=np.float32)
    return DescriptorWords(torch.from_numpy(centres), target, **options)
