"""Arms of `bench_prompting`: each gives a bias, patches to drop, or a changed image.

The arms share one observation of an image: a record of the layer that `AttentionPrompter` reads,
the keypoints, and the tokens that enter the first steered block. Only the blocks from there on run
for every arm and strength. Every run checks that the result equals that of `AttentionPrompter` on
the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from semattn import record
from semattn.affinity import confine_to_region, refine_by_affinity
from semattn.attention import choose_layers
from semattn.density import Scene, concentration, densities
from semattn.grid import PatchGrid
from semattn.keypoints import detect
from semattn.prompting import Box, Mask, Points, attention_bias, coverage, prompt_sources
from semattn.prompting.prompter import LAYERS

from ...datasets.confounded_birds import Bird

STRENGTHS = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
DROPPED_FRACTIONS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)  # of the patches
SIGMAS = (1.0, 2.0, 4.0, 6.0, 9.0, 14.0)  # pixels

DENSITIES = (
    "count", "response", "size", "gaussian", "distinct", "distinct-size", "surround",
    "distinct-size-surround",
)  # fmt: skip
SOURCES = ("received", "received-class", "interrelation")
CONTROLS = (
    "class-attention", "class-refined", "sobel", "canny", "center", "random", "shifted", "permuted",
)  # fmt: skip
OURS = "interrelation"
LIMIT = "mask"
POINTS = 3


@dataclass(frozen=True)
class Arm:
    """One arm: `kind` is bias, drop, blur or none; `weights` names the patch weights it uses."""

    name: str
    source: str
    kind: str = "bias"
    weights: str = ""
    sign: float = 1.0

    @property
    def options(self) -> Sequence[float]:
        """Return the values tried on validation images: strengths, dropped fractions, or pixels."""
        return {"none": (0.0,), "bias": STRENGTHS, "drop": DROPPED_FRACTIONS, "blur": SIGMAS}[
            self.kind
        ]


def _arms() -> tuple[Arm, ...]:
    def kind_of(name: str) -> str:
        return "control" if name in CONTROLS else "SIFT" if name in DENSITIES else "SIFT and model"

    arms = [Arm("none", "", "none")]
    arms += [
        Arm(source, kind_of(source), weights=source) for source in (*DENSITIES, *SOURCES, *CONTROLS)
    ]
    return (
        *arms,
        Arm("other image", "control", weights="other"),
        Arm("inverse", "control", weights=OURS, sign=-1.0),
        Arm("box", "a person's", weights="box"),
        Arm("box as drawn", "a person's", weights="box as drawn"),
        Arm("points", "a person's", weights="points"),
        Arm("points as discs", "a person's", weights="discs"),
        Arm("mask", "the limit", weights="mask"),
        Arm("blurred pixels", "instead of attention", "blur", OURS),
        Arm("dropped tokens", "instead of attention", "drop", OURS),
    )


ARMS = _arms()


@dataclass(frozen=True)
class Observations:
    """Inputs that the arms share: tokens at the first steered block, and patch weights by name."""

    tokens: Tensor
    weights: dict[str, Tensor]


class Tail(nn.Module):
    """The steered blocks and the norm of a timm ViT: tokens to class features (B, D)."""

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__()
        self.blocks = model.blocks[first:]
        self.norm = model.norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to class features (B, D)."""
        return self.norm(self.blocks(tokens))[:, 0]


def first_steered(model: nn.Module) -> int:
    """Return the index of the first steered block."""
    return choose_layers(LAYERS, len(model.blocks))[0]


def normalise(model: nn.Module, images: np.ndarray) -> Tensor:
    """Return pixels (B, H, W, 3) as the model's input (B, 3, H, W)."""
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return ((pixels - mean) / std).to(model.pos_embed.dtype)


@torch.inference_mode()
def tokens_of(model: nn.Module, images: np.ndarray, first: int) -> Tensor:
    """Return the tokens (B, N, D) that enter block `first`."""
    x = model.patch_embed(normalise(model, images))
    x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
    return model.blocks[:first](x)


