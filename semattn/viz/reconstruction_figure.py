"""What a masked autoencoder saw of some images, and what it made of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import default_settings
from .frame import Frame
from .marks import draw_grid, draw_keypoints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 1.75  # inches
HIDDEN = 0.88  # grey of a masked patch


@default_settings()
def reconstruction(made: Any, *, headline: str, beside: str = "") -> Figure:
    """Three rows: the images with their keypoints, what the model saw, what it reconstructed.

    Parameters
    ----------
    made : with `pixels`, `reconstructed` (n, H, W, 3) uint8, `masked` (n, P) bool, `keypoints` of
        each image, `grid` of the patches and `error` (n,), as `semattn.pretraining.reconstruct`
        returns it
    headline, beside : what the figure is of, and a line under it
    """
    count = len(made.pixels)
    frame = Frame(made.grid.image_size, columns=count, rows=3, panel=PANEL, foot=0.2)
    drawn = frame.empty()
    hidden = made.grid.upsample(_float(made.masked), mode="nearest").numpy() > 0.5
    for column in range(count):
        panels = [frame.axes(drawn, row, column) for row in range(3)]
        frame.show(panels[0], made.pixels[column])
        draw_keypoints(panels[0], made.keypoints[column], 0.6)
        frame.show(panels[1], _covered(made.pixels[column], hidden[column]))
        draw_grid(panels[1], made.grid, 0.6)
        frame.show(panels[2], made.reconstructed[column])
        found = len(made.keypoints[column])
        frame.caption(drawn, (0, column), "Image" if column == 0 else "", f"{found} keypoints")
        seen = int((~made.masked[column]).sum())
        said = f"{seen} of {made.grid.patches} patches"
        frame.caption(drawn, (1, column), "The model sees" if column == 0 else "", said)
        error = f"error {made.error[column]:.3f}"
        frame.caption(drawn, (2, column), "Reconstruction" if column == 0 else "", error)
    frame.headline(drawn, headline, beside)
    return drawn


def _covered(picture: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The picture with its masked patches in grey."""
    return np.where(hidden[..., None], HIDDEN, picture / 255)


def _float(masked: NDArray[np.bool_]) -> Any:
    import torch

    return torch.from_numpy(np.asarray(masked)).float()
