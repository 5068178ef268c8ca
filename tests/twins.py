"""Twin vision transformers: the same weights and equal logits, written in another way.

A `Twin` names one choice for each of five properties: the order of the patches, the prefix tokens
and their place, the operation that writes the sequence, the readout, and what happens to the
picture inside the model. `TwinViT` builds it. The map of a twin must be the map of its `plain`
form, transformed by the known geometry. `pairwise` chooses twins so that each pair of choices
occurs.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from tests.models import CLASSES, GRID, SIZE

PATCH, WIDTH, DEPTH, HEADS = 16, 16, 4, 2
PATCHES = GRID[0] * GRID[1]

# The number of the patch, counted by rows, at each place of the sequence.
ORDERS: dict[str, list[int]] = {
    "rows": list(range(PATCHES)),
    "columns": torch.arange(PATCHES).reshape(GRID).t().flatten().tolist(),
    "permuted": [7, 2, 11, 0, 5, 9, 1, 10, 4, 8, 3, 6],
    "reversed": list(range(PATCHES))[::-1],
}

# The parts of the sequence: (kind of token, first, last + 1).
PATCHES_ONLY = (("patches", 0, PATCHES),)
LAYOUTS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "patches alone": PATCHES_ONLY,
    "registers first": (("registers", 0, 4), *PATCHES_ONLY),
    "registers last": (*PATCHES_ONLY, ("registers", 0, 4)),
    "class first": (("class", 0, 1), *PATCHES_ONLY),
    "class last": (*PATCHES_ONLY, ("class", 0, 1)),
    "class in the middle": (("patches", 0, 5), ("class", 0, 1), ("patches", 5, PATCHES)),
    "class, registers, patches": (("class", 0, 1), ("registers", 0, 4), *PATCHES_ONLY),
    "register, class, patches": (("registers", 0, 1), ("class", 0, 1), *PATCHES_ONLY),
    "class, patches, registers": (("class", 0, 1), *PATCHES_ONLY, ("registers", 0, 4)),
    "patches, register, class": (*PATCHES_ONLY, ("registers", 0, 1), ("class", 0, 1)),
    "registers around": (
        ("registers", 0, 2), ("class", 0, 1), *PATCHES_ONLY, ("registers", 2, 4),
    ),
    "class, patches, detection": (("class", 0, 1), *PATCHES_ONLY, ("detection", 0, 10)),
    "class, second, patches": (("class", 0, 1), ("second", 0, 1), *PATCHES_ONLY),
    "second, class, patches": (("second", 0, 1), ("class", 0, 1), *PATCHES_ONLY),
    "class, patches, second": (("class", 0, 1), *PATCHES_ONLY, ("second", 0, 1)),
}  # fmt: skip
PREFIX = {"class": 1, "second": 1, "registers": 4, "detection": 10}

WRITINGS = ("cat", "nested cat", "stack", "views", "loop", "index_copy", "scatter", "pad and add")

# The kinds of token that a readout needs.
READOUTS: dict[str, set[str]] = {
    "class": {"class"},
    "mean": set(),
    "mean of all": set(),
    "class and mean": {"class"},
    "distilled": {"class", "second"},
    "max": set(),
    "query pool": set(),
    "last patch": set(),
}


def _resize_and_crop(images: Tensor) -> Tensor:
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return small[..., 8:-8, 8:-8]


@dataclass(frozen=True)
class Geometry:
    """Transformation of the picture by a model before it cuts the patches.

    Parameters
    ----------
    outer : height and width of the picture that the model takes
    inside : from that picture to the one that is cut into patches
    back : from the map (B, h, w) of the inner picture to the map that is expected
    whole : whether each pixel of the picture is seen, and nothing else
    seen : (top, bottom, left, right), the pixels of the outer picture that the model sees
    """

    outer: tuple[int, int]
    inside: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    whole: bool = True
    seen: tuple[int, int, int, int] | None = None


TALL = (SIZE[1], SIZE[0])
GEOMETRIES: dict[str, Geometry] = {
    "none": Geometry(SIZE, lambda x: x, lambda m: m),
    "flip left and right": Geometry(SIZE, lambda x: x.flip(-1), lambda m: m.flip(-1)),
    "flip up and down": Geometry(SIZE, lambda x: x.flip(-2), lambda m: m.flip(-2)),
    "transpose": Geometry(TALL, lambda x: x.transpose(-1, -2), lambda m: m.transpose(-1, -2)),
    "rotate": Geometry(
        TALL, lambda x: torch.rot90(x, 1, (-2, -1)), lambda m: torch.rot90(m, -1, (-2, -1))
    ),
    "roll by one patch": Geometry(
        SIZE, lambda x: torch.roll(x, PATCH, -1), lambda m: torch.roll(m, -1, -1)
    ),
    "crop": Geometry(
        (80, 96), lambda x: x[..., 16:64, 16:80], lambda m: m, False, (16, 64, 16, 80)
    ),
    "resize and crop": Geometry(
        (128, 160), _resize_and_crop, lambda m: m, False, (16, 112, 16, 144)
    ),
    "pad": Geometry(
        (32, 48), lambda x: F.pad(x, (16, 0, 16, 0)), lambda m: m[..., 1:, 1:], False
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Twin:
    """One choice for each property of a `TwinViT`; the default is a plain ViT."""

    order: str = "rows"
    layout: str = "class first"
    writing: str = "cat"
    readout: str = "class"
    geometry: str = "none"

    def __str__(self) -> str:
        return "; ".join(dataclasses.astuple(self))

    @property
    def kinds(self) -> dict[str, int]:
        """Return the number of tokens of each kind in the sequence, without patches."""
        parts = LAYOUTS[self.layout]
        return {
            kind: sum(last - first for part_kind, first, last in parts if part_kind == kind)
            for kind in PREFIX
            if any(part_kind == kind for part_kind, _, _ in parts)
        }

    @property
    def is_valid(self) -> bool:
        """Return whether the sequence has the tokens that the readout needs."""
        return READOUTS[self.readout] <= set(self.kinds)

    def parts(self) -> tuple[tuple[str, int, int], ...]:
        """The parts of the sequence, in order."""
        return LAYOUTS[self.layout]

    def plain(self) -> PlainTwin:
        """The same function on the inner picture: prefix tokens first, patches by rows."""
        return PlainTwin(readout=self.readout, counts=tuple(self.kinds.items()))


@dataclass(frozen=True)
class PlainTwin(Twin):
    """A twin in the usual form, with given numbers of prefix tokens."""

    counts: tuple[tuple[str, int], ...] = ()

    def parts(self) -> tuple[tuple[str, int, int], ...]:
        """Prefix tokens in the order of `PREFIX`, then the patches."""
        return (*((kind, 0, count) for kind, count in self.counts), *PATCHES_ONLY)


FACTORS = {
    "order": tuple(ORDERS),
    "layout": tuple(LAYOUTS),
    "writing": WRITINGS,
    "readout": tuple(READOUTS),
    "geometry": tuple(GEOMETRIES),
}


class TwinViT(nn.Module):
    """The vision transformer that a `Twin` describes; all twins share their weights."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.twin = twin
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(torch.zeros(PATCHES, WIDTH))
        self.tokens = nn.ParameterDict(
            {kind: nn.Parameter(torch.zeros(1, count, WIDTH)) for kind, count in PREFIX.items()}
        )
        self.blocks = nn.Sequential(
            *(Block(WIDTH, HEADS, mlp_ratio=2.0, qkv_bias=True) for _ in range(DEPTH))
        )
        self.norm = nn.LayerNorm(WIDTH)
        if twin.readout == "query pool":
            self.pool = AttentionPoolLatent(WIDTH, num_heads=HEADS, mlp_ratio=2.0)
        self.head = nn.Linear(2 * WIDTH if twin.readout == "class and mean" else WIDTH, CLASSES)
        if twin.readout == "distilled":
            self.head_second = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 5)."""
        features = self.patch_embed(GEOMETRIES[self.twin.geometry].inside(images))
        batch, order = len(features), ORDERS[self.twin.order]
        if self.twin.order == "columns":
            patches = features.transpose(2, 3).flatten(2).transpose(1, 2)
        else:
            patches = features.flatten(2).transpose(1, 2)
            if self.twin.order == "reversed":
                patches = patches.flip(1)
            elif self.twin.order == "permuted":
                patches = patches[:, order]
        patches = patches + self.positions[order]
        segments = [
            patches[:, first:last]
            if kind == "patches"
            else self.tokens[kind][:, first:last].expand(batch, -1, -1)
            for kind, first, last in self.twin.parts()
        ]
        return self.read(self.norm(self.blocks(write(segments, self.twin.writing))))

    def places(self) -> dict[str, list[int]]:
        """The places in the sequence of the tokens of each kind; patches by their numbers."""
        at: dict[str, dict[int, int]] = {}
        place = 0
        for kind, first, last in self.twin.parts():
            for number in range(first, last):
                token = ORDERS[self.twin.order][number] if kind == "patches" else number
                at.setdefault(kind, {})[token] = place
                place += 1
        return {kind: [tokens[index] for index in sorted(tokens)] for kind, tokens in at.items()}

    def read(self, tokens: Tensor) -> Tensor:
        """Return the logits of a normalised sequence (B, N, D)."""
        places = self.places()
        patches = tokens[:, _as_slice(places["patches"])]
        match self.twin.readout:
            case "class":
                return self.head(tokens[:, places["class"][0]])
            case "mean":
                return self.head(patches.mean(dim=1))
            case "mean of all":
                class_token = [tokens[:, places["class"]]] if "class" in places else []
                return self.head(torch.cat([*class_token, patches], dim=1).mean(dim=1))
            case "class and mean":
                both = [tokens[:, places["class"][0]], patches.mean(dim=1)]
                return self.head(torch.cat(both, dim=-1))
            case "distilled":
                first, second = tokens[:, places["class"][0]], tokens[:, places["second"][0]]
                return (self.head(first) + self.head_second(second)) / 2
            case "max":
                return self.head(patches.amax(dim=1))
            case "query pool":
                return self.head(self.pool(tokens))
            case _:
                return self.head(tokens[:, places["patches"][-1]])


def _as_slice(places: list[int]) -> slice | list[int]:
    """Return a slice where the places follow each other in any order, as real models use."""
    first, last = min(places), max(places)
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def write(segments: list[Tensor], writing: str) -> Tensor:
    """Join segments (B, n, D) to one sequence (B, N, D) by the operation that `writing` names."""
    lengths = [segment.shape[1] for segment in segments]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    batch, count, width = len(segments[0]), sum(lengths), segments[0].shape[2]
    if writing == "cat":
        return torch.cat(segments, dim=1)
    if writing == "nested cat":
        sequence = segments[0]
        for segment in segments[1:]:
            sequence = torch.concat((sequence, segment), dim=1)
        return sequence
    if writing == "stack":
        return torch.stack([token for segment in segments for token in segment.unbind(1)], dim=1)
    if writing == "pad and add":
        padded = [
            F.pad(segment, (0, 0, start, count - start - segment.shape[1]))
            for segment, start in zip(segments, starts, strict=True)
        ]
        return sum(padded[1:], padded[0])
    return _write_into(segments[0].new_empty(batch, count, width), segments, starts, writing)


def _write_into(
    sequence: Tensor, segments: list[Tensor], starts: list[int], writing: str
) -> Tensor:
    for segment, start in zip(segments, starts, strict=True):
        index = torch.arange(start, start + segment.shape[1])
        if writing == "views" and segment.shape[1] == 1:
            sequence[:, start] = segment[:, 0]
        elif writing == "views":
            sequence[:, start : start + segment.shape[1]] = segment
        elif writing == "loop":
            for number in range(segment.shape[1]):
                sequence[:, start + number, :] = segment[:, number]
        elif writing == "index_copy":
            sequence.index_copy_(1, index, segment)
        else:
            sequence = sequence.scatter(1, index[None, :, None].expand_as(segment), segment)
    return sequence


def build(twin: Twin, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build the model of a twin; the name of a parameter decides its values."""
    torch.manual_seed(0)
    model = TwinViT(twin).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(draw * (0.3 if parameter.ndim > 1 else 0.1))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model


