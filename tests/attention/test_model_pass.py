"""Gradient of BatchNorm2d for every memory layout."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from semattn.attention.model_pass import correct_batchnorm_gradients

SHAPE = (16, 3, 4)


def _laid_out(kind: str, batch: int) -> Tensor:
    picture = torch.randn(batch, *SHAPE, dtype=torch.float64)
    if kind == "channels-last":
        return picture.to(memory_format=torch.channels_last)
    if kind == "tokens":  # strides of .transpose(1, 2).unflatten(2, (3, 4)) for a single image
        tokens = picture.flatten(2).transpose(1, 2).contiguous()
        return tokens.as_strided(picture.shape, (16 if batch == 1 else 192, 1, 64, 16))
    return picture


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("entering", "returning"),
    list(itertools.product(("channels-first", "channels-last", "tokens"), repeat=2)),
)
def test_the_gradient_is_that_of_the_formula(batch: int, entering: str, returning: str) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16).double().eval()
    nn.init.normal_(norm.weight)
    norm.running_var.uniform_(0.5, 2)
    x, gradient = _laid_out(entering, batch).requires_grad_(), _laid_out(returning, batch)
    plain = norm(x)
    with correct_batchnorm_gradients(norm):
        output = norm(x)
        (got,) = torch.autograd.grad(output, x, gradient)
    assert torch.equal(output, plain)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(got, gradient * scale.detach()[:, None, None])
    assert not norm._forward_hooks and not norm._forward_pre_hooks
