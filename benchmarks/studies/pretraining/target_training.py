"""Training loop of the comparison of targets, the same for every arm.

transformers' masked autoencoder with a head of the target's length, AdamW and the schedule of
`semattn.pretrain`, without its checks and files: a step takes less time. Float32, one process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semattn.masking import Masking, masked_target_loss
from semattn.pretraining import build_model
from semattn.pretraining.data import IMAGENET_MEAN, IMAGENET_STD
from semattn.utils.atomic_files import atomic_write

from .target_arms import WORD_IMAGES, TargetArm, fit_arm_words, head_length, targets_of, weights_of
from .target_epochs import Epoch, SeedEpochs

BETAS, WEIGHT_DECAY, WARMUP = (0.9, 0.95), 0.05, 0.05  # as in `semattn.pretrain`
AfterEpoch = Callable[[Any, int, float, float], None]


def unit_images(pixels: Any) -> Tensor:
    """Return pixels (n, H, W, 3) uint8 as images (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)


def normalised(images: Tensor) -> Tensor:
    """Return images in [0, 1] as inputs of the model."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW; biases, norms and tokens have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim == 2 or p.ndim == 4]},
        {"params": [p for p in trained if p.ndim != 2 and p.ndim != 4], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine to 0.

    Examples
    --------
    >>> [rate_at(step, 100, 1.0) for step in (0, 4, 5)]
    [0.2, 1.0, 1.0]
    """
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def model_of(
    sizes: Any, size: int, patch_size: int, mask_ratio: float, seed: int, outputs: int
) -> Any:
    """Return a new masked autoencoder with a head of `outputs` values; equal encoders per seed."""
    model = build_model(
        sizes, image_size=size, patch_size=patch_size, mask_ratio=mask_ratio, seed=seed
    )
    head = nn.Linear(model.config.decoder_hidden_size, outputs)
    torch.nn.init.normal_(head.weight, std=model.config.initializer_range)
    torch.nn.init.zeros_(head.bias)
    model.decoder.decoder_pred = head
    return model


def pretrain_arm(
    arm: TargetArm,
    epochs: SeedEpochs,
    masking: Masking,
    sizes: Any,
    *,
    number_of_epochs: int,
    batch_size: int,
    learning_rate: float,
    checkpoint: Path,
    after_epoch: AfterEpoch,
) -> Any:
    """Train a model and return it; a checkpoint of an interrupted run is continued.

    `after_epoch` is called with the model, the number of finished epochs (0 first), the CPU seconds
    of that epoch, and its mean loss. Seconds of epoch 0 are those of keypoints and words.
    """
    size, patch_size = epochs.data.grid.image_size[0], int(epochs.data.grid.cell[0])
    seed = masking.seed
    preparation = epochs.detect_keypoints() if arm.needs_keypoints else 0.0
    start = time.process_time()
    words = None
    if arm.target == "words":
        words = fit_arm_words(
            arm, unit_images(epochs.epoch(0).pixels[:WORD_IMAGES]), patch_size, seed
        )
        preparation += time.process_time() - start
    model = model_of(
        sizes, size, patch_size, masking.mask_ratio, seed, head_length(arm, patch_size, words)
    )
    optimizer = optimizer_of(model)
    done = _load(checkpoint, model, optimizer)
    if not done:
        after_epoch(model, 0, preparation, float("nan"))
    batches = len(epochs.data) // batch_size
    for number in range(done, number_of_epochs):
        epoch = epochs.epoch(number, arm.needs_keypoints)
        start, total = time.process_time(), 0.0
        chance = torch.Generator().manual_seed(1000 * seed + number)
        model.train()
        for batch in range(batches):
            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            rate = rate_at(number * batches + batch, number_of_epochs * batches, learning_rate)
            set_rate(optimizer, rate)
            loss = batch_loss(model, arm, epoch, rows, masking, number, chance, words)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach())
        seconds = epoch.seconds + time.process_time() - start
        after_epoch(model, number + 1, seconds, total / batches)
        _save(checkpoint, model, optimizer, number + 1)
    checkpoint.unlink(missing_ok=True)
    return model


def batch_loss(
    model: Any,
    arm: TargetArm,
    epoch: Epoch,
    rows: slice,
    masking: Masking,
    number: int,
    chance: torch.Generator,
    words: Any,
) -> Tensor:
    """Return the loss of the images `rows` of an epoch."""
    config = model.config
    side = config.image_size // config.patch_size
    images = unit_images(epoch.pixels[rows])
    counts = None if epoch.counts is None else epoch.counts[rows]
    density = counts if masking.needs_density else None
    masks = masking.masks((side, side), epoch.indices[rows], density, number)
    targets = targets_of(arm, images, config.patch_size, chance, words)
    weights = weights_of(arm, images, counts, config.patch_size)
    encoded = model.vit(normalised(images), noise=masks.noise)
    predicted = model.decoder(encoded.last_hidden_state, encoded.ids_restore).logits
    return masked_target_loss(predicted, targets, encoded.mask, weights)


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
    with atomic_write(path) as stream:
        torch.save(state, stream)


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint and return the number of finished epochs; 0 without one."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["done"])
