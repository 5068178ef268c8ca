"""Training of the last layer from stored inputs, against the model's own forward pass."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.studies.prompting.gain import load
from benchmarks.studies.spurious.last_block import (
    class_token,
    last_inputs,
    train_last_block,
    trained_part,
    with_trained_part,
)
from benchmarks.studies.spurious.search import backbone


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


@torch.inference_mode()
def test_the_class_token_is_that_of_the_model():
    model = load(torch.float32)
    inputs = torch.randn(2, 257, 384, generator=torch.manual_seed(0))
    expected = model.blocks[-1](inputs)[:, 0]
    torch.testing.assert_close(
        class_token(model.blocks[-1], inputs), expected, atol=1e-4, rtol=1e-4
    )


def test_a_trained_model_separates_its_classes_and_leaves_the_backbone():
    pictures = images(64)
    labels = np.arange(len(pictures)) % 2
    pictures[labels == 1, :112] //= 4
    inputs = last_inputs(pictures)
    assert inputs.shape == (len(pictures), 257, 384) and inputs.dtype == np.float16
    before = {name: value.clone() for name, value in backbone().state_dict().items()}
    model = train_last_block(inputs, labels, 2, seed=0)
    after = backbone().state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    with torch.inference_mode():
        tokens = class_token(model.blocks[-1], torch.from_numpy(inputs).float())
        predicted = model.head(model.norm(tokens)).argmax(-1).numpy()
    assert (predicted == labels).mean() > 0.9
    again = with_trained_part(trained_part(model))
    with torch.inference_mode():
        torch.testing.assert_close(
            again(torch.ones(1, 3, 224, 224)), model(torch.ones(1, 3, 224, 224))
        )
