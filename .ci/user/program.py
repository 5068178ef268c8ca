"""A user's program: `make check-wheel` runs it, and mypy --strict checks it, against the wheel."""

from __future__ import annotations

import timm
import torch
from torch import Tensor

import semattn
from semattn import AttentionPrompter, GuidedMasking, SIFTPatchInterrelation, mask_images
from semattn.density import Scene, register_density
from semattn.errors import ShapeError
from semattn.explain import Explainer, explainers


@register_density("left", needs={"keypoints"})
def left(scene: Scene) -> Tensor:
    """The left half of the picture."""
    height, width = scene.grid.shape
    weights = torch.zeros(len(scene.keypoints), height, width)
    weights[..., : width // 2] = 1
    return weights.flatten(1)


def main() -> None:
    """Explain, compare, lead, mask; each result has a type that an editor can complete."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64).eval()
    inputs = torch.rand(2, 3, 64, 64)

    explainer: Explainer = SIFTPatchInterrelation(model, density="left")
    heat = explainer.attribute(inputs, target=1)
    assert isinstance(heat, Tensor)
    explanation: semattn.Explanation = SIFTPatchInterrelation().explain(model, inputs)
    shares: Tensor = explanation.patch_map
    print(tuple(heat.shape), tuple(shares.shape), sorted(explainers)[:3])

    prompter = AttentionPrompter(model, strength=1.0)
    with prompter.steer(torch.ones(2, 16)):
        model(inputs)
    try:
        with prompter.steer(torch.ones(2, 17)):
            model(inputs)
    except ShapeError as error:
        print(error)

    record: semattn.AttentionRecord = semattn.record(model, inputs)
    print(tuple(record.dense(0).shape), record.grid.shape)
    masks: semattn.Masks = mask_images(inputs, GuidedMasking(beta=1.0), patch_size=16)
    print(int(masks.mask.sum()), "patches hidden")
    page: str = semattn.report.build(explanation, model=model).html
    print(len(page) > 0)


if __name__ == "__main__":
    main()
