"""Lead a model's attention: to keypoints, to a region, away from a mark; strength by validation.

    python examples/prompting.py

Runs without any weights: the model is a tiny timm ViT with random ones, so what it says means
nothing. Result: prompt.png.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch

import semattn
from semattn.prompting import AttentionPrompter, Box
from semattn.prompting.strength_sweep import steps

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """One picture at several strengths, then strength and layers from data."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=4).eval()
    x = semattn.prepare(PHOTO, semattn.Preprocessing.of(model)).inputs

    prompter = AttentionPrompter(model)  # SIFT and the model's own attention lead
    print("prompted:", prompter(x).softmax(-1)[0].tolist())
    with prompter.steer(Box(16, 16, 47, 47)):  # a region of the picture, in its pixels
        print("box:", model(x).softmax(-1)[0].tolist())
    with prompter.steer(Box(0, 48, 63, 63), away=True):  # a mark to overlook
        print("away:", model(x).softmax(-1)[0].tolist())

    explainer = semattn.SIFTPatchInterrelation()
    heat = explainer.attribute(prompter, x)  # the prompted model is explained like any other
    print("map of the prompted model:", tuple(heat.shape))
    made = steps(explainer, prompter, PHOTO)
    semattn.viz.steps(made).savefig("prompt.png")
    print("picture: prompt.png")

    shifts = (0, 8, 16, 24)
    validation = [(x.roll(shift, -1), torch.tensor([0]), ["left"]) for shift in shifts]
    test = [(x.roll(-shift, -2), torch.tensor([0]), ["up"]) for shift in shifts[1:]]
    chosen = prompter.calibrate(validation, layers=["last-third", "all"])
    print(f"by {chosen.rule}: strength {chosen.strength:g} in {chosen.layers}")
    found = prompter.evaluate(test)  # once: a second time, or on validation images, is refused
    print(f"test: {found.plain.accuracy:.0%} without, {found.prompted.accuracy:.0%} with prompt")


if __name__ == "__main__":
    main()
