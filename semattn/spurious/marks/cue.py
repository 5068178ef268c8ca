"""Recurring mark that a model uses for a class: a cue with an exact place in every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...images import Picture, Preprocessing, pixels_of
from ...keypoints.local_features import fine_sift
from ...prompting import AttentionPrompter
from ..cue import SpuriousCue
from .interventions import erase_pixels, patches_of_masks, region_masks
from .mark import Mark
from .template import Region


@dataclass(frozen=True, eq=False)
class MarkCue(SpuriousCue):
    """Cue that is a recurring mark, found by matching keypoints; `mark` holds its template.

    ``prompter.steer(cue, suppress=True)`` hides the patches of the mark in all layers.

    Parameters
    ----------
    mark : the mark, its picture and its frequency; the other fields are those of `SpuriousCue`
    """

    mark: Mark | None = None

    def locate(self, inputs: Tensor | Picture) -> list[list[Region]]:
        """Return the places of the mark in each image.

        Parameters
        ----------
        inputs : images (B, C, H, W) of the model, or one picture; outlines are in its pixels
        """
        assert self.mark is not None
        if not isinstance(inputs, Tensor):
            return [self.mark.locate(inputs)]
        return self._locate_pixels(pixels_of(inputs.detach(), self._preprocessing()))

    def matches(self, inputs: Tensor, model: nn.Module | None = None) -> Tensor:
        """Return which patches of images (B, C, H, W) show the mark: (B, P), 0 or 1."""
        model = self.model if model is None else model
        grid = self.grid if model is None else AttentionPrompter(model).grid(inputs)
        if grid is None or grid.image_size != tuple(inputs.shape[-2:]):
            raise ValueError(
                "model: expected the model of the search for images of another size, got none — "
                "call cue.matches(inputs, model) or load_discovery(file, model)"
            )
        masks = region_masks(self.locate(inputs), grid.image_size)
        return torch.from_numpy(patches_of_masks(masks, grid)).float().to(inputs.device)

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the patches (B, P) of images that `AttentionPrompter.steer` hides."""
        return self.matches(inputs)

    def erase(self, inputs: Tensor | Picture) -> Any:
        """Return images in which each place of the mark is inpainted.

        Parameters
        ----------
        inputs : images (B, C, H, W) of the model, of which the pixels of the mark are replaced; or
            one picture, whose pixels (H, W, 3) uint8 are returned
        """
        assert self.mark is not None
        if not isinstance(inputs, Tensor):
            return self.mark.erase(inputs)
        preprocessing = self._preprocessing()
        pixels = pixels_of(inputs.detach(), preprocessing)
        masks = region_masks(self._locate_pixels(pixels), pixels.shape[1:3])
        return replace_changed(inputs, pixels, erase_pixels(pixels, masks), preprocessing)

    def summary(self) -> dict[str, Any]:
        """Return the values that a table shows, ready for JSON."""
        assert self.mark is not None
        return super().summary() | {"mark": self.mark.summary()}

    def _locate_pixels(self, pixels: np.ndarray) -> list[list[Region]]:
        assert self.mark is not None
        return [self.mark.template.locate(fine_sift(image)) for image in pixels]

    def _preprocessing(self) -> Preprocessing:
        if self.preprocessing is not None:
            return self.preprocessing
        if self.model is None:
            raise ValueError(
                "model: expected the model of the search, got none — call "
                "load_discovery(file, model)"
            )
        return Preprocessing.of(self.model)


def replace_changed(
    inputs: Tensor, pixels: np.ndarray, changed: np.ndarray, preprocessing: Preprocessing
) -> Tensor:
    """Return inputs (B, C, H, W) with new values where the pixels (B, H, W, 3) were changed."""
    is_changed = torch.from_numpy((pixels != changed).any(axis=-1))[:, None].to(inputs.device)
    return torch.where(is_changed, preprocessing.inputs(changed).to(inputs), inputs)
