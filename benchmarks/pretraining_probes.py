"""What features are worth: k-NN and a linear probe; and the loss under fixed random masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from semattn.masking import RandomMasking
from semattn.pretraining import features
from semattn.pretraining.data import IMAGENET_MEAN, IMAGENET_STD

from .pretraining_data import Data

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of k-NN: DINO's
STRENGTHS = (1e-3, 1e-2, 1e-1)  # C of the linear probe: chosen on a fifth of its training images
BATCH = 256


def normalised(pixels: np.ndarray) -> Tensor:
    """(n, H, W, 3) uint8 as the model takes it, (n, 3, H, W)."""
    chw = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(one).reshape(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    return (chw - mean) / std


def encoded(model: Any, pixels: np.ndarray) -> np.ndarray:
    """Features (n, D) of images."""
    device = next(model.parameters()).device
    parts = [
        features(model, normalised(pixels[at : at + BATCH]).to(device)).float().cpu().numpy()
        for at in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts)


def knn(train: np.ndarray, labels: np.ndarray) -> Any:
    """A classifier by the votes of the nearest training images, by cosine."""
    made = KNeighborsClassifier(
        min(NEIGHBOURS, len(train)), metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
    )  # fmt: skip
    return made.fit(train, labels)


def linear(train: np.ndarray, labels: np.ndarray) -> Any:
    """Logistic regression on standardised features."""
    fold = np.where(np.arange(len(train)) % 5 == 4, 0, -1)
    made = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3)),
        {"logisticregression__C": STRENGTHS},
        cv=PredefinedSplit(fold),
    )
    return made.fit(train, labels)


PROBES = {"knn": knn, "linear": linear}


def judged(train: np.ndarray, test: np.ndarray, data: Data) -> dict[str, Any]:
    """Both probes of features: accuracies, and which test images are right, packed."""
    made: dict[str, Any] = {}
    for name, probe in PROBES.items():
        right = probe(train, data.train.labels).predict(test) == data.test.labels
        made[name] = float(right.mean())
        made[f"{name}_right"] = np.packbits(right).tobytes().hex()
    return made


def unpacked(bits: str, count: int) -> np.ndarray:
    """Which of `count` test images are right, 0 and 1, of what `judged` packed."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=count)


def probed(model: Any, data: Data) -> dict[str, Any]:
    """Both probes of a model, and its loss under the fixed masks."""
    made = judged(encoded(model, data.train.pixels), encoded(model, data.test.pixels), data)
    return made | {"fixed_loss": fixed_loss(model, data)}


def raw(data: Data) -> dict[str, Any]:
    """Both probes of the pixels themselves: the floor for any features."""
    flat = [normalised(one.pixels).flatten(1).numpy() for one in (data.train, data.test)]
    return judged(flat[0], flat[1], data)


@torch.no_grad()
def fixed_loss(model: Any, data: Data) -> float:
    """The reconstruction loss of the test images under one set of random masks, for all arms."""
    config, training = model.config, model.training
    side = config.image_size // config.patch_size
    policy = RandomMasking(config.mask_ratio, seed=0)
    noise = policy.masks((side, side), range(len(data.test.pixels))).noise
    device, total = next(model.parameters()).device, 0.0
    model.eval()
    for at in range(0, len(noise), BATCH):
        pixels = normalised(data.test.pixels[at : at + BATCH]).to(device)
        part = noise[at : at + BATCH].to(device)
        total += float(model(pixels, noise=part).loss) * len(part)
    model.train(training)
    return total / len(noise)
