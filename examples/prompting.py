"""Correct a wrong answer with a region, or by suppressing one; choose the strength on data.

    python examples/prompting.py

The embedded model takes a photographer for a musical instrument, because of the tripod. The first
run downloads its weights (90 MB). Result: prompt.png.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import semattn
from semattn.prompting import AttentionPrompter, Box
from semattn.prompting.strength_sweep import strength_sweep

HERE = Path(__file__).parent
PHOTO = HERE / "photographer.jpg"
MAN, TRIPOD = Box(4, 22, 118, 223), Box(94, 50, 190, 223)  # pixels of the model's 224 x 224 input
SHIFTS = ((0, 0), (24, 0), (0, 24), (24, 24))  # pixels of the photographs


def batch(
    model: torch.nn.Module, name: str, label: str, shifts: tuple[tuple[int, int], ...]
) -> tuple[Tensor, Tensor, list[str]]:
    """Return parts of a photograph, their class, and the photograph as the name of their group."""
    photo = Image.open(HERE / name)
    side = min(photo.size) - 24
    parts = [photo.crop((x, y, x + side, y + side)) for x, y in shifts]
    images = [semattn.prepare(part, semattn.Preprocessing.of(model)).inputs for part in parts]
    labels = torch.full((len(parts),), model.classes.index(label))
    return torch.cat(images), labels, [name] * len(parts)


def main() -> None:
    """Prompt one image at several strengths, then choose strength and layers on data."""
    model = semattn.load()
    x = semattn.prepare(PHOTO, semattn.Preprocessing.of(model)).inputs

    def show(prompt: str, logits: Tensor) -> None:
        share, number = logits.detach().softmax(-1)[0].max(0)
        print(f"{prompt}: {model.classes[int(number)]} {float(share):.0%}")

    prompter = AttentionPrompter(model)  # default: SIFT and the model's own attention
    show("no prompt", model(x))
    show("keypoints", prompter(x))
    with prompter.steer(MAN):  # look at the man
        show("box around the man", model(x))
    with prompter.steer(TRIPOD, suppress=True):  # do not look at the tripod
        show("tripod suppressed", model(x))

    explainer = semattn.SIFTPatchInterrelation()
    heat_map = explainer.attribute(prompter, x)  # explains the prompted model
    print("map of the prompted model:", tuple(heat_map.shape))
    sweep = strength_sweep(
        explainer, prompter, PHOTO, weights=MAN, strengths=(0.5, 1, 2), prompt="towards the man"
    )
    semattn.viz.strength_sweep(sweep).savefig("prompt.png")
    print("picture: prompt.png")

    photos = (("photographer.jpg", "mammal"), ("flower.jpg", "flower"))
    validation = [batch(model, *photo, SHIFTS[:2]) for photo in photos]
    test = [batch(model, *photo, SHIFTS[2:]) for photo in photos]
    calibration = prompter.calibrate(validation, strengths=(0, 0.5, 1), layers=["last-third"])
    print(f"by {calibration.rule}: strength {calibration.strength:g} in {calibration.layers}")
    evaluation = prompter.evaluate(test)  # allowed once, and not on validation images
    print(
        f"test: {evaluation.plain.accuracy:.0%} without prompt, "
        f"{evaluation.prompted.accuracy:.0%} with prompt"
    )


if __name__ == "__main__":
    main()
