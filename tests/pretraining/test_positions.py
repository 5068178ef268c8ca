"""A new masked autoencoder knows where its patches are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from semattn.pretraining import build_model
from semattn.pretraining.positions import add_positions, sincos

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip


def tensors(model):
    encoder, decoder = model.vit.embeddings, model.decoder
    return (encoder.position_embeddings, decoder.decoder_pos_embed, encoder.cls_token,
            decoder.mask_token)  # fmt: skip


def test_positions_are_those_of_the_formula():
    made = sincos((3, 4), 8).numpy()
    assert made.shape == (13, 8)
    assert not made[0].any()
    for row in range(3):
        for column in range(4):
            expected = []
            for at in (column, row):
                angles = [at, at / 10_000**0.5]
                expected += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(made[1 + 4 * row + column], expected, rtol=0, atol=1e-6)


def test_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"multiple of 4 .* got 6"):
        sincos((2, 2), 6)


def test_a_new_model_has_positions_and_tokens():
    model = build_model(SMALL, image_size=32, patch_size=8, seed=3)
    encoder, decoder, cls, mask = tensors(model)
    for made in (encoder, decoder):
        assert torch.equal(made[0], sincos((4, 4), made.shape[-1]))
        assert not made.requires_grad
    for token in (cls, mask):
        assert 0 < token.std() < 0.05
    again = build_model(SMALL, image_size=32, patch_size=8, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(model), tensors(again), strict=True))


def test_what_is_there_already_stays():
    model = build_model(SMALL, image_size=32, patch_size=8)
    with torch.no_grad():
        for one in tensors(model):
            one.fill_(0.5)
    before = copy.deepcopy(model.state_dict())
    add_positions(model)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_the_model_tells_places_apart():
    """The same patches in another order are another image to it."""
    model = build_model(SMALL, image_size=32, patch_size=8).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 32, 32, generator=generator)
    noise = torch.arange(16.0).expand(1, -1)
    with torch.no_grad():
        logits = model(pixels, noise=noise).logits
    hidden = logits[0, 4:]  # no pixels of their own: they differ by place alone
    assert (hidden[1:] - hidden[0]).abs().amax(dim=1).min() > 1e-4
