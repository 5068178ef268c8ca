"""Compare explainers by the metrics of Quantus.

    pip install quantus
    python examples/quantus_evaluation.py

Runs without pretrained weights: the model is a tiny timm ViT with random weights, so that the
numbers have no meaning. The example shows the calls.
"""

from __future__ import annotations

from pathlib import Path

import quantus
import timm
import torch

from semattn import Preprocessing, prepare
from semattn.integrations import quantus_explain_func

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """Compare explainers by sparseness, faithfulness and class-specificity of their maps.

    Rollout ignores the target: the similarity of its maps for two classes is 1.
    """
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64).eval()
    image = prepare(PHOTO, Preprocessing.of(model)).inputs
    inputs = torch.cat([image, image.flip(3), image.flip(2)])
    target = model(inputs).argmax(dim=1)

    methods = ("sift-patch-interrelation", "grad-cam", "attention-rollout", "random")
    quiet = {"disable_warnings": True, "display_progressbar": False}
    scores = quantus.evaluate(
        metrics={
            "Sparseness": quantus.Sparseness(**quiet),
            "Faithfulness": quantus.FaithfulnessCorrelation(
                nr_runs=20, subset_size=256, perturb_baseline="mean", **quiet
            ),
            "Other class": quantus.RandomLogit(num_classes=model.num_classes, seed=0, **quiet),
        },
        xai_methods={name: quantus_explain_func(name) for name in methods},
        model=model,
        x_batch=inputs.numpy(),
        y_batch=target.numpy(),
        explain_func_kwargs={},
    )
    for name, scores_of_metric in scores.items():
        means = (
            f"{metric} {sum(values) / len(values):+.3f}"
            for metric, values in scores_of_metric.items()
        )
        print(f"{name}:", ", ".join(means))


if __name__ == "__main__":
    main()
