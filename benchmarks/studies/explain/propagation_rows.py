"""Rows of the study of relevance propagation: maps of one image, each base computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import semattn
from semattn.affinity import DEFAULT_AFFINITY, random_walk
from semattn.attention import AttentionRecord, RuleSettings, record
from semattn.density import Scene, concentration, densities
from semattn.images import Images
from semattn.keypoints import Keypoints, detect

GAMMAS = (0.05, 0.1, 0.25)
PLAIN = None  # gamma of the plain gradient
FLOOR = 0.1  # of the mean weight, as in `semattn.density.concentration`

# Heat map (1, H, W) and patches (1, P).
PixelsAndPatches = tuple[Tensor, Tensor]
Row = Callable[["ImageMaps"], PixelsAndPatches]


class ImageMaps:
    """Bases of one image, each computed when it is first used.

    Parameters
    ----------
    model : the model
    images : one image
    target : its class
    mask : mask of the object, (H, W)
    """

    def __init__(self, model: nn.Module, images: Images, target: int, mask: np.ndarray) -> None:
        self.model, self.images, self.target = model, images, target
        self.mask = torch.from_numpy(mask)[None]
        self.measured: dict[Any, float] = {}  # metrics of these maps, see `propagation.measure`
        self.attention = cache(self._attention)
        self.pixels = cache(self._pixels)
        self.tokens = cache(self._tokens)
        self.keypoints = detect(images.pixels)
        self.grid = self.attention(PLAIN).grid
        self.scene = Scene(images.pixels, self.keypoints, self.grid)

    def _attention(self, gamma: float | None) -> AttentionRecord:
        """Return the record of attention with plain gradients, or with those under rules."""
        rules = None if gamma is None else RuleSettings(gamma, gamma, 0.0, "attn-lrp")
        layers = semattn.SIFTPatchInterrelation.default_layers
        return record(
            self.model, self.images.inputs, target=self.target, layers=layers, rules=rules
        )

    def _pixels(self, gamma: float | None) -> Tensor:
        """Return relevance propagation, or input x gradient for None, on pixels: (1, H, W)."""
        explainer: semattn.explain.base.Explainer
        if gamma is None:
            explainer = semattn.InputXGradient()
        else:
            explainer = semattn.AttnLRP(gamma=gamma, conv_gamma=gamma)
        attribution = explainer.attribute(self.model, self.images.inputs, target=self.target)
        return attribution.sum(dim=1)

    def _tokens(self, gamma: float) -> Tensor:
        """Return relevance propagation on patches: tokens times their gradient, (1, P)."""
        explainer = semattn.AttnLRP(level="patches", gamma=gamma, conv_gamma=gamma)
        patch_map = explainer.patch_map(self.model, self.images.inputs, target=self.target)
        return patch_map.flatten(1)

    def interrelation(self, gamma: float | None, density: str, **options: object) -> Tensor:
        """Return our map on patches without affinity refinement, (1, P)."""
        explainer = semattn.SIFTPatchInterrelation(affinity=0, **options)  # type: ignore[arg-type]
        p = concentration(densities[density](self.scene)).float()
        return explainer.relevance(self.attention(gamma), p)

    def refine(self, patches: Tensor) -> Tensor:
        """Return patches (1, P) after affinity refinement."""
        layer = self.attention(PLAIN).middle_layer()
        refined = random_walk(layer, self.grid, patches[..., None], DEFAULT_AFFINITY)
        assert refined is not None
        return refined[..., 0]

    def from_patches(self, patches: Tensor) -> PixelsAndPatches:
        """Return the upsampled map and the patches."""
        return self.grid.upsample(patches), patches

    def pooled(self, gamma: float | None, shift: bool) -> Tensor:
        """Return the keypoint-weighted mean of the relevance of pixels in each patch, (1, P)."""
        keypoints = shifted(self.keypoints[0]) if shift else self.keypoints[0]
        weights = keypoint_weights(keypoints)[None]
        weights = weights + FLOOR * weights.mean()
        return self.grid.pool(weights * self.pixels(gamma)) / self.grid.pool(weights)


def keypoint_weights(keypoints: Keypoints) -> Tensor:
    """Return a Gaussian around each keypoint, as wide as its scale, summed: (H, W)."""
    height, width = keypoints.image_size
    deviation = keypoints.size[:, None] / 2
    rows = torch.arange(height, device="cpu") - keypoints.xy[:, 1:]
    columns = torch.arange(width, device="cpu") - keypoints.xy[:, :1]
    along_rows = torch.exp(-(rows**2) / (2 * deviation**2))
    along_columns = torch.exp(-(columns**2) / (2 * deviation**2))
    return along_rows.T @ along_columns


def shifted(keypoints: Keypoints) -> Keypoints:
    """Return the keypoints shifted cyclically by half of the image, a control."""
    height, width = keypoints.image_size
    half = torch.tensor([width // 2, height // 2], device="cpu")
    size = torch.tensor([width, height], device="cpu")
    xy = (keypoints.xy + half) % size
    return Keypoints(
        xy, keypoints.response, keypoints.size, keypoints.angle, None, keypoints.image_size,
        keypoints.detector,
    )  # fmt: skip


def standardised(patches: Tensor) -> Tensor:
    """Return patches (1, P) with mean 0 and standard deviation 1."""
    return (patches - patches.mean()) / patches.std().clamp(min=1e-12)


def ours(
    maps: ImageMaps,
    gamma: float | None,
    density: str = "count",
    *,
    refined: bool,
    **options: object,
) -> PixelsAndPatches:
    """Return our map, with plain gradients or with those under rules."""
    patches = maps.interrelation(gamma, density, **options)
    return maps.from_patches(maps.refine(patches) if refined else patches)


def signed(maps: ImageMaps, gamma: float | None) -> PixelsAndPatches:
    """Return the signed map on pixels, with the mean of each patch."""
    pixels = maps.pixels(gamma)
    return pixels, maps.grid.pool(pixels)


def signed_patches(maps: ImageMaps, gamma: float | None) -> PixelsAndPatches:
    """Return the signed map on patches, upsampled."""
    return maps.from_patches(maps.grid.pool(maps.pixels(gamma)))


def positive(maps: ImageMaps, gamma: float | None, *, refined: bool) -> PixelsAndPatches:
    """Return the positive part on patches."""
    patches = maps.grid.pool(maps.pixels(gamma)).clamp(min=0)
    return maps.from_patches(maps.refine(patches) if refined else patches)


def of_tokens(maps: ImageMaps, gamma: float, *, refined: bool) -> PixelsAndPatches:
    """Return the signed map of tokens; refined, its positive part."""
    patches = maps.tokens(gamma)
    return maps.from_patches(maps.refine(patches.clamp(min=0)) if refined else patches)


def refined_signed(maps: ImageMaps, gamma: float | None) -> PixelsAndPatches:
    """Return the signed map on patches after affinity refinement."""
    return maps.from_patches(maps.refine(maps.grid.pool(maps.pixels(gamma))))


def total(maps: ImageMaps, gamma: float, gradient: float | None, part: str) -> PixelsAndPatches:
    """Return our refined map plus propagation, both standardised."""
    propagated = signed(maps, gamma) if part == "signed" else positive(maps, gamma, refined=True)
    own = ours(maps, gradient, refined=True)
    return maps.from_patches(standardised(own[1]) + standardised(propagated[1]))


def weighted(
    maps: ImageMaps, gamma: float | None, *, shift: bool, refined: bool
) -> PixelsAndPatches:
    """Return relevance pooled with keypoint weights; refined, its positive part."""
    patches = maps.pooled(gamma, shift)
    return maps.from_patches(maps.refine(patches.clamp(min=0)) if refined else patches)


def gradient_name(gamma: float | None) -> str:
    """Return the name of our map with these gradients."""
    return "ours" if gamma is None else f"ours, lrp gradients {gamma:g}"


def base_name(gamma: float | None) -> str:
    """Return the name of a base on pixels."""
    return "input x gradient" if gamma is None else f"propagation {gamma:g}"


QUERY_WEIGHTS = {"queries": "all", "head_alignment": False}


def _candidates() -> dict[str, Row]:
    """Return the bases, with and without refinement, and the sums."""
    rows: dict[str, Row] = {}
    for gamma in (PLAIN, 0.05, 0.25):
        name = gradient_name(gamma)
        rows[name] = partial(ours, gamma=gamma, refined=True)
        rows[f"{name}, not refined"] = partial(ours, gamma=gamma, refined=False)
    for gamma in (*GAMMAS, None):
        name = base_name(gamma)
        rows[name] = partial(signed, gamma=gamma)
        rows[f"{name}, patches"] = partial(signed_patches, gamma=gamma)
        rows[f"{name}, positive part"] = partial(positive, gamma=gamma, refined=False)
        rows[f"{name}, positive part, refined"] = partial(positive, gamma=gamma, refined=True)
        rows[f"{name}, refined"] = partial(refined_signed, gamma=gamma)
    for gamma in (0.05, 0.25):
        name = f"{base_name(gamma)}, tokens"
        rows[name] = partial(of_tokens, gamma=gamma, refined=False)
        rows[f"{name}, positive part, refined"] = partial(of_tokens, gamma=gamma, refined=True)
        for gradient in (PLAIN, gamma):
            for part in ("signed", "positive"):
                name = f"{gradient_name(gradient)} + {base_name(gamma)}"
                name += ", positive part, refined" * (part == "positive")
                rows[name] = partial(total, gamma=gamma, gradient=gradient, part=part)
    return rows


# SIFT's part under a base: rows with keypoints, with shifted keypoints, and without keypoints.
Comparison = tuple[str, str, str, str, str]  # base, part, and the names of the three rows


def _comparisons() -> list[Comparison]:
    """Return the comparisons of SIFT's part."""
    comparisons = []
    for gamma in (PLAIN, 0.05):
        name = gradient_name(gamma)
        for suffix in ("", ", not refined"):
            others = (f"{name}, {density}{suffix}" for density in ("shifted", "uniform"))
            comparisons.append((f"{name}{suffix}", "alignment", f"{name}{suffix}", *others))
        rows = (f"{name}, query weights: {density}" for density in ("count", "shifted", "uniform"))
        comparisons.append((name, "query weights", *rows))
    for gamma in (0.05, 0.25):
        name = base_name(gamma)
        pooled = f"{name}, pooling: count", f"{name}, pooling: shifted"
        refined = f"{name}, positive part, refined"
        comparisons.append((refined, "pooling", *(f"{row}, refined" for row in pooled), refined))
        comparisons.append((f"{name}, patches", "pooling", *pooled, f"{name}, patches"))
    return comparisons


def _controls() -> dict[str, Row]:
    """Return the rows of the comparisons that are no candidates for the default map."""
    rows: dict[str, Row] = {}
    for gamma in (PLAIN, 0.05):
        name = gradient_name(gamma)
        for density in ("shifted", "uniform"):
            for suffix in ("", ", not refined"):
                rows[f"{name}, {density}{suffix}"] = partial(
                    ours, gamma=gamma, density=density, refined=not suffix
                )
        for density in ("count", "shifted", "uniform"):
            rows[f"{name}, query weights: {density}"] = partial(
                ours, gamma=gamma, density=density, refined=True, **QUERY_WEIGHTS
            )
    for gamma in (0.05, 0.25):
        name = base_name(gamma)
        for density in ("count", "shifted"):
            for suffix in ("", ", refined"):
                rows[f"{name}, pooling: {density}{suffix}"] = partial(
                    weighted, gamma=gamma, shift=density == "shifted", refined=bool(suffix)
                )
    return rows


CANDIDATES = _candidates()
ROWS: dict[str, Row] = CANDIDATES | _controls()
"""All rows, in the order in which they are computed."""
COMPARISONS = _comparisons()