def pictures(geometry: str = "none", count: int = 2) -> Tensor:
    """Smooth random pictures (B, 3, H, W) in [0, 1] of the size that a geometry takes."""
    size = GEOMETRIES[geometry].outer
    generator = torch.Generator().manual_seed(1)
    coarse = (size[0] // 4, size[1] // 4)
    noise = torch.rand(count, 3, *coarse, generator=generator, dtype=torch.float64)
    return F.interpolate(noise, size=size, mode="bicubic").clamp(0, 1)


def pairwise(seed: int = 0) -> list[Twin]:
    """Choose valid twins so that each pair of choices that some valid twin has occurs."""
    draw = random.Random(seed)
    missing = dict.fromkeys(_possible_pairs())
    twins: list[Twin] = []
    while missing:
        factors = dict(next(iter(missing)))
        candidates = [twin for _ in range(60) if (twin := _complete(factors, draw)).is_valid]
        best = max(candidates, key=lambda twin: sum(pair in missing for pair in pairs(twin)))
        twins.append(best)
        for pair in pairs(best):
            missing.pop(pair, None)
    return twins


Pair = tuple[tuple[str, str], tuple[str, str]]


def pairs(twin: Twin) -> list[Pair]:
    """List the pairs of choices of one twin."""
    return list(combinations([(factor, getattr(twin, factor)) for factor in FACTORS], 2))


def _possible_pairs() -> Iterator[Pair]:
    for first, second in combinations(FACTORS, 2):
        for left in FACTORS[first]:
            for right in FACTORS[second]:
                fixed = {first: left, second: right}
                if {first, second} != {"layout", "readout"} or Twin(**fixed).is_valid:
                    yield ((first, left), (second, right))


def _complete(factors: dict[str, str], draw: random.Random) -> Twin:
    """Fill the other factors at random, with a readout and a layout that fit each other."""
    choice = {factor: draw.choice(values) for factor, values in FACTORS.items()} | factors
    while not Twin(**choice).is_valid:
        free = "layout" if "layout" not in factors else "readout"
        choice[free] = draw.choice(FACTORS[free])
    return Twin(**choice)
