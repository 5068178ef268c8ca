"""Accuracy of the embedded model as shipped, on compositions and on whole photographs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from semattn.zoo import load

from ..datasets.objects_on_scenes import PHOTOGRAPHS, ObjectsOnScenes

CENTRAL = 44
"""Largest distance of a central object's centre of mass from the frame's centre, pixels."""


def normalise(batch: list[np.ndarray], model: nn.Module) -> Tensor:
    """Return images of the model's input size, normalised as in its evaluation transform."""
    config = model.pretrained_cfg
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


@torch.inference_mode()
def accuracy_on(root: Path, split: str, count: int, seed: int, device: str) -> dict[str, object]:
    """Return the accuracy on a split with its interval over objects, and of every class."""
    model = load(device=device)
    data = ObjectsOnScenes(root, split, count=count, seed=seed)
    hits_of_object: dict[str, list[bool]] = {}
    hits_of_class: dict[str, list[bool]] = {}
    hits_of_position: dict[str, list[bool]] = {"central": [], "off-centre": []}
    items = iter(data)
    for _ in range(0, len(data), 32):
        batch = list(itertools.islice(items, 32))
        predictions = model(normalise([item.image for item in batch], model).to(device)).argmax(
            dim=1
        )
        for item, label in zip(batch, predictions.tolist(), strict=True):
            hit = label == item.label
            hits_of_object.setdefault(item.object, []).append(hit)
            hits_of_class.setdefault(model.classes[item.label], []).append(hit)
            hits_of_position["central" if item.offset < CENTRAL else "off-centre"].append(hit)
    return {
        "images": len(data),
        "objects": len(hits_of_object),
        "scenes": len(data.scenes),
        "accuracy": round(
            float(np.mean([hit for hits in hits_of_object.values() for hit in hits])), 4
        ),
        "interval": interval(list(hits_of_object.values())),
        **{name: round(float(np.mean(hits)), 4) for name, hits in hits_of_position.items()},
        "classes": {name: round(float(np.mean(hits)), 4) for name, hits in hits_of_class.items()},
    }


def interval(groups: list[list[bool]], draws: int = 2000) -> list[float]:
    """Return the 95 % bootstrap interval of the mean; objects are resampled, not images."""
    rng = np.random.default_rng(0)
    hits, sizes = (np.array([reduce(group) for group in groups]) for reduce in (sum, len))
    indices = rng.integers(0, len(groups), (draws, len(groups)))
    means = hits[indices].sum(axis=1) / sizes[indices].sum(axis=1)
    return [round(float(bound), 4) for bound in np.quantile(means, (0.025, 0.975))]


@torch.inference_mode()
def photographs(root: Path, device: str) -> list[dict[str, object]]:
    """Return the predictions of the embedded model for whole photographs."""
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
        probabilities = model(transform(picture.convert("RGB"))[None].to(device)).softmax(dim=1)[0]
        probability, index = probabilities.max(dim=0)
        rows.append(
            {
                "photograph": Path(name).name if "contents" not in name else name.split("/")[1],
                "label": label,
                "found": model.classes[int(index)],
                "chance": round(float(probability), 3),
            }
        )
    return rows
