"""Sweep of AttnLRP over timm: the choice of models, and the row of one model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.tools import sweep_propagation
from benchmarks.tools.sweep_propagation import attempt, small_models
from semattn.zoo.model_status import families, model_statuses


def test_each_family_has_one_model_that_works_if_any_does():
    statuses = model_statuses()
    chosen = small_models()
    assert set(chosen) == {family.name for family in families(statuses)}
    for family in families(statuses):
        is_working = statuses[chosen[family.name]].status == "works"
        assert is_working == bool(family.counts["works"])


def test_the_row_of_a_small_model():
    row = attempt("test_vit", "vision_transformer")
    assert row["status"] == "works" and row["twin"] == "equal"
    assert row["conservation"] == pytest.approx(1, abs=0.01) and "not_checked" not in row


@pytest.mark.parametrize("ratio", [0.9, float("nan")])
def test_a_wrong_twin_and_a_lost_part_are_wrong(monkeypatch, ratio):
    class Lossy(nn.Module):
        """A model without attention in its explanation; the explainer is replaced below."""

        def forward(self, x):
            return x.mean((2, 3))

    monkeypatch.setattr(sweep_propagation, "_twin", lambda *_: "wrong by 1.0e-01")
    monkeypatch.setattr(sweep_propagation, "_conservation", lambda *_: (ratio, ""))

    class Explainer:
        def __init__(self, **_):
            pass

        def explain(self, *_, **__):
            heat_map = torch.ones(1, 4, 4)
            grid = type("Grid", (), {"shape": (2, 2)})
            return type("Map", (), {"heat_map": heat_map, "grid": grid, "notes": ()})

    monkeypatch.setattr("semattn.AttnLRP", Explainer)
    row = sweep_propagation._explained(Lossy(), torch.ones(1, 3, 4, 4))
    assert row["status"] == "wrong"
    assert row["reason"] == (
        f"twin: wrong by 1.0e-01; the sum of the relevance is {ratio:.3f} of the score"
    )
