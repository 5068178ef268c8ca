"""Figure of the visible patches and reconstructions of a masked autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import default_settings
from .panels import Frame, draw_grid, draw_keypoints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 1.75  # inches
HIDDEN = 0.88  # grey of a masked patch


@default_settings()
def reconstruction(result: Any, *, headline: str, subtitle: str = "") -> Figure:
    """Draw three rows: images with keypoints, visible patches, reconstructions.

    Parameters
    ----------
    result : with `pixels`, `reconstructed` (n, H, W, 3) uint8, `masked` (n, P) bool, `keypoints` of
        each image, `grid` of the patches and `error` (n,), as `semattn.pretraining.reconstruct`
        returns it
    headline, subtitle : headline of the figure, and a line below it
    """
    count = len(result.pixels)
    frame = Frame(result.grid.image_size, columns=count, rows=3, panel=PANEL, foot=0.2)
    figure = frame.empty()
    hidden = result.grid.upsample(_to_float(result.masked), mode="nearest").numpy() > 0.5
    for column in range(count):
        panels = [frame.axes(figure, row, column) for row in range(3)]
        frame.show(panels[0], result.pixels[column])
        draw_keypoints(panels[0], result.keypoints[column], 0.6)
        frame.show(panels[1], _hide_patches(result.pixels[column], hidden[column]))
        draw_grid(panels[1], result.grid, 0.6)
        frame.show(panels[2], result.reconstructed[column])
        n_keypoints = len(result.keypoints[column])
        frame.caption(
            figure, (0, column), "Image" if column == 0 else "", f"{n_keypoints} keypoints"
        )
        n_visible = int((~result.masked[column]).sum())
        visible_text = f"{n_visible} of {result.grid.patches} patches"
        frame.caption(figure, (1, column), "Visible patches" if column == 0 else "", visible_text)
        error = f"error {result.error[column]:.3f}"
        frame.caption(figure, (2, column), "Reconstruction" if column == 0 else "", error)
    frame.headline(figure, headline, subtitle)
    return figure


def _hide_patches(picture: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the picture with its masked patches in grey."""
    return np.where(hidden[..., None], HIDDEN, picture / 255)


def _to_float(masked: NDArray[np.bool_]) -> Any:
    import torch

    return torch.from_numpy(np.asarray(masked)).float()
