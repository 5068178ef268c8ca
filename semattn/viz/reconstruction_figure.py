"""Figure of the visible patches and reconstructions of a masked autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import default_settings
from .panels import Frame, draw_grid, draw_keypoints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL, WIDE_PANEL = 1.75, 2.6  # inches; the wide one shows the strokes of descriptors
COLOURS = 3  # values of a cell of colours
SIGNED = 8  # orientations of a full circle; other numbers are of half a circle
HIDDEN = 0.88  # grey of a masked patch
STROKE_CELL = 11  # pixels of a cell of orientations
STROKE_WIDTH = 0.8  # half the width of a stroke, pixels
LONGEST_QUANTILE = 0.95  # of the values of an image; strokes of larger values have the same length
VISIBLE_STROKE = 0.7  # grey of the strokes of visible patches
COLOUR_CONTRAST = 0.25  # of colours of mean square 1
VIEW_NAMES = {
    "sift": "SIFT", "hog": "HOG", "colour": "Colour", "words": "SIFT of the word",
}  # fmt: skip


@default_settings()
def reconstruction(result: Any, *, headline: str, subtitle: str = "") -> Figure:
    """Draw rows of panels: images with keypoints, visible patches, targets and predictions.

    Parameters
    ----------
    result : with `pixels` (n, H, W, 3) uint8, `reconstructed` (the same, or None), `masked` (n, P)
        bool, `keypoints` of each image, `grid` of the patches, `error` (n,) and `views` of
        descriptors, as `semattn.pretraining.reconstruct` returns it
    headline, subtitle : headline of the figure, and a line below it
    """
    count, has_pixels = len(result.pixels), result.reconstructed is not None
    rows = 2 + 2 * len(result.views) + has_pixels
    panel = WIDE_PANEL if result.views else PANEL
    frame = Frame(result.grid.image_size, columns=count, rows=rows, panel=panel, foot=0.2)
    figure = frame.empty()
    hidden = result.grid.upsample(_to_float(result.masked), mode="nearest").numpy() > 0.5
    for column in range(count):
        panels = [frame.axes(figure, row, column) for row in range(rows)]

        def caption(row: int, title: str, detail: str, column: int = column) -> None:
            frame.caption(figure, (row, column), title if column == 0 else "", detail)

        frame.show(panels[0], result.pixels[column])
        draw_keypoints(panels[0], result.keypoints[column], 0.6)
        frame.show(panels[1], _hide_patches(result.pixels[column], hidden[column]))
        draw_grid(panels[1], result.grid, 0.6)
        caption(0, "Image", f"{len(result.keypoints[column])} keypoints")
        n_visible = int((~result.masked[column]).sum())
        caption(1, "Visible patches", f"{n_visible} of {result.grid.patches} patches")
        error = f"error {result.error[column]:.3f}"
        for number, view in enumerate(result.views):
            name, row = VIEW_NAMES.get(view.name, view.name), 2 + 2 * number
            target, predicted = draw_view(view, column, result.masked[column], result.grid.shape)
            frame.show(panels[row], target)
            frame.show(panels[row + 1], predicted)
            height, width, length = view.target.shape[2:]
            values = "colours" if length == COLOURS else f"{length} directions"
            caption(row, f"{name}: target", f"{values} in {height}x{width} cells of each patch")
            is_last = row + 2 == rows  # the error is that of all parts
            detail = f"{error}  ·  " * is_last + "visible patches are paler"
            caption(row + 1, f"{name}: prediction", detail)
        if has_pixels:
            frame.show(panels[-1], result.reconstructed[column])
            caption(rows - 1, "Reconstruction", error)
    frame.headline(figure, headline, subtitle)
    return figure


def draw_view(
    view: Any, number: int, masked: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the target and the prediction of a view of one image as pictures (H, W, 3) in [0, 1].

    The prediction contains the target of visible patches, with less contrast.
    """
    target = view.target[number]
    predicted = np.where(masked[:, None, None, None], view.predicted[number], target)
    cells = [_join_patches(values, shape) for values in (target, predicted)]
    is_masked = _join_patches(np.broadcast_to(masked[:, None, None, None], target.shape), shape)
    if target.shape[-1] == COLOURS:
        pictures = [np.clip(0.5 + COLOUR_CONTRAST * values, 0, 1) for values in cells]
        return pictures[0], np.where(is_masked, pictures[1], 0.5 + 0.4 * (pictures[1] - 0.5))
    longest = max(float(np.quantile(target, LONGEST_QUANTILE)), np.finfo(np.float32).tiny)
    strokes = [orientation_strokes(values / longest)[..., None] for values in cells]
    side = STROKE_CELL
    is_stroke_masked = is_masked[..., :1].repeat(side, 0).repeat(side, 1)
    grey = np.where(is_stroke_masked, 0, VISIBLE_STROKE)
    return 1 - strokes[0].repeat(3, -1), 1 - (strokes[1] * (1 - grey)).repeat(3, -1)


def orientation_strokes(values: NDArray[Any]) -> NDArray[np.float64]:
    """Draw histograms of orientations (rows, columns, K) as strokes; 1 is ink and 0 is paper.

    The length of a stroke is its value, from 0 to 1 (half a cell). With 8 orientations a stroke
    starts at the centre of its cell and points in the direction of the gradient, counterclockwise
    from +x; with 9 unsigned orientations it extends to both sides.
    """
    rows, columns, count = values.shape
    is_signed = count == SIGNED
    number = np.arange(count)
    angles = number * 2 * np.pi / count if is_signed else (number + 0.5) * np.pi / count
    offset = np.arange(STROKE_CELL) - (STROKE_CELL - 1) / 2
    x, y = offset[None, :, None], offset[:, None, None]  # y points down, angles are upwards
    along = np.cos(angles) * x - np.sin(angles) * y
    across = np.sin(angles) * x + np.cos(angles) * y
    along = along if is_signed else np.abs(along)
    length = np.clip(values, 0, 1)[:, None, :, None] * STROKE_CELL / 2
    along, across = along[None, :, None], across[None, :, None]  # (1, side, 1, side, K)
    ends = np.clip(length - along + 0.5, 0, 1) * np.clip(along + 1, 0, 1)
    ink = ends * np.clip(STROKE_WIDTH + 0.5 - np.abs(across), 0, 1) * (length > 0.5)
    picture: NDArray[np.float64] = ink.max(-1).reshape(rows * STROKE_CELL, columns * STROKE_CELL)
    return picture


def _join_patches(cells: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Arrange cells (P, rows, columns, D) of patches as one picture (H, W, D)."""
    (h, w), (rows, columns, length) = shape, cells.shape[1:]
    grid = cells.reshape(h, w, rows, columns, length).transpose(0, 2, 1, 3, 4)
    return grid.reshape(h * rows, w * columns, length)


def _hide_patches(picture: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the picture with its masked patches in grey."""
    return np.where(hidden[..., None], HIDDEN, picture / 255)


def _to_float(masked: NDArray[np.bool_]) -> Any:
    import torch

    return torch.from_numpy(np.asarray(masked)).float()
