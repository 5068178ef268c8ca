"""Fuzzing areas: keypoints, densities on grids, and masks."""

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
    LOSS_WEIGHTS,
    BlockwiseMasking,
    Crop,
    GuidedMasking,
    Masks,
    RandomMasking,
    Schedule,
    kamim_weight,
    loss_weights,
    mask_images,
    num_visible,
    policies,
)  # fmt: skip

from .fuzzing import NAMES, ODD_VALUES, Attempt, Generator, pick, random_number
from .fuzzing_images import random_array, random_image_input, random_tensor

GRIDS = (
    PatchGrid((2, 3), (32, 48), (16, 16), 1),
    PatchGrid((1, 1), (16, 16), (16, 16)),
    PatchGrid((1, 9), (4, 36), (4, 4), 5),
    PatchGrid((3, 2), (50, 33), (16.5, 16.0)),
    PatchGrid((4, 4), (31, 31), (7.75, 7.75), 0),
)
SPECIAL_VALUES = (0.0, -1.0, 5.0, 15.5, 1e9, -1e9, 1e38, np.nan, np.inf, -np.inf)


def random_pixels(rng: Generator, batch: int, height: int, width: int) -> np.ndarray:
    """Return random pixels in which SIFT finds keypoints."""
    coarse = rng.integers(0, 256, (batch, -(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].copy()


def random_keypoints(rng: Generator, size: tuple[int, int]) -> Keypoints:
    """Return keypoints that may be invalid: outside, NaN, of size 0, of another length or type."""
    count = pick(rng, (0, 1, 2, 7, 40))
    table = torch.from_numpy(rng.random((count, 5)).astype(np.float32)) * max(size)
    has_special_values = rng.random() < 0.4
    if has_special_values and count:
        for _ in range(int(rng.integers(1, 4))):
            table[int(rng.integers(count)), int(rng.integers(5))] = float(pick(rng, SPECIAL_VALUES))
    keypoints = Keypoints(
        xy=table[:, :2], response=table[:, 2], size=table[:, 3], angle=table[:, 4],
        descriptor=torch.from_numpy(rng.random((count, 128)).astype(np.float32)),
        image_size=size, detector="drawn",
    )  # fmt: skip
    if rng.random() < 0.15:
        name = pick(rng, ("xy", "response", "size", "angle", "descriptor"))
        value: Any = getattr(keypoints, name)
        change = pick(rng, (
            lambda v: v[:-1], lambda v: v.double(), lambda v: v.to(torch.int64),
            lambda v: -v, lambda v: v * 0, lambda v: v.numpy(), lambda _: None,
            lambda v: v.clone().requires_grad_(), lambda v: v[..., None],
        ))  # fmt: skip
        keypoints = replace(keypoints, **{name: change(value)})
    return keypoints


def keypoint_detection(work: Path) -> Attempt:
    """Return the attempt on detectors with odd arrays and options, and on crops of keypoints."""

    def attempt(rng: Generator) -> None:
        kind = rng.random()
        if kind < 0.3:
            check_crop(rng)
            return
        sides = pick(rng, ((32, 48), (16, 16), (1, 1), (7, 40), (3, 3), (2, 64)))
        pixels = (
            random_pixels(rng, pick(rng, (0, 1, 1, 2)), *sides) if kind < 0.8 else random_array(rng)
        )
        options: dict[str, Any] = {}
        for name in ("contrast_threshold", "duplicates", "workers", "descriptors"):
            if rng.random() < 0.1:
                options[name] = pick(rng, ("drop", "keep", True)) if rng.random() < 0.5 else (
                    random_number(rng))  # fmt: skip
        detector_name = "sift-skimage" if rng.random() < 0.1 else "sift"
        detector = pick(rng, (*ODD_VALUES, "sirf")) if rng.random() < 0.1 else detector_name
        for image_keypoints in detect(pixels, detector, **options):
            assert image_keypoints.xy.shape == (len(image_keypoints), 2)
            assert bool(image_keypoints.xy.isfinite().all())
            assert (
                image_keypoints.response.shape
                == image_keypoints.size.shape
                == image_keypoints.angle.shape
                == (len(image_keypoints),)
            )

    return attempt


def check_crop(rng: Generator) -> None:
    """Crop an image and odd keypoints in it."""
    size = pick(rng, ((32, 48), (1, 1), (16, 500), (0, 5)))
    crop_size = pick(rng, ((16, 16), (1, 1), (40, 8), (0, 3)))
    crop = Crop.draw(size, crop_size, rng) if rng.random() < 0.5 else Crop.center(size, crop_size)
    left, top, width, height = crop.box
    assert min(left, top) >= 0
    assert left + width <= size[1]
    assert top + height <= size[0]
    cropped = crop.keypoints(random_keypoints(rng, size if rng.random() < 0.9 else (3, 3)))
    assert cropped.xy.shape == (len(cropped), 2)


def random_density(rng: Generator, batch: int, patches: int) -> Any:
    """Return values similar to a density s (B, P)."""
    kind = rng.random()
    if kind < 0.2:
        return (
            random_tensor(rng)
            if rng.random() < 0.7
            else pick(rng, (random_array(rng), *ODD_VALUES))
        )
    s = torch.from_numpy(rng.random((batch, patches))) * pick(rng, (1.0, 0.0, 1e300, 1e-300, -1.0))
    if kind < 0.4 and s.numel():
        s.view(-1)[int(rng.integers(s.numel()))] = float(pick(rng, SPECIAL_VALUES))
    if kind > 0.9:
        s = s[:, :-1]
    return s.to(pick(rng, (torch.float64, torch.float32, torch.float16, torch.int64)))


def density_functions(work: Path) -> Attempt:
    """Return the attempt on densities with odd keypoints and grids, and on functions of them."""

    def attempt(rng: Generator) -> None:
        grid = pick(rng, GRIDS)
        batch = pick(rng, (0, 1, 1, 2, 3))
        kind = rng.random()
        if kind < 0.6:
            pixels = random_pixels(rng, batch, *grid.image_size)
            if rng.random() < 0.1:
                pixels = random_array(rng)
            num_images = batch if rng.random() < 0.95 else int(rng.integers(0, 4))
            keypoints = [random_keypoints(rng, grid.image_size) for _ in range(num_images)]
            scene = Scene(pixels, keypoints, grid, 0 if rng.random() < 0.9 else random_number(rng))
            s = densities[pick(rng, sorted(densities))](scene)
            assert s.shape == (batch, grid.patches)
            if bool((s.isfinite() & (s >= 0)).all()):
                check_concentration(s, rng)
            else:
                concentration(s)
                raise AssertionError("an invalid density was accepted")
        elif kind < 0.8:
            check_concentration(random_density(rng, batch, grid.patches), rng)
        else:
            check_grid(grid, rng)

    return attempt


def check_concentration(s: Any, rng: Generator) -> None:
    """Check concentration and strata."""
    if rng.random() < 0.3:
        rows = strata(s, 0 if rng.random() < 0.8 else random_number(rng))
        assert rows.dtype == torch.int8
        return
    p = concentration(s, *(() if rng.random() < 0.8 else (random_number(rng),)))
    assert p.shape == s.shape
    assert bool((p >= 0).all())
    torch.testing.assert_close(p.sum(-1), torch.ones(len(p), dtype=torch.float64))


def check_grid(grid: PatchGrid, rng: Generator) -> None:
    """Call the methods of a grid with values of the right shape and of other shapes."""
    values: Any = random_tensor(rng)
    if rng.random() < 0.6:
        last = pick(rng, (grid.patches, grid.tokens))
        values = torch.from_numpy(rng.random((pick(rng, (0, 1, 2)), last)))
    method = pick(
        rng, ("drop_prefix", "add_prefix", "fold", "upsample", "pool", "patch_of", "check")
    )
    if method == "upsample":
        grid.upsample(values, pick(rng, ("bilinear", "nearest", "bicubic", "area", "x", "linear")))
    elif method == "check":
        grid.check(values, "weights")
    elif method == "patch_of":
        patches = grid.patch_of(values)
        assert bool(((patches >= -1) & (patches < grid.patches)).all())
    else:
        getattr(grid, method)(values)


def mask_policies(work: Path) -> Attempt:
    """Return the attempt on masking policies with odd arguments: exact counts, or a refusal."""

    def attempt(rng: Generator) -> None:
        kind = rng.random()
        if kind < 0.7:
            check_policy(rng)
        elif kind < 0.8:
            check_image_masks(rng)
        elif kind < 0.9:
            values = random_density(rng, 2, 6)
            if rng.random() < 0.5:
                name = pick(rng, (*LOSS_WEIGHTS, "x", 3))
                loss_weights(name, values, random_number(rng), random_number(rng))
            else:
                weights = kamim_weight(
                    values, *(() if rng.random() < 0.5 else (random_number(rng),))
                )
                assert weights.shape == values.shape
        else:
            schedule = Schedule(random_number(rng), random_number(rng), pick(rng, (1, 5, 0, -3)),
                                pick(rng, ("linear", "cosine", "constant", "x")))  # fmt: skip
            assert np.isfinite(schedule(pick(rng, (0, 1, 4, 99, -1))))

    return attempt


def check_policy(rng: Generator) -> None:
    """Check the masks of a policy."""
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options["mask_ratio"] = random_number(rng) if rng.random() < 0.4 else float(rng.random())
    if rng.random() < 0.2:
        options["seed"] = random_number(rng)
    kind = pick(rng, (RandomMasking, BlockwiseMasking, GuidedMasking))
    if kind is GuidedMasking and rng.random() < 0.5:
        options["beta"] = random_number(rng)
        options["hint"] = random_number(rng) if rng.random() < 0.5 else float(rng.random() / 4)
    policy = kind(**options)
    sides = pick(rng, ((3, 4), (1, 1), (1, 9), (14, 14), (0, 3), (-1, 4), (2, 2)))
    batch = pick(rng, (0, 1, 2))
    patches = sides[0] * sides[1]
    images = [pick(rng, (*NAMES, 0, 7, 2**70, -1)) for _ in range(batch)]
    s = None
    if kind is GuidedMasking or rng.random() < 0.2:
        s = random_density(rng, batch, max(patches, 0))
    epoch = 0 if rng.random() < 0.8 else random_number(rng)
    masks = policy.masks(sides, images, s, epoch)
    visible = num_visible(patches, policy.mask_ratio)
    assert masks.noise.shape == (batch, patches)
    assert bool((masks.mask.sum(1) == patches - visible).all())
    assert bool(((masks.noise > 0) & (masks.noise < 1)).all())
    for row in masks.noise:
        assert len(row.unique()) == patches


def check_image_masks(rng: Generator) -> None:
    """Check the masks of images."""
    images: Any = random_image_input(rng)
    if rng.random() < 0.6:
        images = (
            torch.from_numpy(random_pixels(rng, pick(rng, (1, 2)), 32, 48)).permute(0, 3, 1, 2)
            / 255
        )
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["patch_size"] = pick(rng, (8, 5, 0, -4, 1000, 2.5))
    if rng.random() < 0.3:
        options["density"] = pick(rng, (*sorted(densities), "x", *ODD_VALUES))
    if rng.random() < 0.2:
        options["loss_weight"] = pick(rng, (*LOSS_WEIGHTS, "x", None))
    if rng.random() < 0.3:
        options["target"] = pick(rng, ("sift", "hog+colour", "pixels", "words", "x", *ODD_VALUES))
        options["window"] = pick(rng, (8.0, 24, 0, -1, float("nan"), "x"))
    if rng.random() < 0.1:
        options["images"] = [pick(rng, NAMES) for _ in range(int(rng.integers(0, 3)))]
    masks = mask_images(images, pick(rng, (*sorted(policies), "x")), **options)
    assert isinstance(masks, Masks)
    assert bool(masks.noise.isfinite().all())
    assert masks.target is None or bool(masks.target.isfinite().all())
