"""Targets: all that Captum takes, the same numbers, and one line for what is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from captum._utils.common import _select_targets
from torch import nn

from semattn.attention.target import output_tensor, score
from semattn.errors import TargetError, UnsupportedModelError

OUTPUT = torch.arange(12.0).reshape(3, 4)
DEEP = torch.arange(60.0).reshape(3, 4, 5)
PLAIN = nn.Identity()


@pytest.mark.parametrize(
    ("output", "target", "classes"),
    [
        (OUTPUT, 2, [2, 2, 2]),
        (OUTPUT, (1,), [1, 1, 1]),
        (OUTPUT, torch.tensor(3), [3, 3, 3]),
        (OUTPUT, torch.tensor([3]), [3, 3, 3]),
        (OUTPUT, torch.tensor([0, 1, 3]), [0, 1, 3]),
        (OUTPUT, [0, 1, 3], [0, 1, 3]),
        (OUTPUT, [(0,), (1,), (3,)], [0, 1, 3]),
        (DEEP, (1, 4), None),
        (DEEP, [(0, 0), (3, 4), (1, 2)], None),
    ],
)
def test_every_kind_of_captum_target(output, target, classes) -> None:  # type: ignore[no-untyped-def]
    chosen, numbers = score(output, target, PLAIN)
    assert torch.equal(chosen, _select_targets(output, target))
    assert (None if numbers is None else numbers.tolist()) == classes


def test_none_is_the_predicted_class() -> None:
    chosen, numbers = score(-OUTPUT, None, PLAIN)
    assert chosen.tolist() == [0, -4, -8]
    assert numbers is not None and numbers.tolist() == [0, 0, 0]
    chosen, numbers = score(torch.tensor([3.0, 4.0]), None, PLAIN)
    assert chosen.tolist() == [3, 4] and numbers is None


def test_none_without_a_classifier_is_the_features_own_direction() -> None:
    features = torch.tensor([[3.0, 4.0]], requires_grad=True)
    headless = nn.Identity()
    headless.num_classes = 0
    chosen, numbers = score(features, None, headless)
    assert chosen.tolist() == [5] and numbers is None
    (gradient,) = torch.autograd.grad(chosen.sum(), features)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (OUTPUT, 4, "expected 0 to 3 for an output of shape .*, got 4"),
        (OUTPUT, -1, "expected 0 to 3"),
        (OUTPUT, [0, 1], "expected 3, one an image, got 2"),
        (OUTPUT, torch.tensor([0.0, 1.0, 2.0]), "expected whole numbers"),
        (OUTPUT, torch.tensor([[0], [1], [2]]), "expected whole numbers"),
        (OUTPUT, (1, 2), "expected 1 indices"),
        (OUTPUT, "cat", "expected a class number"),
        (OUTPUT, True, "expected a class number"),
        (OUTPUT, [0, 1, 9], "got 9"),
        (DEEP, 1, "expected 2 indices"),
        (DEEP, None, "got None"),
    ],
)
def test_wrong_targets_are_one_clear_line(output, target, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TargetError, match=words) as raised:
        score(output, target, PLAIN)
    assert "\n" not in str(raised.value)


def test_outputs_of_many_kinds() -> None:
    assert output_tensor(OUTPUT) is OUTPUT
    assert output_tensor({"loss": 1, "logits": OUTPUT}) is OUTPUT
    assert output_tensor({"features": OUTPUT}) is OUTPUT
    assert output_tensor((OUTPUT, DEEP)) is OUTPUT
    assert output_tensor(SimpleNamespace(logits=OUTPUT)) is OUTPUT
    for wrong in (None, {}, [], "logits", torch.tensor(1.0)):
        with pytest.raises(UnsupportedModelError, match="model output: expected a tensor"):
            output_tensor(wrong)
