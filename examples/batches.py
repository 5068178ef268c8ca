"""Explain a data set batch by batch, keep the maps, and read them again.

    python examples/batches.py

The model is the embedded one; the first run downloads its weights (90 MB). The images are five
photographs, three of scikit-image (CC0 and public domain).
"""

from __future__ import annotations

from pathlib import Path

import torch
from skimage import data
from torch.utils.data import DataLoader, TensorDataset

from semattn import Preprocessing, SIFTPatchInterrelation, load, prepare
from semattn.explain import load_maps, save_maps
from semattn.integrations import explain_batches

HERE = Path(__file__).parent
PHOTOS = {
    "mammal": (data.chelsea(), HERE / "photographer.jpg"),
    "cup or pot": (data.coffee(),),
    "flower": (HERE / "flower.jpg",),
    "vehicle": (data.rocket(),),
}


def main(folder: Path = Path("maps")) -> None:
    """Explain the label of each image, with a progress bar; write one file per batch."""
    model = load()
    pairs = [(photo, model.classes.index(name)) for name in PHOTOS for photo in PHOTOS[name]]
    images = torch.cat([prepare(photo, Preprocessing.of(model)).inputs for photo, _ in pairs])
    labels = torch.tensor([label for _, label in pairs])
    loader = DataLoader(TensorDataset(images, labels), batch_size=3)

    explainer = SIFTPatchInterrelation(model)
    for number, explanation in enumerate(explain_batches(explainer, loader, target="labels")):
        save_maps(explanation, folder / f"{number:03}.safetensors")

    for file in sorted(folder.iterdir()):
        maps = load_maps(file)
        names = ", ".join(model.classes[number] for number in maps.target.tolist())
        print(f"{file}: {len(maps)} maps of {names}")
    print("made by", maps.manifest["method"], "of", maps.manifest["model"])


if __name__ == "__main__":
    main()
