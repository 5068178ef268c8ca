"""Tests of the position embeddings of new masked autoencoders."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from semattn.pretraining import build_model
from semattn.pretraining.models import add_positions, sincos

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip


def tensors(model):
    encoder, decoder = model.vit.embeddings, model.decoder
    return (encoder.position_embeddings, decoder.decoder_pos_embed, encoder.cls_token,
            decoder.mask_token)  # fmt: skip


def test_positions_match_the_formula():
    encoding = sincos((3, 4), 8).numpy()
    assert encoding.shape == (13, 8)
    assert not encoding[0].any()
    for row in range(3):
        for column in range(4):
            expected = []
            for coordinate in (column, row):
                angles = [coordinate, coordinate / 10_000**0.5]
                expected += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(encoding[1 + 4 * row + column], expected, rtol=0, atol=1e-6)


def test_a_width_that_is_no_multiple_of_4_is_refused():
    with pytest.raises(ValueError, match=r"multiple of 4 .* got 6"):
        sincos((2, 2), 6)


def test_a_new_model_has_positions_and_tokens():
    model = build_model(SMALL, image_size=32, patch_size=8, seed=3)
    encoder, decoder, cls, mask = tensors(model)
    for positions in (encoder, decoder):
        assert torch.equal(positions[0], sincos((4, 4), positions.shape[-1]))
        assert not positions.requires_grad
    for token in (cls, mask):
        assert 0 < token.std() < 0.05
    again = build_model(SMALL, image_size=32, patch_size=8, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(model), tensors(again), strict=True))


def test_existing_values_are_unchanged():
    model = build_model(SMALL, image_size=32, patch_size=8)
    with torch.no_grad():
        for tensor in tensors(model):
            tensor.fill_(0.5)
    before = copy.deepcopy(model.state_dict())
    add_positions(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_model_uses_positions():
    """Masked patches differ only by position, and get different predictions."""
    model = build_model(SMALL, image_size=32, patch_size=8).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 32, 32, generator=generator)
    noise = torch.arange(16.0).expand(1, -1)
    with torch.no_grad():
        logits = model(pixels, noise=noise).logits
    hidden = logits[0, 4:]  # masked patches differ only by position
    assert (hidden[1:] - hidden[0]).abs().amax(dim=1).min() > 1e-4
