"""What attention does between patches: analyse pictures in parts, merge, and look.

    python examples/interrelation.py

Runs without any weights: the model is a tiny timm ViT with random ones, whose attention is nearly
even. Results: analysis.png, analysis.npz and report.html.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from skimage import data

import semattn
from semattn.interrelation import load_analysis

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """Two parts of a set, one result; then one picture with its report."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64).eval()
    first = semattn.analyze(model, [PHOTO, data.astronaut(), data.chelsea()], pool=0)
    first.save("analysis.npz")
    second = semattn.analyze(model, [data.coffee(), data.rocket()], pool=0)

    found = load_analysis("analysis.npz").merge(second)
    print(f"{found.images} images; alignment of layer 0: {found.mean('alignment')[0].round(3)}")
    print(found.findings()[0].text)
    table = found.table()  # pandas.DataFrame(table), where there is pandas
    print(len(table["figure"]), "rows of", ", ".join(list(table)[:7]))
    semattn.viz.analysis(found).savefig("analysis.png")
    print("picture: analysis.png")

    explanation = semattn.SIFTPatchInterrelation().explain(model, PHOTO)
    alone = semattn.analyze(model, PHOTO)
    report = semattn.report.of(explanation, model=model, analysis=alone)
    print(f"picture: {report.save('report.html').name}")  # in a notebook, `report` shows itself


if __name__ == "__main__":
    main()
