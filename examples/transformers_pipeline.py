"""Explain the predictions of an image-classification pipeline of transformers.

    pip install transformers
    python examples/transformers_pipeline.py

Nothing is fetched: model and image processor are created with random weights. With a checkpoint,
only one line changes: ``pipe = pipeline("image-classification", "google/vit-base-patch16-224")``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

from semattn import Preprocessing, SIFTPatchInterrelation
from semattn.viz import overlay

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """Classify a photograph, and explain the first and the second prediction."""
    torch.manual_seed(0)
    names = dict(enumerate(["cup", "flower", "bird", "tool"]))
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        image_size=112, patch_size=16, id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    pipe = pipeline(
        "image-classification",
        model=ViTForImageClassification(config),
        image_processor=ViTImageProcessor(size={"height": 112, "width": 112}),
    )
    answers = pipe(Image.open(PHOTO))
    print(
        "pipeline:",
        ", ".join(f"{prediction['label']} {prediction['score']:.0%}" for prediction in answers),
    )

    explainer = SIFTPatchInterrelation(preprocessing=Preprocessing.of(pipe.image_processor))
    for answer in answers[:2]:
        target = pipe.model.config.label2id[answer["label"]]
        explanation = explainer.explain(pipe.model, PHOTO, target=target)
        file = f"evidence-for-{explanation.label(target)}.png"
        Image.fromarray(overlay(explanation)).save(file)
        print("picture:", file)


if __name__ == "__main__":
    main()