def observe(model: nn.Module, birds: Sequence[Bird], seed: int) -> Observations:
    """Compute the inputs that the arms share."""
    images = np.stack([bird.image for bird in birds])
    middle = min(len(model.blocks) // 2, first_steered(model))
    attention_record = record(model, normalise(model, images), layers=middle, grad=False)
    (site,), grid = attention_record.sites, attention_record.grid
    scene = Scene(images, detect(images, descriptors=True), grid, seed)
    weights = {name: densities[name](scene) for name in (*DENSITIES, "uniform")}
    weights |= {name: densities[name](scene) for name in CONTROLS if name in densities}
    with torch.no_grad():
        for name in (*SOURCES, *(name for name in CONTROLS if name in prompt_sources)):
            p = concentration(weights[prompt_sources[name].density]).to(site.dtype)
            weights[name] = prompt_sources[name].compute(site, grid, p)
    weights["other"] = weights["distinct-size-surround"].roll(1, 0)  # of the image before
    user_prompts = _simulate_user_prompts(birds, grid, seed)
    with torch.no_grad():
        weights["box"] = confine_to_region(site, grid, user_prompts["box"].to(site.dtype))
        weights["points"] = refine_by_affinity(site, grid, user_prompts["points"].to(site.dtype))
    weights |= {
        "mask": user_prompts["mask"],
        "box as drawn": user_prompts["box"],
        "discs": user_prompts["points"],
    }
    tokens = tokens_of(model, images, first_steered(model))
    return Observations(tokens, {name: values.float() for name, values in weights.items()})


def _simulate_user_prompts(birds: Sequence[Bird], grid: PatchGrid, seed: int) -> dict[str, Tensor]:
    """Return the prompts of a user who sees the object: its mask, its box, some points on it."""
    rows: dict[str, list[Tensor]] = {"mask": [], "box": [], "points": []}
    for bird in birds:
        inside = np.argwhere(bird.mask)
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
        rng = np.random.default_rng((seed, len(inside), int(top), int(left)))
        points_xy = inside[rng.integers(len(inside), size=POINTS)][:, ::-1]
        points = Points(tuple((float(x), float(y)) for x, y in points_xy))
        rows["mask"].append(coverage(Mask(bird.mask), grid))
        rows["box"].append(coverage(Box(left, top, right, bottom), grid))
        rows["points"].append(coverage(points, grid))
    return {name: torch.stack(coverages) for name, coverages in rows.items()}


def arm_bias(arm: Arm, observed: Observations, prefix: int) -> Tensor:
    """Return the bias (n, N) of an arm at strength 1, nats."""
    patches = arm.sign * attention_bias(observed.weights[arm.weights]).float()
    return torch.nn.functional.pad(patches, (prefix, 0))


def remaining_patches(arm: Arm, observed: Observations, fraction: float) -> Tensor:
    """Return the patches (n, K) that remain when `fraction` of least weight is dropped."""
    weights = observed.weights[arm.weights]
    count = round(weights.shape[1] * (1 - fraction))
    return weights.topk(count, dim=1).indices.sort(dim=1).values


def blur_suppressed(
    arm: Arm, observed: Observations, birds: Sequence[Bird], sigma: float
) -> np.ndarray:
    """Return the images with the patches blurred that the arm would suppress."""
    side = int(observed.weights[arm.weights].shape[1] ** 0.5)
    images = []
    for bird, bias in zip(birds, attention_bias(observed.weights[arm.weights]), strict=True):
        low = (bias < 0).float().reshape(side, side).numpy()
        size = bird.image.shape[1], bird.image.shape[0]
        opacity = cv2.resize(low, size, interpolation=cv2.INTER_LINEAR)[..., None]
        smooth = cv2.GaussianBlur(bird.image, (0, 0), sigma)
        images.append(np.clip(np.rint(bird.image + opacity * (smooth - 1.0 * bird.image)), 0, 255))
    return np.stack(images).astype(np.uint8)
