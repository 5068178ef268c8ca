"""Transition attention against full matrices, alpha by alpha."""

from __future__ import annotations

import pytest
import torch

from semattn import TransitionAttention
from tests.models import build, images
from tests.oracles import dense_record, readout, transition_attention

TARGET = [1, 3]
CASES = {"class-token": (1, True), "registers": (5, True), "gap": (0, False)}


@pytest.mark.parametrize(("start_layer", "first"), [(None, 1), (0, 0), (3, 3)])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_oracle(name: str, start_layer: int | None, first: int) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    prefix, class_token = CASES[name]
    row = readout(dense_record(model, x, TARGET))
    assert class_token == bool((row[:, 0] == 1).all())
    expected = transition_attention(model, x, TARGET, row, first, steps=4)[:, prefix:]
    explainer = TransitionAttention(start_layer=start_layer, steps=4)
    actual = explainer.patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-15, rtol=1e-9)


def test_every_alpha_uses_the_target_of_the_image() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    with torch.no_grad():
        model.head.bias -= model(0 * x)[0]  # equal logits for a zero image
    predicted = model(x).argmax(1)
    assert (model(0 * x).argmax(1) != predicted).any(), (
        "the test needs another prediction for a zero image"
    )
    expected = TransitionAttention(steps=3).attribute(model, x, target=predicted)
    assert torch.equal(TransitionAttention(steps=3).attribute(model, x), expected)


def test_features_use_the_direction_of_the_image() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    model.reset_classifier(0)
    features = model(x).detach()
    direction = features / features.norm(dim=1, keepdim=True)
    expected = TransitionAttention(steps=3).attribute(
        model, x, target=lambda output: (output * direction).sum(1)
    )
    actual = TransitionAttention(steps=3).attribute(model, x)
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=1e-9)


def test_wrong_options_are_refused() -> None:
    for options in ({"steps": 1}, {"start_layer": -1}):
        with pytest.raises(ValueError, match="expected"):
            TransitionAttention(**options)
    with pytest.raises(ValueError, match="start_layer: expected one of the 4 selected layers"):
        TransitionAttention(start_layer=4).attribute(build("class-token"), images(), target=1)
