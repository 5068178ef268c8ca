"""What features are worth: k-NN and a linear probe; and the loss under fixed random masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semattn.masking import RandomMasking
from semattn.pretraining import features
from semattn.pretraining.data import IMAGENET_MEAN, IMAGENET_STD

from .pretraining_data import Data

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of k-NN: DINO's
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the linear probe: chosen on a fifth of its training images
STEPS = 60  # of L-BFGS
BATCH = 256


def normalised(pixels: np.ndarray) -> Tensor:
    """(n, H, W, 3) uint8 as the model takes it, (n, 3, H, W)."""
    chw = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(one).reshape(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    return (chw - mean) / std


def encoded(model: Any, pixels: np.ndarray) -> Tensor:
    """Features (n, D) of images, float32 on the CPU."""
    device = next(model.parameters()).device
    parts = [
        features(model, normalised(pixels[at : at + BATCH]).to(device)).float().cpu()
        for at in range(0, len(pixels), BATCH)
    ]
    return torch.cat(parts)


def knn(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """The class (n,) that the nearest training images vote for, by cosine."""
    near = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    closest, which = near.topk(min(NEIGHBOURS, len(train)), dim=1)
    votes = torch.zeros(len(test), classes)
    votes.scatter_add_(1, labels[which], (closest / TEMPERATURE).exp())
    return votes.argmax(1)


def linear(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """The class (n,) by logistic regression on standardised features."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    held = torch.arange(len(train)) % 5 == 4
    right = [
        (_fit(train[~held], labels[~held], decay, classes)(train[held]) == labels[held]).sum()
        for decay in DECAYS
    ]
    best = DECAYS[int(torch.stack(right).argmax())]
    made: Tensor = _fit(train, labels, best, classes)(test)
    return made


def _fit(x: Tensor, y: Tensor, decay: float, classes: int) -> Any:
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe", history_size=10
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + decay * weight.square().sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return lambda given: (given @ weight + bias).argmax(1).detach()


def judged(train: Tensor, test: Tensor, data: Data) -> dict[str, Any]:
    """Both probes of features: accuracies, and which test images are right, as 0 and 1."""
    labels = torch.from_numpy(np.asarray(data.train.labels)).long()
    truth = torch.from_numpy(np.asarray(data.test.labels)).long()
    classes = int(max(labels.max(), truth.max())) + 1
    made: dict[str, Any] = {}
    for name, probe in (("knn", knn), ("linear", linear)):
        right = probe(train, labels, test, classes) == truth
        made[name] = float(right.float().mean())
        made[f"{name}_right"] = "".join("1" if one else "0" for one in right.tolist())
    return made


def probed(model: Any, data: Data) -> dict[str, Any]:
    """Both probes of a model, and its loss under the fixed masks."""
    made = judged(encoded(model, data.train.pixels), encoded(model, data.test.pixels), data)
    return made | {"fixed_loss": fixed_loss(model, data)}


def raw(data: Data) -> dict[str, Any]:
    """Both probes of the pixels themselves: the floor for any features."""
    flat = [normalised(one.pixels).flatten(1) for one in (data.train, data.test)]
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
