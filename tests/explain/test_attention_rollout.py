"""Rollout, and rollout weighted by the gradient, against products of whole matrices."""

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
WHOLE = ["swin", "hiera", "pvt-v2", "maxvit", "cait", "torchvision-swin", "transformers-vit-eager"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard_ratio", [0.0, 0.6])
def test_rollout_equals_the_oracle(name: str, head_fusion: str, discard_ratio: float) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    options = {"head_fusion": head_fusion, "discard_ratio": discard_ratio}
    dense = dense_record(model, x, TARGET)
    whole = rollout(dense, residual=0.5, class_token=class_token, **options)
    row = readout(dense_record(model, x, TARGET, whole_output=True))
    assert class_token == bool((row[:, 0] == 1).all())
    wanted = torch.einsum("bi,bij->bj", row, whole)[:, prefix:]
    got = AttentionRollout(**options).patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("residual", [0.0, 0.8])
def test_the_residual_is_an_option(residual: float) -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)
    whole = rollout(dense_record(model, x, TARGET), residual=residual)
    got = AttentionRollout(residual=residual).patch_map(model, x).flatten(1)
    torch.testing.assert_close(got, whole[:, 0, 5:], atol=1e-12, rtol=1e-9)


def test_everything_small_is_discarded_where_no_class_token_is_spared() -> None:
    model, x = build("gap", torch.float64), images(dtype=torch.float64)
    got = AttentionRollout(discard_ratio=0.999).patch_map(model, x).flatten(1)
    torch.testing.assert_close(got, torch.full_like(got, 1 / 12), atol=0.1, rtol=0)
    assert not torch.allclose(got, AttentionRollout().patch_map(model, x).flatten(1), atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_gradient_rollout_equals_the_oracle(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    dense = dense_record(model, x, TARGET)
    whole, stays = gradient_rollout(dense)
    row = readout(dense)
    assert class_token == bool((row[:, 0] == 1).all())
    wanted = (torch.einsum("bi,bij->bj", row, whole) - row * stays)[:, prefix:]
    got = GradientRollout().patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(got, wanted, atol=1e-14, rtol=1e-9)


def test_uniform_attention_has_a_closed_form() -> None:
    torch.manual_seed(0)
    model, x = UniformAttention().double(), images(dtype=torch.float64)
    got = AttentionRollout().patch_map(model, x)
    torch.testing.assert_close(got, torch.full_like(got, (1 - 0.5**4) / 13))


def test_an_attention_pool_is_where_the_answer_is_read() -> None:
    model, x = build("attention-pool", torch.float64), images(dtype=torch.float64)
    taken = record(model, x, grad=False)
    wanted = taken.sites[-1].attention().mean(1)[:, 0]
    for one in reversed(taken.sites[:-1]):
        wanted = 0.5 * wanted + 0.5 * torch.einsum("bi,bhij->bj", wanted, one.attention()) / 2
    got = AttentionRollout().patch_map(model, x).flatten(1)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_made_or_lost_in_windows_and_coarser_grids(name: str) -> None:
    """Rows sum to 1, so what arrives sums to 1 in any model: prefix tokens and padding aside."""
    model, x = families.build(name, torch.float64), images(dtype=torch.float64)
    for ratio in (0.0, 0.5):
        got = AttentionRollout(discard_ratio=ratio).patch_map(model, x).flatten(1).sum(1)
        assert bool((got <= 1 + 1e-9).all())
        exact = name in ("hiera", "pvt-v2", "maxvit")
        assert bool((got > (1 - 1e-9 if exact else 0.2)).all()), f"{got.tolist()}"


@pytest.mark.parametrize("name", ["swin", "maxvit", "hiera"])
def test_what_is_discarded_is_decided_image_by_image_in_windows_too(name: str) -> None:
    model, x = families.build(name, torch.float64), images(3, torch.float64)
    method = AttentionRollout(discard_ratio=0.5)
    together = method.patch_map(model, x)
    for image, heat in zip(x, together, strict=True):
        torch.testing.assert_close(method.patch_map(model, image[None])[0], heat)
    assert not torch.allclose(together, AttentionRollout().patch_map(model, x), rtol=0.01)


def test_a_window_is_rolled_out_as_the_whole_image_would_be() -> None:
    """Swin's windows, written as one matrix over all patches, loop by loop."""
    model, x = families.build("swin", torch.float64), images(dtype=torch.float64)
    taken = record(model, x, grad="last", layers=[0, 1], readout="output")
    tokens = taken.grid.tokens
    wanted = taken.readout()
    for one in reversed(taken.sites):
        at = one.keys_at
        assert at.own.shape == taken.grid.shape and at.token is not None and at.image is not None
        whole = torch.zeros(2, tokens, tokens, dtype=torch.float64)
        for group, attention in enumerate(one.attention().mean(1)):
            for i, query in enumerate(at.token[group].tolist()):
                for j, key in enumerate(at.token[group].tolist()):
                    if query >= 0 and key >= 0:
                        whole[at.image[group], query, key] = attention[i, j]
        wanted = 0.5 * wanted + 0.5 * torch.einsum("bi,bij->bj", wanted, whole)
    got = AttentionRollout(layers=[0, 1]).patch_map(model, x).flatten(1)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-9)


def test_chunks_do_not_change_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)

    def made() -> list[Tensor]:
        return [
            AttentionRollout(discard_ratio=0.5).patch_map(model, x),
            GradientRollout().patch_map(model, x, target=TARGET),
        ]

    expected = made()
    monkeypatch.setattr("semattn.attention.site_record.CHUNK_BYTES", 2500)
    for whole, parts in zip(expected, made(), strict=True):
        torch.testing.assert_close(parts, whole)


def test_wrong_options_are_refused_at_once() -> None:
    for wrong in ({"head_fusion": "sum"}, {"discard_ratio": 1.0}, {"residual": -0.1}):
        with pytest.raises(ValueError, match=r"\w+: expected"):
            AttentionRollout(**wrong)
