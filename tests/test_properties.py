"""Properties that hold for every shape, type, target, grid and density, tested with hypothesis."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn

from semattn import SIFTPatchInterrelation, record
from semattn.density import Scene, concentration, densities
from semattn.explain import explainers
from semattn.grid import PatchGrid
from semattn.keypoints import detect
from semattn.masking import num_visible, policies
from tests.models import CLASSES, build, devices, state_of

FEW = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 6)


@cache
def model_of(dtype: torch.dtype, device: str) -> nn.Module:
    return build("registers", dtype).to(device)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.manual_seed(seed))


@pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")
@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", ["sift-patch-interrelation", "attention-rollout", "grad-cam"])
@FEW
@given(
    SEEDS,
    st.integers(1, 3),
    st.integers(-CLASSES, CLASSES - 1),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.booleans(),
)
def test_every_batch_has_a_map_for_any_target(name, device, seed, batch, target, dtype, turned):
    model = model_of(dtype, device)
    x = drawn(seed, batch, 3, 48, 64).to(device, dtype)
    x = x.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3) if turned else x
    before, kept_x = state_of(model), x.clone()
    explanation = explainers[name]().explain(model, x, target=target % CLASSES)
    assert explanation.heat_map.shape == (batch, 48, 64) and explanation.patch_map.shape == (
        batch,
        3,
        4,
    )
    assert explanation.heat_map.isfinite().all() and explanation.heat_map.ge(0).all()
    assert explanation.target.tolist() == [target % CLASSES] * batch
    assert state_of(model) == before and torch.equal(x, kept_x)


@pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")
@FEW
@given(SEEDS, st.integers(2, 4), st.integers(0, CLASSES - 1))
def test_a_map_does_not_depend_on_its_batch(seed, batch, target):
    model, x = model_of(torch.float64, "cpu"), drawn(seed, batch, 3, 48, 64).double()
    together = SIFTPatchInterrelation().patch_map(model, x, target=target)
    turned = SIFTPatchInterrelation().patch_map(model, x.flip(0), target=target).flip(0)
    torch.testing.assert_close(together, turned)
    for row in record(model, x, grad=False).sites[0].attention().sum(dim=-1).flatten().tolist():
        assert row == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")
@pytest.mark.parametrize("name", sorted(set(densities) - {"other"}))
@FEW
@given(SEEDS, SIDES, SIDES, st.sampled_from([8, 14, 16]))
def test_a_density_has_a_number_for_each_patch_of_any_grid(name, seed, rows, columns, cell):
    assume(rows * columns > 1 or name != "shifted")  # which refuses a single patch
    density = densities[name]
    size = (rows * cell, columns * cell)
    pixels = np.random.default_rng(seed).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    needs = getattr(density, "needs", ("keypoints",))
    grid = PatchGrid((rows, columns), size, (cell, cell))
    scene = Scene(pixels, detect(pixels, descriptors="descriptors" in needs), grid, seed % 100)
    values = density(scene)
    assert values.shape == (1, rows * columns) and values.isfinite().all() and values.ge(0).all()
    assert float(concentration(values).sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(policies))
@FEW
@given(SEEDS, st.integers(2, 8), st.integers(2, 8), st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_mask_has_its_count_and_does_not_depend_on_its_batch(name, seed, h, w, ratio, epoch):
    try:
        visible = num_visible(h * w, ratio)
    except ValueError:
        return  # so few patches cannot be parted so
    policy = policies[name](mask_ratio=ratio, seed=seed % 1000)
    s = drawn(seed, 3, h * w)
    masks = policy.masks((h, w), ["a", "b", "c"], s, epoch)
    assert masks.mask.sum(dim=1).tolist() == [h * w - visible] * 3
    assert all(len(set(row)) == h * w for row in masks.noise.tolist())
    assert torch.equal(policy.masks((h, w), ["b"], s[1:2], epoch).noise, masks.noise[1:2])


@FEW
@given(SIDES, SIDES, st.integers(0, 5), st.sampled_from([4, 14, 16]), SEEDS)
def test_patches_and_tokens_go_to_and_fro(rows, columns, prefix, cell, seed):
    grid = PatchGrid((rows, columns), (rows * cell, columns * cell), (cell, cell), prefix=prefix)
    values = drawn(seed, 2, grid.patches)
    assert torch.equal(grid.drop_prefix(grid.add_prefix(values)), values)
    assert grid.add_prefix(values).shape == (2, grid.tokens)
    assert grid.upsample(values).shape == (2, rows * cell, columns * cell)
    centers = torch.as_tensor(grid.centers(), dtype=torch.float32)
    assert grid.patch_of(centers).tolist() == list(range(grid.patches))
