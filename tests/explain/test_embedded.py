"""The embedded model on a photograph, against full attention matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import semattn
from semattn.attention import record
from semattn.prompting import Box
from semattn.prompting.strength_sweep import strength_sweep
from semattn.viz.strength_figure import _outcome
from tests.models import state_of
from tests.oracles import dense_record

PHOTO = Path(__file__).parents[2] / "examples" / "flower.jpg"


@pytest.mark.weights
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_photograph_end_to_end(dtype: torch.dtype, tolerance: float) -> None:
    model = semattn.load().to(dtype)
    before = state_of(model)
    explanation = semattn.SIFTPatchInterrelation(affinity=0).explain(model, PHOTO)
    inputs = explanation.images.inputs.to(dtype)
    assert state_of(model) == before
    assert explanation.label(int(explanation.target)) == "flower"
    with torch.no_grad():
        assert torch.equal(explanation.logits, model(inputs))
    assert torch.equal(record(model, inputs, grad=False).logits, explanation.logits)

    reference = dense_record(model, inputs, explanation.target.tolist())
    p = explanation.concentration.to(dtype)
    expected = torch.zeros_like(p)
    for attention, gradient in zip(reference.attention[6:], reference.gradient[6:], strict=True):
        row = attention[:, :, 0, 1:]
        alignment = 256 * torch.einsum("bhj,bj->bh", row / row.sum(-1, keepdim=True), p)
        expected += torch.einsum("bh,bhj->bj", alignment, (row * gradient[:, :, 0, 1:]).relu())
    actual = explanation.patch_map.flatten(1)
    torch.testing.assert_close(
        actual / expected.max(), expected / expected.max(), atol=tolerance, rtol=0
    )

    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    flower = ((x - 105) ** 2 + (y - 117) ** 2 < 75**2) | ((x - 160) ** 2 + (y - 224) ** 2 < 65**2)
    refined = semattn.SIFTPatchInterrelation().explain(model, PHOTO)
    for result in (explanation, refined):
        inside = result.heat_map[0][flower].sum() / result.heat_map[0].sum()
        assert inside > 1.5 * flower.float().mean(), "the map is concentrated on the flower"
    variation = [
        result.patch_map.std() / result.patch_map.mean() for result in (explanation, refined)
    ]
    assert variation[1] < variation[0], "affinity refinement reduces the variation"


@pytest.mark.weights
def test_a_box_puts_the_answer_of_the_prompting_picture_right() -> None:
    model = semattn.load()
    sweep = strength_sweep(
        semattn.SIFTPatchInterrelation(),
        semattn.AttentionPrompter(model),
        PHOTO.with_name("photographer.jpg"),
        weights=Box(4, 22, 118, 223),
        strengths=(0.5,),
    )
    answers = [sweep.explanation.answer_label(number) for number in sweep.predicted]
    assert answers == ["musical instrument", "mammal"]
    title, _, evidence = _outcome(sweep)
    assert title.startswith("musical instrument 3") and " → mammal 4" in title
    assert evidence == "the maps show the evidence for musical instrument"
