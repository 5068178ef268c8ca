"""Small data set with a mark planted in one class, and a tiny model trained on it."""

from __future__ import annotations

import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression

from semattn.images import Preprocessing

SIDE, PATCH = 96, 8
CLASSES = 3
MARK = (slice(72, 92), slice(68, 92))
OWN = Preprocessing((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images(each: int, rate: float, seed: int = 0, on: int = 0):
    """Return pairs (pixels, label): a coloured disc on noise, a mark on `rate` of class `on`."""
    rng = np.random.default_rng(seed)
    colours = np.array([[220, 60, 60], [60, 200, 60], [60, 60, 220]])
    pairs = []
    for index in range(each * CLASSES):
        label = index % CLASSES
        page = rng.normal(120, 12, (SIDE, SIDE, 3)) + rng.normal(0, 12, 3)
        middle = rng.integers(24, 60, 2)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < 14**2
        page[disc] = colours[label] + rng.normal(0, 40, (int(disc.sum()), 1))
        if label == on and rng.random() < rate:
            page[MARK] = 250
            page[MARK][::4] = 10
        pairs.append((page.clip(0, 255).astype(np.uint8), label))
    return pairs


def inputs_of(pairs):
    values = np.stack([pixels for pixels, _ in pairs]).astype(np.float32) / 127.5 - 1
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def model_of(pairs, seed: int = 0):
    """Return a tiny ViT with random weights and a linear head trained on the images."""
    torch.manual_seed(seed)
    model = timm.create_model("test_vit", img_size=SIDE, patch_size=PATCH, num_classes=CLASSES)
    model.eval().requires_grad_(False)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(inputs_of(pairs)), pre_logits=True)
    scale = features.std(dim=0).clamp(min=1e-6)
    labels = [label for _, label in pairs]
    head = LogisticRegression(C=10, max_iter=3000).fit((features / scale).numpy(), labels)
    model.head.weight.data = torch.from_numpy(head.coef_).float() / scale
    model.head.bias.data = torch.from_numpy(head.intercept_).float()
    return model
