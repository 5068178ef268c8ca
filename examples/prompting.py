"""Prompt a model with keypoints, a region, or a mark to suppress; choose the strength.

    python examples/prompting.py

Runs without pretrained weights: the model is a tiny timm ViT with random weights, so that its
predictions have no meaning. Result: prompt.png.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch

import semattn
from semattn.prompting import AttentionPrompter, Box
from semattn.prompting.strength_sweep import strength_sweep

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """Prompt one image at several strengths, then choose strength and layers on data."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=4).eval()
    x = semattn.prepare(PHOTO, semattn.Preprocessing.of(model)).inputs

    prompter = AttentionPrompter(model)  # default: SIFT and the model's own attention
    print("prompted:", prompter(x).softmax(-1)[0].tolist())
    with prompter.steer(Box(16, 16, 47, 47)):  # a region of the image, in pixels
        print("box:", model(x).softmax(-1)[0].tolist())
    with prompter.steer(Box(0, 48, 63, 63), suppress=True):  # a mark to suppress
        print("suppressed:", model(x).softmax(-1)[0].tolist())

    explainer = semattn.SIFTPatchInterrelation()
    heat_map = explainer.attribute(prompter, x)  # explains the prompted model
    print("map of the prompted model:", tuple(heat_map.shape))
    sweep = strength_sweep(explainer, prompter, PHOTO)
    semattn.viz.strength_sweep(sweep).savefig("prompt.png")
    print("picture: prompt.png")

    shifts = (0, 8, 16, 24)
    validation = [(x.roll(shift, -1), torch.tensor([0]), ["left"]) for shift in shifts]
    test = [(x.roll(-shift, -2), torch.tensor([0]), ["up"]) for shift in shifts[1:]]
    calibration = prompter.calibrate(validation, layers=["last-third", "all"])
    print(f"by {calibration.rule}: strength {calibration.strength:g} in {calibration.layers}")
    evaluation = prompter.evaluate(test)  # allowed once, and not on validation images
    print(
        f"test: {evaluation.plain.accuracy:.0%} without prompt, "
        f"{evaluation.prompted.accuracy:.0%} with prompt"
    )


if __name__ == "__main__":
    main()
