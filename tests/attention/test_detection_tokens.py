"""Detection tokens after the patches, as in YOLOS: each output is read from its own token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semattn import record

DETECTIONS = 10


def _yolos() -> nn.Module:
    from transformers import YolosConfig, YolosForObjectDetection

    torch.manual_seed(0)
    model = YolosForObjectDetection(
        YolosConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            image_size=[64, 64], patch_size=16, num_detection_tokens=DETECTIONS, num_labels=4,
            use_mid_position_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


@pytest.mark.parametrize("number", [0, 3, 9])
def test_a_detection_is_read_from_its_own_token(number: int) -> None:
    model = _yolos()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.manual_seed(1))

    def detection(output: Any) -> Tensor:
        return output.logits[:, number, 1]

    recorded = record(model, x, target=detection)
    assert recorded.grid.shape == (4, 4) and recorded.grid.prefix == 1 + DETECTIONS
    token = 1 + number  # the class token, before the patches, is number 0
    assert torch.equal(recorded.readout(), torch.eye(27, dtype=torch.float64)[token].expand(2, -1))


def test_the_key_that_changes_is_that_of_the_changed_patch() -> None:
    model = _yolos()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=torch.manual_seed(1))
    before = record(model, x, layers=0, grad=False)
    for patch in (0, 5, 10, 15):
        row, column = divmod(patch, 4)
        moved = x.clone()
        moved[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 0.5
        after = record(model, moved, layers=0, grad=False)
        keys = [recorded.sites[0].key for recorded in (before, after)]
        change = (keys[1] - keys[0]).abs().sum(dim=-1)
        placed = before.sites[0].keys_at.to_grid(change).sum(dim=1)[0]
        assert (placed > 1e-9).nonzero().flatten().tolist() == [11 + patch]
