"""Probes of features (k-NN and a linear probe), and the loss with fixed random masks."""

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

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of k-NN, as in DINO
STRENGTHS = (1e-3, 1e-2, 1e-1)  # C of the linear probe: chosen on a fifth of its training images
BATCH = 256


def normalise(pixels: np.ndarray) -> Tensor:
    """Return pixels (n, H, W, 3) uint8 as the model's input (n, 3, H, W)."""
    chw = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (chw - mean) / std


def encode(model: Any, pixels: np.ndarray) -> np.ndarray:
    """Return the features (n, D) of images."""
    device = next(model.parameters()).device
    parts = [
        features(model, normalise(pixels[start : start + BATCH]).to(device)).float().cpu().numpy()
        for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts)


def knn(train: np.ndarray, labels: np.ndarray) -> Any:
    """Fit a k-NN classifier with cosine distance and weighted votes."""
    classifier = KNeighborsClassifier(
        min(NEIGHBOURS, len(train)), metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
    )  # fmt: skip
    return classifier.fit(train, labels)


def linear(train: np.ndarray, labels: np.ndarray) -> Any:
    """Fit a logistic regression on standardised features."""
    fold = np.where(np.arange(len(train)) % 5 == 4, 0, -1)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3)),
        {"logisticregression__C": STRENGTHS},
        cv=PredefinedSplit(fold),
    )
    return search.fit(train, labels)


PROBES = {"knn": knn, "linear": linear}


def run_probes(train: np.ndarray, test: np.ndarray, data: Data) -> dict[str, Any]:
    """Return the accuracies of both probes, and which test images are right, packed."""
    result: dict[str, Any] = {}
    for name, probe in PROBES.items():
        is_right = probe(train, data.train.labels).predict(test) == data.test.labels
        result[name] = float(is_right.mean())
        result[f"{name}_right"] = np.packbits(is_right).tobytes().hex()
    return result


def unpacked(bits: str, count: int) -> np.ndarray:
    """Unpack which of `count` test images are right, as 0 and 1."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=count)


def probe_model(model: Any, data: Data) -> dict[str, Any]:
    """Return both probes of a model and its loss with the fixed masks."""
    result = run_probes(encode(model, data.train.pixels), encode(model, data.test.pixels), data)
    return result | {"fixed_loss": fixed_loss(model, data)}


def probe_pixels(data: Data) -> dict[str, Any]:
    """Return both probes of raw pixels, the lower bound for any features."""
    flat = [normalise(labelled.pixels).flatten(1).numpy() for labelled in (data.train, data.test)]
    return run_probes(flat[0], flat[1], data)


@torch.no_grad()
def fixed_loss(model: Any, data: Data) -> float:
    """Return the reconstruction loss of the test images with one fixed set of random masks."""
    config, training = model.config, model.training
    side = config.image_size // config.patch_size
    policy = RandomMasking(config.mask_ratio, seed=0)
    noise = policy.masks((side, side), range(len(data.test.pixels))).noise
    device, total = next(model.parameters()).device, 0.0
    model.eval()
    for start in range(0, len(noise), BATCH):
        pixels = normalise(data.test.pixels[start : start + BATCH]).to(device)
        batch_noise = noise[start : start + BATCH].to(device)
        total += float(model(pixels, noise=batch_noise).loss) * len(batch_noise)
    model.train(training)
    return total / len(noise)
