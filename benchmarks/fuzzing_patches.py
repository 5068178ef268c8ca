"""Areas of hostile numbers: keypoints, densities on grids, masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semattn.density import Scene, concentration, densities, strata
from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints, detect
from semattn.masking import (
    BlockwiseMasking,
    Crop,
    GuidedMasking,
    Masks,
    RandomMasking,
    Schedule,
    kamim_weight,
    kept,
    loss_weights,
    mask_images,
    policies,
)  # fmt: skip

from .fuzzing import NAMES, NEITHER, Chance, Try, number, pick
from .fuzzing_images import anything, array, tensor

GRIDS = (
    PatchGrid((2, 3), (32, 48), (16, 16), 1),
    PatchGrid((1, 1), (16, 16), (16, 16)),
    PatchGrid((1, 9), (4, 36), (4, 4), 5),
    PatchGrid((3, 2), (50, 33), (16.5, 16.0)),
    PatchGrid((4, 4), (31, 31), (7.75, 7.75), 0),
)
COLUMNS = (0.0, -1.0, 5.0, 15.5, 1e9, -1e9, 1e38, np.nan, np.inf, -np.inf)


def smooth(rng: Chance, batch: int, height: int, width: int) -> np.ndarray:
    """Pixels that SIFT finds something in."""
    coarse = rng.integers(0, 256, (batch, -(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy()


def keypoints_of(rng: Chance, size: tuple[int, int]) -> Keypoints:
    """Keypoints as a caller may make them: outside, NaN, of no size, of another length or type."""
    count = pick(rng, (0, 1, 2, 7, 40))
    table = torch.from_numpy(rng.random((count, 5)).astype(np.float32)) * max(size)
    wild = rng.random() < 0.4
    if wild and count:
        for _ in range(int(rng.integers(1, 4))):
            table[int(rng.integers(count)), int(rng.integers(5))] = float(pick(rng, COLUMNS))
    found = Keypoints(
        xy=table[:, :2], response=table[:, 2], size=table[:, 3], angle=table[:, 4],
        descriptor=torch.from_numpy(rng.random((count, 128)).astype(np.float32)),
        image_size=size, detector="drawn",
    )  # fmt: skip
    if rng.random() < 0.15:
        name = pick(rng, ("xy", "response", "size", "angle", "descriptor"))
        value: Any = getattr(found, name)
        change = pick(rng, (
            lambda one: one[:-1], lambda one: one.double(), lambda one: one.to(torch.int64),
            lambda one: -one, lambda one: one * 0, lambda one: one.numpy(), lambda _: None,
            lambda one: one.clone().requires_grad_(), lambda one: one[..., None],
        ))  # fmt: skip
        found = replace(found, **{name: change(value)})
    return found


def keypoints(work: Path) -> Try:
    """Detectors on arrays and with options of every kind, and crops of what they find."""

    def attempt(rng: Chance) -> None:
        kind = rng.random()
        if kind < 0.3:
            crop(rng)
            return
        sides = pick(rng, ((32, 48), (16, 16), (1, 1), (7, 40), (3, 3), (2, 64)))
        pixels = smooth(rng, pick(rng, (0, 1, 1, 2)), *sides) if kind < 0.8 else array(rng)
        options: dict[str, Any] = {}
        for name in ("contrast_threshold", "duplicates", "workers", "descriptors"):
            if rng.random() < 0.1:
                options[name] = pick(rng, ("drop", "keep", True)) if rng.random() < 0.5 else (
                    number(rng))  # fmt: skip
        slow = "sift-skimage" if rng.random() < 0.1 else "sift"
        detector = pick(rng, (*NEITHER, "sirf")) if rng.random() < 0.1 else slow
        for one in detect(pixels, detector, **options):
            assert one.xy.shape == (len(one), 2)
            assert bool(one.xy.isfinite().all())
            assert one.response.shape == one.size.shape == one.angle.shape == (len(one),)

    return attempt


def crop(rng: Chance) -> None:
    """A crop of a picture, and of hostile keypoints in it."""
    size = pick(rng, ((32, 48), (1, 1), (16, 500), (0, 5)))
    wanted = pick(rng, ((16, 16), (1, 1), (40, 8), (0, 3)))
    made = Crop.draw(size, wanted, rng) if rng.random() < 0.5 else Crop.center(size, wanted)
    left, top, width, height = made.box
    assert min(left, top) >= 0
    assert left + width <= size[1]
    assert top + height <= size[0]
    moved = made.keypoints(keypoints_of(rng, size if rng.random() < 0.9 else (3, 3)))
    assert moved.xy.shape == (len(moved), 2)


def density_values(rng: Chance, batch: int, patches: int) -> Any:
    """Something like s (B, P)."""
    kind = rng.random()
    if kind < 0.2:
        return tensor(rng) if rng.random() < 0.7 else pick(rng, (array(rng), *NEITHER))
    s = torch.from_numpy(rng.random((batch, patches))) * pick(rng, (1.0, 0.0, 1e300, 1e-300, -1.0))
    if kind < 0.4 and s.numel():
        s.view(-1)[int(rng.integers(s.numel()))] = float(pick(rng, COLUMNS))
    if kind > 0.9:
        s = s[:, :-1]
    return s.to(pick(rng, (torch.float64, torch.float32, torch.float16, torch.int64)))


def density(work: Path) -> Try:
    """Every density of hostile keypoints on awkward grids, and what is made of a density."""

    def attempt(rng: Chance) -> None:
        grid = pick(rng, GRIDS)
        batch = pick(rng, (0, 1, 1, 2, 3))
        kind = rng.random()
        if kind < 0.6:
            pixels = smooth(rng, batch, *grid.image_size)
            if rng.random() < 0.1:
                pixels = array(rng)
            number_of = batch if rng.random() < 0.95 else int(rng.integers(0, 4))
            found = [keypoints_of(rng, grid.image_size) for _ in range(number_of)]
            scene = Scene(pixels, found, grid, 0 if rng.random() < 0.9 else number(rng))
            s = densities[pick(rng, sorted(densities))](scene)
            assert s.shape == (batch, grid.patches)
            if bool((s.isfinite() & (s >= 0)).all()):
                weights(s, rng)
            else:
                concentration(s)
                raise AssertionError("a density that is none was taken")
        elif kind < 0.8:
            weights(density_values(rng, batch, grid.patches), rng)
        else:
            on_grid(grid, rng)

    return attempt


def weights(s: Any, rng: Chance) -> None:
    """Concentration and strata."""
    if rng.random() < 0.3:
        rows = strata(s, 0 if rng.random() < 0.8 else number(rng))
        assert rows.dtype == torch.int8
        return
    p = concentration(s, *(() if rng.random() < 0.8 else (number(rng),)))
    assert p.shape == s.shape
    assert bool((p >= 0).all())
    torch.testing.assert_close(p.sum(-1), torch.ones(len(p), dtype=torch.float64))


def on_grid(grid: PatchGrid, rng: Chance) -> None:
    """What a grid does to values: to those of a right shape, and to others."""
    given: Any = tensor(rng)
    if rng.random() < 0.6:
        last = pick(rng, (grid.patches, grid.tokens))
        given = torch.from_numpy(rng.random((pick(rng, (0, 1, 2)), last)))
    call = pick(rng, ("drop_prefix", "add_prefix", "fold", "upsample", "pool", "patch_of", "check"))
    if call == "upsample":
        grid.upsample(given, pick(rng, ("bilinear", "nearest", "bicubic", "area", "x", "linear")))
    elif call == "check":
        grid.check(given, "weights")
    elif call == "patch_of":
        places = grid.patch_of(given)
        assert bool(((places >= -1) & (places < grid.patches)).all())
    else:
        getattr(grid, call)(given)


def masking(work: Path) -> Try:
    """Policies with odd numbers, shapes, names and densities: exact counts, or a refusal."""

    def attempt(rng: Chance) -> None:
        kind = rng.random()
        if kind < 0.7:
            policy_masks(rng)
        elif kind < 0.8:
            images_masks(rng)
        elif kind < 0.9:
            given = density_values(rng, 2, 6)
            if rng.random() < 0.5:
                name = pick(rng, ("kamim", "kamim-relative", "none", "x", 3))
                loss_weights(name, given, number(rng), number(rng))
            else:
                made = kamim_weight(given, *(() if rng.random() < 0.5 else (number(rng),)))
                assert made.shape == given.shape
        else:
            schedule = Schedule(number(rng), number(rng), pick(rng, (1, 5, 0, -3)),
                                pick(rng, ("linear", "cosine", "constant", "x")))  # fmt: skip
            assert np.isfinite(schedule(pick(rng, (0, 1, 4, 99, -1))))

    return attempt


def policy_masks(rng: Chance) -> None:
    """The masks of a policy."""
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options["mask_ratio"] = number(rng) if rng.random() < 0.4 else float(rng.random())
    if rng.random() < 0.2:
        options["seed"] = number(rng)
    kind = pick(rng, (RandomMasking, BlockwiseMasking, GuidedMasking))
    if kind is GuidedMasking and rng.random() < 0.5:
        options["beta"] = number(rng)
        options["hint"] = number(rng) if rng.random() < 0.5 else float(rng.random() / 4)
    policy = kind(**options)
    sides = pick(rng, ((3, 4), (1, 1), (1, 9), (14, 14), (0, 3), (-1, 4), (2, 2)))
    batch = pick(rng, (0, 1, 2))
    patches = sides[0] * sides[1]
    images = [pick(rng, (*NAMES, 0, 7, 2**70, -1)) for _ in range(batch)]
    s = None
    if kind is GuidedMasking or rng.random() < 0.2:
        s = density_values(rng, batch, max(patches, 0))
    epoch = 0 if rng.random() < 0.8 else number(rng)
    made = policy.masks(sides, images, s, epoch)
    visible = kept(patches, policy.mask_ratio)
    assert made.noise.shape == (batch, patches)
    assert bool((made.mask.sum(1) == patches - visible).all())
    assert bool(((made.noise > 0) & (made.noise < 1)).all())
    for row in made.noise:
        assert len(row.unique()) == patches


def images_masks(rng: Chance) -> None:
    """The masks of images."""
    given: Any = anything(rng)
    if rng.random() < 0.6:
        given = torch.from_numpy(smooth(rng, pick(rng, (1, 2)), 32, 48)).permute(0, 3, 1, 2) / 255
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["patch_size"] = pick(rng, (8, 5, 0, -4, 1000, 2.5))
    if rng.random() < 0.3:
        options["density"] = pick(rng, (*sorted(densities), "x", *NEITHER))
    if rng.random() < 0.2:
        options["loss_weight"] = pick(rng, ("kamim", "kamim-relative", "x", None))
    if rng.random() < 0.1:
        options["images"] = [pick(rng, NAMES) for _ in range(int(rng.integers(0, 3)))]
    masks = mask_images(given, pick(rng, (*sorted(policies), "x")), **options)
    assert isinstance(masks, Masks)
    assert bool(masks.noise.isfinite().all())
