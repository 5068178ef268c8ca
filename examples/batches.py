"""Explain a data set batch by batch, keep the maps, and read them again.

    python examples/batches.py

Runs without pretrained weights: the model is a tiny timm ViT with random weights, so that the maps
have no meaning. The example shows the calls.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

from semattn import Preprocessing, SIFTPatchInterrelation, prepare
from semattn.explain import load_maps, save_maps
from semattn.integrations import explain_batches

PHOTO = Path(__file__).parent / "flower.jpg"


def main(folder: Path = Path("maps")) -> None:
    """Explain the label of each image, with a progress bar; write one file per batch."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64).eval()
    image = prepare(PHOTO, Preprocessing.of(model)).inputs[0]
    images = torch.stack([image.roll(8 * shift, 2) for shift in range(8)])
    loader = DataLoader(TensorDataset(images, torch.arange(8)), batch_size=3)

    explainer = SIFTPatchInterrelation(model)
    for number, explanation in enumerate(explain_batches(explainer, loader, target="labels")):
        save_maps(explanation, folder / f"{number:03}.safetensors")

    for file in sorted(folder.iterdir()):
        maps = load_maps(file)
        print(f"{file}: {len(maps)} maps of classes {maps.target.tolist()}")
    print("made by", maps.manifest["method"], "of", maps.manifest["model"])


if __name__ == "__main__":
    main()
