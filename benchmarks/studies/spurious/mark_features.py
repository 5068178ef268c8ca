"""Local features that the search for recurring marks is compared on.

Each method gives `LocalFeatures` of some images: RootSIFT, ORB, pixel patches at the keypoints of
SIFT, and keys of the model at the centres of its patches. The features of a set without marks are
stored; only images that get a mark are computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from semattn.attention import record
from semattn.keypoints import detect
from semattn.keypoints.local_features import (
    FINE_SIDE,
    MAX_ENLARGEMENT,
    MAX_KEYPOINTS,
    LocalFeatures,
    fine_sift,
    local_features,
)
from semattn.spurious.feature_extractor import _keys
from semattn.utils.atomic_files import atomic_write

from ..prompting.arms import normalise
from ..prompting.gain import load

ORB_BORDER = 31  # pixels that are mirrored around an image: ORB has no keypoints near its border
ORB_THRESHOLD = 20  # of FAST, as in OpenCV
PATCH_SIDE = 16  # samples of a pixel patch in each direction
PATCH_WIDTH = 6.0  # side of a described patch, in sizes of the keypoint: that of SIFT's descriptor
SUPERSAMPLING = 4
MODEL_SIDE = 224  # pixels of the images
KEY_BATCH = 8


def sift_features(images: np.ndarray) -> LocalFeatures:
    """Return RootSIFT features, as in the search."""
    return local_features(detect(images, fine_sift, descriptors=True, workers=1))


def orb_features(images: np.ndarray) -> LocalFeatures:
    """Return ORB features at the enlargement of `fine_sift`.

    Descriptors are bits as -1 and 1 of unit length: squared distances are 4 / 256 of Hamming's. The
    size of a keypoint is divided by `PATCH_WIDTH`: OpenCV gives the side of the described patch.
    """
    orb = cv2.ORB_create(nfeatures=2 * MAX_KEYPOINTS, fastThreshold=ORB_THRESHOLD)
    tables, bits, counts = [], [], []
    for image in images:
        large, factor = _enlarged(image)
        grey = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)
        padded = cv2.copyMakeBorder(grey, *(4 * [ORB_BORDER]), cv2.BORDER_REFLECT_101)
        points, packed = orb.detectAndCompute(padded, None)
        rows = np.array([(*point.pt, point.size, point.angle, point.response) for point in points])
        table = rows.reshape(-1, 5)
        table[:, :2] -= ORB_BORDER
        inside = ((table[:, :2] >= 0) & (table[:, :2] < grey.shape[::-1])).all(axis=1)
        kept = np.flatnonzero(inside)
        kept = kept[np.argsort(-table[kept, 4], kind="stable")][:MAX_KEYPOINTS]
        table = table[kept]
        table[:, :2] = (table[:, :2] + 0.5) / factor - 0.5
        table[:, 2] /= factor * PATCH_WIDTH
        tables.append(table)
        packed = np.zeros((0, 32), np.uint8) if packed is None else packed[kept]
        bits.append(np.unpackbits(packed, axis=1))
        counts.append(len(kept))
    signs = (2 * np.concatenate(bits).astype(np.float32) - 1) / 16
    xy_size_angle = np.concatenate(tables).astype(np.float32)
    image_number = np.repeat(np.arange(len(images)), counts)
    return LocalFeatures(
        xy_size_angle[:, :2], xy_size_angle[:, 2], xy_size_angle[:, 3], signs, image_number,
        len(images), is_sift=False,
    )  # fmt: skip


def pixel_features(images: np.ndarray) -> LocalFeatures:
    """Return grey patches at the keypoints of SIFT, turned and scaled, of mean 0 and norm 1."""
    features = sift_features(images)
    starts, patches = features.starts, []
    side = PATCH_SIDE * SUPERSAMPLING
    for number, image in enumerate(images):
        large, factor = _enlarged(image)
        grey = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY).astype(np.float32)
        for row in range(starts[number], starts[number + 1]):
            turn = np.deg2rad(features.angle[row])
            step = PATCH_WIDTH * features.size[row] * factor / side
            linear = step * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            center = (features.xy[row] + 0.5) * factor - 0.5
            transform = np.column_stack([linear, center - linear @ np.full(2, (side - 1) / 2)])
            fine = cv2.warpAffine(
                grey, transform, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
            patches.append(cv2.resize(fine, (PATCH_SIDE, PATCH_SIDE), interpolation=cv2.INTER_AREA))
    values = np.array(patches, np.float32).reshape(-1, PATCH_SIDE**2)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return replace(features, descriptors=values, is_sift=False)


def key_features(images: np.ndarray, side: int, layer: int) -> LocalFeatures:
    """Return the keys of a layer of the embedded model for images enlarged to `side` pixels.

    Keys are centred on their mean over the patches of each image, then divided by their length.
    """
    model: Any = load(torch.float32)
    model.set_input_size((side, side))
    model.blocks = model.blocks[: layer + 1]  # later layers do not change these keys
    parts = []
    for start in range(0, len(images), KEY_BATCH):
        inputs = normalise(model, images[start : start + KEY_BATCH])
        if side != MODEL_SIDE:
            inputs = F.interpolate(inputs, (side, side), mode="bicubic", align_corners=False)
        with torch.no_grad():
            attention = record(model, inputs, grad=False, layers=[layer])
        keys = _keys(attention.sites[0], attention.grid).float()
        parts.append(F.normalize(keys - keys.mean(dim=1, keepdim=True), dim=-1).numpy())
        rows, columns = attention.grid.shape
    descriptors = np.concatenate(parts)
    patch = images.shape[2] / columns
    centers = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    xy = np.tile((centers + 0.5) * patch - 0.5, (len(images), 1)).astype(np.float32)
    count = len(xy)
    return LocalFeatures(
        xy, np.full(count, patch, np.float32), np.zeros(count, np.float32),
        descriptors.reshape(count, -1), np.repeat(np.arange(len(images)), rows * columns),
        len(images), is_sift=False,
    )  # fmt: skip


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return an image at the size at which `fine_sift` detects keypoints, and the factor."""
    factor = min(MAX_ENLARGEMENT, max(1.0, FINE_SIDE / max(image.shape[:2])))
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), factor


def replace_images(
    features: LocalFeatures, others: LocalFeatures, numbers: np.ndarray, replaced: np.ndarray
) -> LocalFeatures:
    """Return features in which the images `replaced` have their features of `others`.

    Image i of `others` is image `numbers[i]` of the result.
    """
    kept = features.rows(~np.isin(features.image, replaced))
    moved = replace(others, image=np.asarray(numbers, int)[others.image])
    moved = moved.rows(np.isin(moved.image, replaced))
    names = ("xy", "size", "angle", "descriptors", "image")
    whole = replace(features, **{
        name: np.concatenate([getattr(kept, name), getattr(moved, name)]) for name in names
    })  # fmt: skip
    return whole.rows(np.argsort(whole.image, kind="stable"))


def stored(path: Path, compute: Callable[[], LocalFeatures], is_sift: bool) -> LocalFeatures:
    """Return the features that a file holds; compute and store them if there is none."""
    names = ("xy", "size", "angle", "descriptors", "image")
    if not path.exists():
        features = compute()
        with atomic_write(path) as stream:
            np.savez(stream, n_images=features.n_images,
                     **{name: getattr(features, name) for name in names})  # fmt: skip
        return features
    with np.load(path) as arrays:
        columns = [arrays[name] for name in names]
        return LocalFeatures(*columns, int(arrays["n_images"]), is_sift)
