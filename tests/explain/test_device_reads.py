"""How often the program waits for the device while a batch is explained, and how much it calls."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import semattn
from semattn.explain import Explainer
from tests.accelerator import accelerator, reads
from tests.conftest import tiny

# Reads of one batch: the pixels for SIFT, whether gradients are finite, the queries with a weight,
# whether the affinity is solved, and what the notes say. Methods with several passes repeat some.
READS = {
    "sift-patch-interrelation": 5, "raw-attention": 5, "attention-rollout": 5,
    "gradient-rollout": 4, "generic-relevance": 4, "legrad": 6, "grad-cam": 5, "attn-lrp": 5,
    "keypoint-density": 4, "random": 4, "center": 4, "input-x-gradient": 4, "occlusion": 8,
}  # fmt: skip
OPERATORS = 1.6  # calls of an explained batch, as a multiple of forward and backward


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.manual_seed(0))


def explain(name: str, model: torch.nn.Module, inputs: torch.Tensor) -> None:
    explainer: Explainer = semattn.explainers.resolve(name)()
    target = torch.ones(len(inputs), dtype=torch.long)
    explainer.explain(model, inputs, target=target, manifest={"weights_sha256": ""})


@cache
def device_model(device: torch.device) -> torch.nn.Module:
    return tiny().to(device)


@pytest.mark.parametrize("name", READS)
def test_the_device_is_read_a_few_times_for_any_number_of_images(name):
    with accelerator() as device:
        model = device_model(device)
        explain(name, model, images(8).to(device))  # the layout of the model is traced once
        counts = []
        for count in (8, 3):
            inputs = images(count).to(device)
            reads.clear()
            explain(name, model, inputs)
            counts.append(reads.total())
    assert counts == [READS[name], READS[name]], reads


def test_a_read_is_counted():
    with accelerator() as device:
        values = torch.ones(2).to(device)
        for name in ("tolist", "cpu", "nonzero"):
            reads.clear()
            getattr(values, name)()
            assert reads.total() == 1, name
        reads.clear()
        assert bool(values[0] > 0) and reads.total() == 1


class Calls(TorchDispatchMode):
    """Counts the calls of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_explaining_calls_little_more_than_forward_and_backward():
    model, inputs = tiny(), images(8)
    explain("sift-patch-interrelation", model, inputs)
    with Calls() as backward:
        variable = inputs.clone().requires_grad_()
        model(variable)[:, 1].sum().backward()
    with Calls() as explained:
        explain("sift-patch-interrelation", model, inputs)
    assert explained.count.total() <= OPERATORS * backward.count.total()
    assert explained.count["aten._local_scalar_dense.default"] <= 5
