"""Slow definitions of dense descriptors: loops over patches, pixels and bins, in float64."""

from __future__ import annotations

import math

import numpy as np


def grey_levels(image: np.ndarray) -> np.ndarray:
    """Return the luma (H, W) of an image (3, H, W)."""
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def reflect(position: int, length: int) -> int:
    """Return the position inside an axis that a position outside mirrors, edges not repeated."""
    position = abs(position)
    return position if position < length else 2 * (length - 1) - position


def smooth(grey: np.ndarray) -> np.ndarray:
    """Smooth an image from the blur of .5 pixels of a camera to a blur of 1.6 pixels."""
    variance = 1.6**2 - 0.5**2
    kernel = {i: math.exp(-(i**2) / (2 * variance)) for i in range(-6, 7)}
    total = sum(kernel.values())
    height, width = grey.shape
    result = np.zeros_like(grey)
    for y in range(height):
        for x in range(width):
            for i, weight_y in kernel.items():
                row = grey[reflect(y + i, height)]
                value = sum(weight * row[reflect(x + j, width)] for j, weight in kernel.items())
                result[y, x] += weight_y * value / total**2
    return result


def sift_histogram(smoothed: np.ndarray, centre: tuple[float, float], window: float) -> np.ndarray:
    """Return the 4x4x8 histogram of gradients around a centre (y, x), before normalisation."""
    height, width = smoothed.shape
    histogram = np.zeros((4, 4, 8))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            across = smoothed[y, x + 1] - smoothed[y, x - 1]
            up = smoothed[y - 1, x] - smoothed[y + 1, x]
            u, v = (y - centre[0]) / (window / 4), (x - centre[1]) / (window / 4)
            vote = math.hypot(across, up) * math.exp(-(u**2 + v**2) / 8)
            turns = math.degrees(math.atan2(up, across)) / 45
            for corner_y in (math.floor(u + 1.5), math.floor(u + 1.5) + 1):
                for corner_x in (math.floor(v + 1.5), math.floor(v + 1.5) + 1):
                    for corner_o in (math.floor(turns), math.floor(turns) + 1):
                        if 0 <= corner_y < 4 and 0 <= corner_x < 4:
                            share = 1 - abs(u + 1.5 - corner_y)
                            share *= 1 - abs(v + 1.5 - corner_x)
                            share *= 1 - abs(turns - corner_o)
                            histogram[corner_y, corner_x, corner_o % 8] += vote * share
    return histogram


def rootsift(image: np.ndarray, patch_size: int, window: float) -> np.ndarray:
    """Return the descriptors (P, 128) of an image (3, H, W) in [0, 1]."""
    smoothed = smooth(grey_levels(image))
    rows = []
    for y in range(image.shape[1] // patch_size):
        for x in range(image.shape[2] // patch_size):
            centre = ((y + 0.5) * patch_size - 0.5, (x + 0.5) * patch_size - 0.5)
            vector = sift_histogram(smoothed, centre, window).ravel()
            if np.linalg.norm(vector) <= 1e-4:
                rows.append(np.zeros(128))
                continue
            vector = np.minimum(vector / np.linalg.norm(vector), 0.2)
            vector = vector / np.linalg.norm(vector)
            rows.append(np.sqrt(vector / vector.sum()))
    return np.array(rows)


def hog(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Return the histograms (P, D) of the 4-pixel cells of an image (3, H, W) in [0, 1]."""
    grey = grey_levels(image)
    height, width = grey.shape
    rows = []
    for top in range(0, height, patch_size):
        for left in range(0, width, patch_size):
            cells = []
            for cell_top in range(top, top + patch_size, 4):
                for cell_left in range(left, left + patch_size, 4):
                    cell = np.zeros(9)
                    for y in range(cell_top, cell_top + 4):
                        for x in range(cell_left, cell_left + 4):
                            across = grey[y, reflect(x + 1, width)] - grey[y, reflect(x - 1, width)]
                            up = grey[reflect(y - 1, height), x] - grey[reflect(y + 1, height), x]
                            turns = math.degrees(math.atan2(up, across)) % 180 / 20 - 0.5
                            low = math.floor(turns)
                            vote = math.hypot(across, up) / 16
                            cell[low % 9] += vote * (low + 1 - turns)
                            cell[(low + 1) % 9] += vote * (turns - low)
                    norm = np.linalg.norm(cell)
                    cells.append(cell / norm if norm > 1e-4 else np.zeros(9))
            vector = np.concatenate(cells)
            norm = np.linalg.norm(vector)
            rows.append(vector / norm if norm > 0 else vector)
    return np.array(rows)


def colour(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Return the contrast-normalised mean colours (P, 48) of 4x4 cells."""
    side, rows = patch_size // 4, []
    for top in range(0, image.shape[1], patch_size):
        for left in range(0, image.shape[2], patch_size):
            means = []
            for y in range(top, top + patch_size, side):
                for x in range(left, left + patch_size, side):
                    means += [image[c, y : y + side, x : x + side].mean() for c in range(3)]
            vector = np.array(means) - np.mean(means)
            norm = np.linalg.norm(vector)
            rows.append(vector / norm if norm > 1e-4 else np.zeros(48))
    return np.array(rows)
