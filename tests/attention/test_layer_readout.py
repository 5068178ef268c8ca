from __future__ import annotations

import pytest
import torch
from torch import nn

from semattn import record
from semattn.attention.layer_readout import blocks_of, norms_on, watch_norms
from semattn.attention.model_call import ModelCall
from semattn.attention.model_layout import model_layout
from semattn.attention.sites import AttentionSite
from tests import families, models

PLAIN = (
    "cait", "torchvision-vit", "transformers-vit-sdpa", "transformers-vit-eager",
    "transformers-dinov2-registers", "transformers-siglip", "open-clip",
)  # fmt: skip


def self_sites(model):
    return model_layout(model, ModelCall.of(models.images(1))).self_attention_sites


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", [*models.MODELS, *PLAIN])
def test_norms_are_those_of_a_pass_of_its_own(name, batch):
    x = models.images(batch, seed=3)
    with families.shared(name) as model:
        with watch_norms(model, self_sites(model)) as collected:
            recorded = record(model, x, grad=False)
        norms = norms_on(recorded.grid, collected, recorded.in_order)
        outputs = []
        hook = list(blocks_of(model, self_sites(model)).values())[-1].register_forward_hook(
            lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            model(x)
        hook.remove()
        expected = outputs[0][:, -recorded.grid.patches :].norm(dim=-1)
        torch.testing.assert_close(norms, expected)


@pytest.mark.parametrize("name", ["class-token", "registers", "gap"])
def test_norms_are_those_of_the_last_blocks_tokens(name):
    model = models.build(name)
    outputs = []
    hook = model.blocks[-1].register_forward_hook(lambda _m, _i, out: outputs.append(out))
    before = models.state_of(model)
    with watch_norms(model, self_sites(model)) as collected:
        recorded = record(model, models.images(2), grad=False)
    assert models.state_of(model) == before
    hook.remove()
    norms = norms_on(recorded.grid, collected, recorded.in_order)
    expected = outputs[-1].norm(dim=-1)[:, -recorded.grid.patches :]
    torch.testing.assert_close(norms, expected)


def test_tokens_in_windows_and_models_without_blocks_have_none():
    swin = families.build("swin")
    with watch_norms(swin, self_sites(swin)) as collected:
        recorded = record(swin, models.images(2), grad=False)
    assert norms_on(recorded.grid, collected, recorded.in_order) is None
    part = nn.ModuleList([swin.layers[0].blocks[0].attn])
    with watch_norms(part, (AttentionSite("0", 0, "WindowAttention", "self"),)) as collected:
        pass
    assert collected == []


def test_the_hook_goes_when_the_body_raises():
    model = models.build("class-token")
    before = models.state_of(model)
    with pytest.raises(RuntimeError, match="no"), watch_norms(model, self_sites(model)):
        raise RuntimeError("no")
    assert models.state_of(model) == before
