"""Features of patches, and the extractor that computes them with one forward pass.

The features of a patch are the keys of two layers, colours, and SIFT descriptors. Keys of the first
layer represent colours and textures, keys of the middle layer represent objects. Colours and
descriptors add what the keys may not contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import AttentionRecord, SiteRecord, record
from ..attention.model_call import move_to_model
from ..attention.output_meaning import predict
from ..data.loading import concatenate_images, prepare_readable
from ..density import Scene, concentration, densities
from ..errors import SemattnError, UnsupportedModelError
from ..grid import PatchGrid
from ..images import Images, Preprocessing, pixels_of
from ..keypoints import Keypoints, detect
from ..prompting.sources import prompt_sources

OBJECTNESS = "interrelation"  # prompt source of the class-independent objectness
DARK = 16.0  # added to a mean before its logarithm; pixels are in [0, 255]
FLAT = 4.0  # added to a standard deviation before its logarithm
COLOURS = 4
DESCRIPTOR = 128


@dataclass(frozen=True, eq=False)
class BatchFeatures:
    """Features of a batch.

    Parameters
    ----------
    logits : (B, K)
    features : (B, P, E), see `patch_features`
    objectness : (B, P), class-independent: how much a patch belongs to the salient object
    keypoints : (B, P), number of keypoints
    grid : grid of the P patches
    """

    logits: Tensor
    features: Tensor
    objectness: Tensor
    keypoints: Tensor
    grid: PatchGrid


class FeatureExtractor:
    """Feature extractor of one model.

    Parameters
    ----------
    model, preprocessing, detector, seed : as in `discover_spurious`
    """

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing | None, detector: Any, seed: int
    ) -> None:
        self.model, self.detector, self.seed = model, detector, seed
        self.preprocessing = preprocessing
        self.preprocessing_source = preprocessing or (
            lambda: Preprocessing.of(model, needed_by="semattn.discover_spurious")
        )
        self._depth = 0

    def read(self, sources: list[Any]) -> tuple[list[int], Images | None, list[tuple[int, str]]]:
        """Return the numbers of the pictures that can be read, the pictures, and the failures."""
        numbers, readable, reasons = prepare_readable(sources, self.preprocessing_source)
        images = dict(zip(numbers, readable, strict=True))
        for number, image in list(images.items()):
            if image.inputs.shape != readable[0].inputs.shape:
                size = tuple(image.inputs.shape[-2:])
                reasons[number] = f"expected images of one size, got {size}"
                del images[number]
        skipped = sorted(reasons.items())
        if not images:
            return [], None, skipped
        names = [image.names[0] for image in images.values()]
        return list(images), concatenate_images(list(images.values()), names), skipped

    def extract(self, images: Images) -> BatchFeatures:
        """Return the features of images from one forward pass."""
        attention = self._record(images.inputs)
        keypoints = detect(images.pixels, self.detector, descriptors=True)
        scene = Scene(images.pixels, keypoints, attention.grid, self.seed)
        return BatchFeatures(
            attention.logits.float().cpu(),
            patch_features(attention, images.pixels, keypoints),
            self._objectness(attention, scene),
            densities["count"](scene),
            attention.grid,
        )

    def features_of(self, inputs: Tensor) -> Tensor:
        """Return the features (B, P, E) of images (B, C, H, W) only."""
        pixels = pixels_of(inputs.detach(), self.preprocessing_source)
        keypoints = detect(pixels, self.detector, descriptors=True)
        return patch_features(self._record(inputs), pixels, keypoints)

    def count_outputs(self, dataset: Any) -> int:
        """Return the number of classes of the model, from a blank image.

        The image has the size of the preprocessing, else that of the first item of `dataset`.

        Raises
        ------
        SemattnError
            For a model that is not a classifier.
        """
        source = self.preprocessing_source
        try:
            preprocessing = source if isinstance(source, Preprocessing) else source()
            channels, size = len(preprocessing.mean), preprocessing.size
        except SemattnError:
            first = dataset[0]
            first = first[0] if isinstance(first, (tuple, list)) else first
            channels, *size = first.shape[-3:]
        with torch.no_grad():
            blank = torch.zeros(1, channels, *size, device="cpu")
            blank = move_to_model(self.model, blank, prepared=True)
            output, meaning = predict(self.model, blank)
        if meaning.refusal:
            raise UnsupportedModelError(meaning.refusal)
        if output.ndim != 2 or output.shape[1] < 2 or not meaning.has_answers:
            raise SemattnError(
                "model: expected a classifier with outputs (B, K), K > 1, got "
                f"{tuple(output.shape)} ({meaning.kind.value})"
            )
        return int(output.shape[1])

    def _record(self, inputs: Tensor) -> AttentionRecord:
        # Tensors of a data set count as prepared: their precision was not chosen by the caller.
        inputs = move_to_model(self.model, inputs, prepared=True)
        if not self._depth:
            self._depth = record(self.model, inputs[:1], grad=False, layers=[0]).depth
        layers = sorted({0, self._depth // 2})
        return record(self.model, inputs, grad=False, layers=layers)

    def _objectness(self, attention: AttentionRecord, scene: Scene) -> Tensor:
        """Return the objectness (B, P) of the patches."""
        source = prompt_sources[OBJECTNESS]
        p = concentration(densities[source.density](scene))
        site = attention.middle_layer()
        objectness: Tensor = source.compute(site, attention.grid, p.to(site.device, site.dtype))
        return objectness.float().cpu()


def patch_features(
    attention: AttentionRecord, pixels: np.ndarray, keypoints: Sequence[Keypoints]
) -> Tensor:
    """Return vectors (B, P, E) of the patches of a record of the first and the middle layer.

    Parameters
    ----------
    attention : record of B images, with keys
    pixels : (B, H, W, 3) uint8
    keypoints : one per image, with descriptors
    """
    sites = [attention.sites[0], attention.middle_layer()]
    keys = [_keys(site, attention.grid).float().cpu() for site in sites]
    colours = colour_features(pixels, attention.grid)
    return torch.cat([*keys, colours, descriptor_features(keypoints, attention.grid)], dim=-1)


def feature_blocks(width: int) -> tuple[slice, slice, slice, slice]:
    """Return the slices of (…, E): keys of the first and middle layer, colours, descriptors."""
    keys = (width - COLOURS - DESCRIPTOR - 1) // 2
    ends = (0, keys, 2 * keys, 2 * keys + COLOURS, width)
    first, middle, colour, sift = (slice(a, b) for a, b in pairwise(ends))
    return first, middle, colour, sift


def _keys(site: SiteRecord, grid: PatchGrid) -> Tensor:
    """Return the unit keys of a layer on the patch grid: (B, P, H D)."""
    if site.key is None:
        raise UnsupportedModelError(
            f"{site.site}: expected an attention layer whose keys can be recorded, got a layer "
            "with its own softmax — the search for cues needs keys"
        )
    channels = site.key.to(site.dtype).transpose(-2, -1).flatten(1, 2)  # (G, H D, Nk)
    keys = grid.drop_prefix(site.keys_at.to_grid(channels)).transpose(-2, -1)
    return F.normalize(keys, dim=-1)


def colour_features(pixels: np.ndarray, grid: PatchGrid) -> Tensor:
    """Return log red and blue against green, log lightness and log contrast: (B, P, 4)."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    mean = _patch_mean(values, grid)
    grey = values.mean(dim=1, keepdim=True)
    square = _patch_mean(grey.square(), grid)
    spread = (square - _patch_mean(grey, grid).square()).clamp(min=0).sqrt()
    logs = (mean + DARK).log()
    red, green, blue = logs.unbind(dim=1)
    columns = [red - green, blue - green, logs.mean(dim=1), (spread[:, 0] + FLAT).log()]
    return torch.stack(columns, dim=-1).flatten(1, 2)


