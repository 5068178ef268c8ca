"""The study of low precision compares each precision with float32, and leaves TF32 as it was."""

from __future__ import annotations

import pytest
import torch

from benchmarks.studies.cost.precision_agreement import explain_all, measure, tf32, variants
from tests.audit.pictures import picture, tiny


def test_each_precision_is_compared_with_float32():
    model = tiny()
    rows = measure(model, [picture(number) for number in range(4)], 2)
    assert [row["precision"] for row in rows] == ["float32", "bfloat16 autocast", "bfloat16"]
    assert rows[0]["mean"] == pytest.approx(1) and rows[0]["same_class"] == 100
    assert all(0.8 < row["lowest"] <= row["mean"] <= 1 for row in rows[1:])
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_precision_reaches_the_model():
    model, pictures = tiny(), [picture(1)]
    maps = {
        name: explain_all(model.to(dtype), pictures, [0], 1, context)[0]
        for name, (dtype, context) in variants("cpu").items()
    }
    for name in ("bfloat16 autocast", "bfloat16"):
        assert (maps[name] != maps["float32"]).any(), name


def test_tf32_is_allowed_only_inside():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with tf32():
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert before == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
