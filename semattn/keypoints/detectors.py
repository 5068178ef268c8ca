"""Keypoint detectors: SIFT of OpenCV and of scikit-image.

A detector is a function from pixels (H, W, 3) to `Keypoints`, registered by name in `detectors`.
Detectors run on the CPU, in one thread for each image, and can run in parallel with the model
(`detect_async`). A detector with a true attribute `takes_batches` gets all images at once, and
returns a list. Positions follow OpenCV: (x, y), with the centre of the first pixel at (0, 0).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import torch

from ..errors import ShapeError
from ..images import luma
from ..utils.registry import Registry, unknown_name_message
from ..utils.validation import check_number
from .keypoints import Keypoints
from .opencv import import_cv2

detectors: Registry[Callable[..., Keypoints]] = Registry("detector")
"""Functions from pixels (H, W, 3) uint8 to `Keypoints`, by name."""

DetectorLike: TypeAlias = str | Callable[..., Keypoints]
"""Name in `detectors`, or a function of pixels (H, W, 3)."""

# skimage's SIFT doubles the image about the corner of the first pixel but computes positions about
# its centre, so that they are a quarter of a pixel too large.
_SKIMAGE_OFFSET = 0.25
_SKIMAGE_MIN_SIDE = 6  # pixels; below, it has no octave to search


def detect(
    pixels: np.ndarray,
    detector: DetectorLike = "sift",
    *,
    workers: int | None = None,
    descriptors: bool = False,
    **options: Any,
) -> list[Keypoints]:
    """Detect the keypoints of each image of a batch.

    Parameters
    ----------
    pixels : (B, H, W, 3) uint8
    detector : a name in `detectors`, or a function of pixels (H, W, 3)
    workers : number of threads; by default one for each image, at most the number of processors
    descriptors : whether to compute descriptors
    options : passed to the detector

    Examples
    --------
    >>> dots = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    >>> dots[1, 30:34, 30:34] = 255
    >>> [len(keypoints) for keypoints in detect(dots)]
    [0, 1]
    """
    detector_function = detectors.resolve(detector)
    _check_pixels(pixels)
    if workers is not None:
        check_number("workers", workers, minimum=0, integer=True)
    if descriptors:
        options["descriptors"] = True
    if getattr(detector_function, "takes_batches", False):
        batch: Any = detector_function(pixels, **options)
        return list(batch)
    threads = min(len(pixels), workers or os.cpu_count() or 1)
    if threads <= 1:
        return [detector_function(image, **options) for image in pixels]
    with ThreadPoolExecutor(threads, thread_name_prefix="semattn-keypoints") as pool:
        return list(pool.map(lambda image: detector_function(image, **options), pixels))


def detect_async(
    pixels: np.ndarray, detector: DetectorLike = "sift", **options: Any
) -> Future[list[Keypoints]]:
    """Run `detect` in the background, in parallel with the model; ``.result()`` waits and raises.

    Examples
    --------
    >>> detect_async(np.zeros((1, 32, 32, 3), dtype=np.uint8)).result()[0].xy.shape
    torch.Size([0, 2])
    """
    detectors.resolve(detector)
    _check_pixels(pixels)
    pool = ThreadPoolExecutor(1, thread_name_prefix="semattn-keypoints")
    future = pool.submit(detect, pixels, detector, **options)
    pool.shutdown(wait=False)
    return future


def completed(keypoints: list[Keypoints]) -> Future[list[Keypoints]]:
    """Return a completed future, as of `detect_async`, for existing keypoints."""
    future: Future[list[Keypoints]] = Future()
    future.set_result(keypoints)
    return future


@detectors.register("sift")
def sift(
    pixels: np.ndarray,
    *,
    contrast_threshold: float = 0.01,
    duplicates: str = "drop",
    descriptors: bool = False,
) -> Keypoints:
    """Detect SIFT keypoints with OpenCV.

    The precise upscaling of OpenCV is used: otherwise positions are off by .25 pixels.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    contrast_threshold : minimum contrast, in OpenCV's unit (three times the response); .01 gives
        denser keypoints than OpenCV's default of .04
    duplicates : "drop" keeps one keypoint for each position and size, with the smallest angle;
        "keep" has one for each orientation, so that keypoints with several orientations count more
    descriptors : whether to compute descriptors
    """
    check_number("contrast_threshold", contrast_threshold, minimum=0)
    cv2 = import_cv2()
    extractor = cv2.SIFT_create(
        contrastThreshold=float(contrast_threshold), enable_precise_upscale=True
    )
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    if descriptors:
        points, descriptor = extractor.detectAndCompute(grey, None)
    else:
        points, descriptor = extractor.detect(grey, None), None
    columns = [(*point.pt, point.response, point.size, point.angle) for point in points]
    table = np.array(columns, dtype=np.float32).reshape(-1, 5)
    if descriptors and descriptor is None:  # OpenCV returns None without keypoints
        descriptor = np.zeros((0, 128), dtype=np.float32)
    return keypoints_of_table(table, descriptor, pixels.shape, "sift", duplicates)


@detectors.register("sift-skimage")
def sift_skimage(
    pixels: np.ndarray,
    *,
    contrast_threshold: float = 0.01,
    duplicates: str = "drop",
    descriptors: bool = False,
) -> Keypoints:
    """Detect SIFT keypoints with scikit-image, in OpenCV's conventions.

    Parameters are those of `sift`. An independent implementation, tens of times slower than `sift`.

    Notes
    -----
    scikit-image does not return the response. It is computed here, at the scale of each keypoint.
    On photographs it is within a few per cent of OpenCV's.
    """
    from skimage.feature import SIFT

    check_number("contrast_threshold", contrast_threshold, minimum=0)
    grey = luma(pixels)
    table = np.zeros((0, 5), dtype=np.float32)
    descriptor = np.zeros((0, 128), dtype=np.float32) if descriptors else None
    if min(grey.shape) >= _SKIMAGE_MIN_SIDE:
        extractor = SIFT(c_dog=contrast_threshold / 3)
        try:
            (extractor.detect_and_extract if descriptors else extractor.detect)(grey)
        except RuntimeError:  # raised if there are no keypoints
            pass
        else:
            xy = extractor.positions[:, ::-1] - _SKIMAGE_OFFSET
            response = _difference_of_gaussians(
                grey, xy, extractor.sigmas, 2 ** (1 / extractor.n_scales)
            )
            # skimage measures angles from the y axis, in the opposite direction
            angle = (90 - np.degrees(extractor.orientations)) % 360
            table = np.column_stack([xy, response, 2 * extractor.sigmas, angle]).astype(np.float32)
            descriptor = extractor.descriptors.astype(np.float32) if descriptors else None
    return keypoints_of_table(table, descriptor, pixels.shape, "sift-skimage", duplicates)


def keypoints_of_table(
    table: np.ndarray,
    descriptor: np.ndarray | None,
    shape: tuple[int, ...],
    detector: str,
    duplicates: str,
) -> Keypoints:
    """Build sorted keypoints from rows of x, y, response, size, angle."""
    if duplicates not in ("drop", "keep"):
        raise ValueError(unknown_name_message("duplicates", duplicates, ("drop", "keep")))
    x, y, response, size, angle = table.T
    order = np.lexsort((angle, size, x, y, -response))
    if duplicates == "drop" and len(order):
        _, first = np.unique(table[order][:, [0, 1, 3]], axis=0, return_index=True)
        order = order[np.sort(first)]
    rows = torch.from_numpy(table[order])
    return Keypoints(
        xy=rows[:, :2].contiguous(),
        response=rows[:, 2].contiguous(),
        size=rows[:, 3].contiguous(),
        angle=rows[:, 4].contiguous(),
        descriptor=None if descriptor is None else torch.from_numpy(descriptor[order]),
        image_size=(shape[0], shape[1]),
        detector=detector,
    )


def _difference_of_gaussians(
    grey: np.ndarray, xy: np.ndarray, sigma: np.ndarray, factor: float
) -> np.ndarray:
    """Compute |G(factor sigma) - G(sigma)| of the mirrored image at each keypoint (K, 2)."""

    def blur(scale: np.ndarray) -> np.ndarray:
        columns, rows = (_gaussian_weights(xy[:, i], scale, grey.shape[1 - i]) for i in (0, 1))
        return (rows * (columns @ grey.T)).sum(1)

    return np.abs(blur(factor * sigma) - blur(sigma))


def _gaussian_weights(center: np.ndarray, sigma: np.ndarray, length: int) -> np.ndarray:
    """Return weights (K, length) of Gaussians about K centres, mirrored at the borders."""
    pixels = np.arange(length)
    mirrored = np.stack([pixels, -1 - pixels, 2 * length - 1 - pixels])
    weights = np.exp(-(((mirrored[:, None] - center[:, None]) / sigma[:, None]) ** 2) / 2).sum(0)
    return weights / weights.sum(1, keepdims=True)


def _check_pixels(pixels: np.ndarray) -> None:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = getattr(pixels, "dtype", type(pixels).__name__)
        raise TypeError(
            f"pixels: expected a uint8 array, got {kind} — make it with images.pixels_of"
        )
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ShapeError(
            f"pixels: expected (B, H, W, 3), got {pixels.shape} — a single image is pixels[None]"
        )
    if not pixels.shape[1] * pixels.shape[2]:
        raise ShapeError(
            f"pixels: expected images of a pixel at least, got {pixels.shape} — leave them out"
        )
