"""What the embedded model, as it is shipped, gets right: compositions and whole photographs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from semattn.zoo import load

from .objects_on_scenes import PHOTOGRAPHS, ObjectsOnScenes

CENTRAL = 44
"""An object whose centre of mass is nearer than this to the frame's centre is central, pixels."""


def normalise(batch: list[np.ndarray], model: nn.Module) -> Tensor:
    """Images of the model's own size, as its evaluation transform gives them."""
    config = model.pretrained_cfg
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


@torch.inference_mode()
def accuracy_on(root: Path, split: str, count: int, seed: int, device: str) -> dict[str, object]:
    """The written weights on a split: accuracy, its interval over objects, and every class."""
    model = load(device=device)
    data = ObjectsOnScenes(root, split, count=count, seed=seed)
    right: dict[str, list[bool]] = {}
    classes: dict[str, list[bool]] = {}
    halves: dict[str, list[bool]] = {"central": [], "off-centre": []}
    items = iter(data)
    for _ in range(0, len(data), 32):
        batch = list(itertools.islice(items, 32))
        found = model(normalise([item.image for item in batch], model).to(device)).argmax(dim=1)
        for item, label in zip(batch, found.tolist(), strict=True):
            hit = label == item.label
            right.setdefault(item.object, []).append(hit)
            classes.setdefault(model.classes[item.label], []).append(hit)
            halves["central" if item.offset < CENTRAL else "off-centre"].append(hit)
    return {
        "images": len(data),
        "objects": len(right),
        "scenes": len(data.scenes),
        "accuracy": round(float(np.mean([hit for hits in right.values() for hit in hits])), 4),
        "interval": interval(list(right.values())),
        **{name: round(float(np.mean(hits)), 4) for name, hits in halves.items()},
        "classes": {name: round(float(np.mean(hits)), 4) for name, hits in classes.items()},
    }


def interval(groups: list[list[bool]], draws: int = 2000) -> list[float]:
    """95 % bootstrap interval of the mean, objects drawn, not images: those are not independent."""
    rng = np.random.default_rng(0)
    hits, sizes = (np.array([of(group) for group in groups]) for of in (sum, len))
    drawn = rng.integers(0, len(groups), (draws, len(groups)))
    means = hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return [round(float(bound), 4) for bound in np.quantile(means, (0.025, 0.975))]


@torch.inference_mode()
def photographs(root: Path, device: str) -> list[dict[str, object]]:
    """The written weights on whole photographs that nobody composed."""
    import skimage
    from sklearn.datasets import load_sample_image

    model = load(device=device)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    sources = {name: (Image.open(root / name), label) for name, label in PHOTOGRAPHS.items()}
    sources |= {
        "skimage chelsea": (Image.fromarray(skimage.data.chelsea()), "mammal"),
        "skimage coffee": (Image.fromarray(skimage.data.coffee()), "cup or pot"),
        "sklearn flower": (Image.fromarray(load_sample_image("flower.jpg")), "flower"),
    }
    rows = []
    for name, (picture, label) in sources.items():
        chances = model(transform(picture.convert("RGB"))[None].to(device)).softmax(dim=1)[0]
        chance, found = chances.max(dim=0)
        rows.append(
            {
                "photograph": Path(name).name if "contents" not in name else name.split("/")[1],
                "label": label,
                "found": model.classes[int(found)],
                "chance": round(float(chance), 3),
            }
        )
    return rows
