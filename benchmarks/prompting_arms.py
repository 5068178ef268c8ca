"""The arms of `bench_prompting`: how each makes a bias, patches to drop, or another image.

All see an image once: a record of the layer that `AttentionPrompter` looks at, the keypoints, and
the tokens that enter the first steered block. What comes after that block is run for every arm and
strength on these tokens; that it gives what `AttentionPrompter` gives on the whole model is checked
in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from semattn import record
from semattn.affinity import grown, within
from semattn.attention import choose_layers
from semattn.density import Scene, concentration, densities
from semattn.grid import PatchGrid
from semattn.keypoints import detect
from semattn.prompting import Box, Mask, Points, attend, coverage, prompts
from semattn.prompting.prompter import LAYERS

from .confounded_birds import Bird

STRENGTHS = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
DROPPED = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)  # parts of the patches
SIGMAS = (1.0, 2.0, 4.0, 6.0, 9.0, 14.0)  # pixels

DENSITIES = (
    "count", "response", "size", "gaussian", "distinct", "distinct-size", "surround",
    "distinct-size-surround",
)  # fmt: skip
SOURCES = ("received", "received-class", "interrelation")
CONTROLS = (
    "class-attention", "class-grown", "sobel", "canny", "center", "random", "shifted", "permuted",
)  # fmt: skip
OURS = "interrelation"
LIMIT = "mask"
POINTS = 3


@dataclass(frozen=True)
class Arm:
    """One way to prompt: `kind` is bias, drop, blur or none, `weights` what it goes by."""

    name: str
    what: str
    kind: str = "bias"
    weights: str = ""
    sign: float = 1.0

    @property
    def options(self) -> Sequence[float]:
        """What is chosen on validation images: strengths, parts that are dropped, pixels."""
        return {"none": (0.0,), "bias": STRENGTHS, "drop": DROPPED, "blur": SIGMAS}[self.kind]


def _arms() -> tuple[Arm, ...]:
    def said(name: str) -> str:
        return "control" if name in CONTROLS else "SIFT" if name in DENSITIES else "SIFT and model"

    found = [Arm("none", "", "none")]
    found += [Arm(one, said(one), weights=one) for one in (*DENSITIES, *SOURCES, *CONTROLS)]
    return (
        *found,
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
class Seen:
    """What is known of n images before any arm: tokens at the first steered block, and weights."""

    tokens: Tensor
    weights: dict[str, Tensor]


class Tail(nn.Module):
    """The blocks of a timm ViT that are steered, and its norm: tokens to class features (B, D)."""

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__()
        self.blocks = model.blocks[first:]
        self.norm = model.norm

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, D)."""
        return self.norm(self.blocks(tokens))[:, 0]


def first_steered(model: nn.Module) -> int:
    """The number of the first block that is steered."""
    return choose_layers(LAYERS, len(model.blocks))[0]


def normalised(model: nn.Module, images: np.ndarray) -> Tensor:
    """(B, 3, H, W) as the model takes pixels (B, H, W, 3)."""
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return ((pixels - mean) / std).to(model.pos_embed.dtype)


@torch.inference_mode()
def tokens_of(model: nn.Module, images: np.ndarray, first: int) -> Tensor:
    """Tokens (B, N, D) that enter block `first`."""
    x = model.patch_embed(normalised(model, images))
    x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
    return model.blocks[:first](x)


def look(model: nn.Module, birds: Sequence[Bird], seed: int) -> Seen:
    """Everything that the arms go by, of some images."""
    images = np.stack([one.image for one in birds])
    middle = min(len(model.blocks) // 2, first_steered(model))
    taken = record(model, normalised(model, images), layers=middle, grad=False)
    (one,), grid = taken.sites, taken.grid
    scene = Scene(images, detect(images, descriptors=True), grid, seed)
    found = {name: densities[name](scene) for name in (*DENSITIES, "uniform")}
    found |= {name: densities[name](scene) for name in CONTROLS if name in densities}
    with torch.no_grad():
        for name in (*SOURCES, *(name for name in CONTROLS if name in prompts)):
            p = concentration(found[prompts[name].density]).to(one.dtype)
            found[name] = prompts[name].see(one, grid, p)
    found["other"] = found["distinct-size-surround"].roll(1, 0)  # of the image before
    drawn = _by_hand(birds, grid, seed)
    with torch.no_grad():
        found["box"] = within(one, grid, drawn["box"].to(one.dtype))
        found["points"] = grown(one, grid, drawn["points"].to(one.dtype))
    found |= {"mask": drawn["mask"], "box as drawn": drawn["box"], "discs": drawn["points"]}
    tokens = tokens_of(model, images, first_steered(model))
    return Seen(tokens, {name: values.float() for name, values in found.items()})


def _by_hand(birds: Sequence[Bird], grid: PatchGrid, seed: int) -> dict[str, Tensor]:
    """What somebody would draw who sees the object: its mask, its box, some points on it."""
    rows: dict[str, list[Tensor]] = {"mask": [], "box": [], "points": []}
    for bird in birds:
        inside = np.argwhere(bird.mask)
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
        chance = np.random.default_rng((seed, len(inside), int(top), int(left)))
        some = inside[chance.integers(len(inside), size=POINTS)][:, ::-1]
        points = Points(tuple((float(x), float(y)) for x, y in some))
        rows["mask"].append(coverage(Mask(bird.mask), grid))
        rows["box"].append(coverage(Box(left, top, right, bottom), grid))
        rows["points"].append(coverage(points, grid))
    return {name: torch.stack(found) for name, found in rows.items()}


def bias_of(arm: Arm, seen: Seen, prefix: int) -> Tensor:
    """The bias (n, N) of an arm at strength 1, nats."""
    patches = arm.sign * attend(seen.weights[arm.weights]).float()
    return torch.nn.functional.pad(patches, (prefix, 0))


def kept(arm: Arm, seen: Seen, part: float) -> Tensor:
    """The patches (n, K) that are left when the `part` of least weight is dropped, in order."""
    weights = seen.weights[arm.weights]
    count = round(weights.shape[1] * (1 - part))
    return weights.topk(count, dim=1).indices.sort(dim=1).values


def blurred(arm: Arm, seen: Seen, birds: Sequence[Bird], sigma: float) -> np.ndarray:
    """The images, with all patches blurred that the arm would make unlikelier."""
    side = int(seen.weights[arm.weights].shape[1] ** 0.5)
    made = []
    for bird, bias in zip(birds, attend(seen.weights[arm.weights]), strict=True):
        low = (bias < 0).float().reshape(side, side).numpy()
        size = bird.image.shape[1], bird.image.shape[0]
        share = cv2.resize(low, size, interpolation=cv2.INTER_LINEAR)[..., None]
        soft = cv2.GaussianBlur(bird.image, (0, 0), sigma)
        made.append(np.clip(np.rint(bird.image + share * (soft - 1.0 * bird.image)), 0, 255))
    return np.stack(made).astype(np.uint8)
