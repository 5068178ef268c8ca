"""Rollout and gradient rollout against products of full attention matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semattn import AttentionRollout, GradientRollout
from semattn.attention import record
from tests import families
from tests.models import UniformAttention, build, images
from tests.oracles import dense_record, gradient_rollout, readout, rollout

TARGET = [1, 3]
CASES = {"class-token": (1, True), "registers": (5, True), "gap": (0, False), "rope": (1, False)}
FAMILIES = [
    "swin",
    "hiera",
    "pvt-v2",
    "maxvit",
    "cait",
    "torchvision-swin",
    "transformers-vit-eager",
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard_ratio", [0.0, 0.6])
def test_rollout_equals_the_oracle(name: str, head_fusion: str, discard_ratio: float) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    options = {"head_fusion": head_fusion, "discard_ratio": discard_ratio}
    reference = dense_record(model, x, TARGET)
    matrix = rollout(reference, residual=0.5, class_token=class_token, **options)
    row = readout(dense_record(model, x, TARGET, whole_output=True))
    assert class_token == bool((row[:, 0] == 1).all())
    expected = torch.einsum("bi,bij->bj", row, matrix)[:, prefix:]
    actual = AttentionRollout(**options).patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("residual", [0.0, 0.8])
def test_the_residual_is_an_option(residual: float) -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)
    matrix = rollout(dense_record(model, x, TARGET), residual=residual)
    actual = AttentionRollout(residual=residual).patch_map(model, x).flatten(1)
    torch.testing.assert_close(actual, matrix[:, 0, 5:], atol=1e-12, rtol=1e-9)


def test_a_large_discard_ratio_without_a_class_token() -> None:
    model, x = build("gap", torch.float64), images(dtype=torch.float64)
    actual = AttentionRollout(discard_ratio=0.999).patch_map(model, x).flatten(1)
    torch.testing.assert_close(actual, torch.full_like(actual, 1 / 12), atol=0.1, rtol=0)
    assert not torch.allclose(actual, AttentionRollout().patch_map(model, x).flatten(1), atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_gradient_rollout_equals_the_oracle(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    reference = dense_record(model, x, TARGET)
    matrix, retained = gradient_rollout(reference)
    row = readout(reference)
    assert class_token == bool((row[:, 0] == 1).all())
    expected = (torch.einsum("bi,bij->bj", row, matrix) - row * retained)[:, prefix:]
    actual = GradientRollout().patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=1e-9)


def test_uniform_attention_has_a_closed_form() -> None:
    torch.manual_seed(0)
    model, x = UniformAttention().double(), images(dtype=torch.float64)
    actual = AttentionRollout().patch_map(model, x)
    torch.testing.assert_close(actual, torch.full_like(actual, (1 - 0.5**4) / 13))


def test_rollout_starts_at_an_attention_pool() -> None:
    model, x = build("attention-pool", torch.float64), images(dtype=torch.float64)
    attention_record = record(model, x, grad=False)
    expected = attention_record.sites[-1].attention().mean(1)[:, 0]
    for site in reversed(attention_record.sites[:-1]):
        expected = (
            0.5 * expected + 0.5 * torch.einsum("bi,bhij->bj", expected, site.attention()) / 2
        )
    actual = AttentionRollout().patch_map(model, x).flatten(1)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_windows_and_coarser_grids_conserve_the_sum(name: str) -> None:
    """Check that maps sum to 1, because rows do, except for prefix tokens and padding."""
    model, x = families.build(name, torch.float64), images(dtype=torch.float64)
    for ratio in (0.0, 0.5):
        actual = AttentionRollout(discard_ratio=ratio).patch_map(model, x).flatten(1).sum(1)
        assert bool((actual <= 1 + 1e-9).all())
        exact = name in ("hiera", "pvt-v2", "maxvit")
        assert bool((actual > (1 - 1e-9 if exact else 0.2)).all()), f"{actual.tolist()}"


@pytest.mark.parametrize("name", ["swin", "maxvit", "hiera"])
def test_windows_are_discarded_image_by_image(name: str) -> None:
    model, x = families.build(name, torch.float64), images(3, torch.float64)
    method = AttentionRollout(discard_ratio=0.5)
    batched = method.patch_map(model, x)
    for image, heat_map in zip(x, batched, strict=True):
        torch.testing.assert_close(method.patch_map(model, image[None])[0], heat_map)
    assert not torch.allclose(batched, AttentionRollout().patch_map(model, x), rtol=0.01)


def test_rollout_of_windows_equals_the_full_matrix() -> None:
    """Expand the windows of Swin to one matrix over all patches."""
    model, x = families.build("swin", torch.float64), images(dtype=torch.float64)
    attention_record = record(model, x, grad="last", layers=[0, 1], readout="output")
    tokens = attention_record.grid.tokens
    expected = attention_record.readout()
    for site in reversed(attention_record.sites):
        keys_at = site.keys_at
        assert (
            keys_at.call_grid.shape == attention_record.grid.shape
            and keys_at.token is not None
            and keys_at.image is not None
        )
        matrix = torch.zeros(2, tokens, tokens, dtype=torch.float64)
        for group, attention in enumerate(site.attention().mean(1)):
            for i, query in enumerate(keys_at.token[group].tolist()):
                for j, key in enumerate(keys_at.token[group].tolist()):
                    if query >= 0 and key >= 0:
                        matrix[keys_at.image[group], query, key] = attention[i, j]
        expected = 0.5 * expected + 0.5 * torch.einsum("bi,bij->bj", expected, matrix)
    actual = AttentionRollout(layers=[0, 1]).patch_map(model, x).flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-9)


def test_chunks_do_not_change_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)

    def compute_maps() -> list[Tensor]:
        return [
            AttentionRollout(discard_ratio=0.5).patch_map(model, x),
            GradientRollout().patch_map(model, x, target=TARGET),
        ]

    full = compute_maps()
    monkeypatch.setattr("semattn.attention.attention_record.CHUNK_BYTES", 2500)
    for expected, actual in zip(full, compute_maps(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_wrong_options_are_refused_at_once() -> None:
    for options in ({"head_fusion": "sum"}, {"discard_ratio": 1.0}, {"residual": -0.1}):
        with pytest.raises(ValueError, match=r"\w+: expected"):
            AttentionRollout(**options)
