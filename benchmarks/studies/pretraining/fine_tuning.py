"""Fine-tuning of an encoder with few labels, and the same training from scratch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from semattn.masking import Crop, generator
from semattn.pretraining.data import CROP_PURPOSE, ORDER_PURPOSE

from .pretraining_data import Labelled
from .target_training import normalised, optimizer_of, rate_at, set_rate, unit_images

LABELS, EPOCHS, BATCH = 1000, 10, 32
RATE = 1e-3  # of AdamW, the same for every arm
SCALE = (0.5, 1.0)  # part of an image that a crop shows
SEED_OFFSET = 100_000  # separates the crops of fine-tuning from those of pre-training


class Classifier(nn.Module):
    """Encoder of a masked autoencoder, the mean of its patches' tokens, and a linear layer."""

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__()
        self.encoder = model.vit
        model.config.mask_ratio = 0.0  # the encoder sees all patches
        self.patches = (model.config.image_size // model.config.patch_size) ** 2
        self.head = nn.Linear(model.config.hidden_size, classes)
        nn.init.normal_(self.head.weight, std=model.config.initializer_range)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores (B, classes) of normalised inputs."""
        noise = torch.arange(self.patches, dtype=torch.float32).expand(len(inputs), -1)
        return self.head(self.encoder(inputs, noise=noise).last_hidden_state[:, 1:].mean(1))


def fine_tune(
    model: Any, train: Labelled, test: Labelled, seed: int, epochs: int = EPOCHS
) -> dict[str, Any]:
    """Train a model's encoder with the first `LABELS` labelled images, and test it.

    The model is changed. Returns the accuracy, which test images are right (packed), the CPU
    seconds of the training, and the number of epochs.
    """
    pixels, labels = train.pixels[:LABELS], torch.from_numpy(np.asarray(train.labels[:LABELS]))
    torch.manual_seed(seed)
    old_ratio = model.config.mask_ratio
    classifier = Classifier(model, int(max(train.labels.max(), test.labels.max())) + 1).train()
    optimizer = optimizer_of(classifier)
    batches = max(1, len(pixels) // BATCH)
    start = time.process_time()
    for epoch in range(epochs):
        crops = _crops(pixels, seed, epoch)
        order = generator(seed + SEED_OFFSET, epoch, 0, ORDER_PURPOSE).permutation(len(pixels))
        for batch in range(batches):
            rows = order[batch * BATCH : (batch + 1) * BATCH]
            set_rate(optimizer, rate_at(epoch * batches + batch, epochs * batches, RATE))
            scores = classifier(normalised(unit_images(crops[rows])))
            nn.functional.cross_entropy(scores, labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.process_time() - start
    is_right = _predict(classifier, test.pixels) == test.labels
    model.config.mask_ratio = old_ratio
    return {
        "finetune": float(is_right.mean()),
        "finetune_right": np.packbits(is_right).tobytes().hex(),
        "finetune_seconds": seconds,
        "finetune_epochs": epochs,
    }


def _crops(pixels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return a random crop of each image (n, H, W, 3), mirrored at random."""
    size = (pixels.shape[1], pixels.shape[2])
    crops = np.empty_like(pixels)
    for index, image in enumerate(pixels):
        chance = generator(seed + SEED_OFFSET, epoch, index, CROP_PURPOSE)
        crop = Crop.draw(size, size, chance, SCALE)
        crops[index] = np.asarray(crop.image(Image.fromarray(image)))
    return crops


@torch.no_grad()
def _predict(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    classifier.eval()
    scores = [
        classifier(normalised(unit_images(pixels[start : start + 256])))
        for start in range(0, len(pixels), 256)
    ]
    return torch.cat(scores).argmax(1).numpy()