def _patch_mean(values: Tensor, grid: PatchGrid) -> Tensor:
    """Return the mean of (B, C, H, W) over each patch: (B, C, h, w)."""
    if not grid.is_partial:
        return F.adaptive_avg_pool2d(values, grid.shape)
    return grid.fold(grid.pool(values.flatten(0, 1))).unflatten(0, values.shape[:2])


def descriptor_features(keypoints: Sequence[Keypoints], grid: PatchGrid) -> Tensor:
    """Return the mean RootSIFT descriptor of each patch and log(1 + keypoints): (B, P, 129)."""
    values = torch.zeros(len(keypoints), grid.patches, DESCRIPTOR + 1, device="cpu")
    for row, image_keypoints in zip(values, keypoints, strict=True):
        patches = grid.patch_of(image_keypoints.xy)
        inside = patches >= 0
        if image_keypoints.descriptor is None or not bool(inside.any()):
            continue
        root = F.normalize(image_keypoints.descriptor[inside].float(), p=1, dim=1).sqrt()
        row.index_add_(0, patches[inside], F.pad(root, (0, 1), value=1.0))
    values[..., :DESCRIPTOR] /= values[..., DESCRIPTOR:].clamp(min=1)
    values[..., DESCRIPTOR] = values[..., DESCRIPTOR].log1p()
    return values
