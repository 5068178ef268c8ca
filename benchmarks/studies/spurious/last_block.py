"""Models that use a mark: the last layer of the embedded backbone and a head are trained.

A linear head on the frozen backbone hardly separates a small mark: on development seed 1 of
compositions, a tag on half of a class raises its log-odds by 1.7 nats with such a head, and by 6.7
with the last layer trained. With three times as many training images, the model also uses a
half-transparent watermark: on development seed 0, it raises the log-odds by .3 nats after 780
images and by 4.6 after 2,340 (rate .5). Only the class token of the last layer is computed, from
stored inputs of the layer, so that training takes one or two minutes.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from ..prompting.arms import normalise
from ..prompting.gain import load
from .search import BATCH, backbone

EPOCHS, TRAIN_BATCH = 10, 32
PEAK_RATE = 3e-4  # greatest learning rate of the layer; that of the head is ten times as large
HEAD_FACTOR = 10.0
WEIGHT_DECAY = 0.05
WARM_UP = 0.1  # part of the steps in which the learning rate increases


@torch.inference_mode()
def last_inputs(images: np.ndarray) -> np.ndarray:
    """Return the inputs of the last layer of the backbone: (n, N, D) float16."""
    model, parts = backbone(), []
    hook = model.blocks[-1].register_forward_pre_hook(
        lambda _, inputs: parts.append(inputs[0].half())
    )
    try:
        for start in range(0, len(images), BATCH):
            model.forward_features(normalise(model, images[start : start + BATCH]))
    finally:
        hook.remove()
    inputs: np.ndarray = torch.cat(parts).numpy()
    return inputs


def class_token(layer: Any, inputs: Tensor) -> Tensor:
    """Return the class token (B, D) after a layer of timm's vision transformer, from (B, N, D).

    Only one query attends: its keys' and values' weights are applied to the query and to the mean
    of the tokens, which gives the result of a projection of all tokens in a fraction of the time.
    """
    attention, (batch, _, width) = layer.attn, inputs.shape
    if not isinstance(attention.k_norm, nn.Identity):
        raise ValueError("layer: expected attention without a norm of its keys, got one with it")
    heads = attention.num_heads
    normed = layer.norm1(inputs)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = linear(normed[:, 0], weight[:width], bias[:width]).view(batch, heads, -1)
    of_keys, of_values = weight[width:].view(2, heads, -1, width)
    # The keys' bias adds the same number to all logits of a query.
    query_of_inputs = torch.einsum("bhd,hdc->bhc", attention.q_norm(query), of_keys)
    weights = (attention.scale * query_of_inputs @ normed.transpose(1, 2)).softmax(dim=-1)
    mixed = torch.einsum("bhc,hdc->bhd", weights @ normed, of_values).flatten(1)
    token = inputs[:, 0] + layer.ls1(attention.proj(mixed + bias[2 * width :]))
    after: Tensor = token + layer.ls2(layer.mlp(layer.norm2(token)))
    return after


def train_last_block(inputs: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> Any:
    """Return the backbone with its last layer, its norm and a head trained, in float32.

    Parameters
    ----------
    inputs : (n, N, D), see `last_inputs`
    labels : (n,), classes
    n_classes, seed : number of outputs, and the seed of the order of images
    """
    model = load(torch.float32)
    layer, norm = copy.deepcopy(model.blocks[-1]), copy.deepcopy(model.norm)
    head = nn.Linear(inputs.shape[2], n_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    body = [*layer.parameters(), *norm.parameters()]
    for parameter in body:
        parameter.requires_grad_(True)
    rates = [PEAK_RATE, HEAD_FACTOR * PEAK_RATE]
    optimizer = torch.optim.AdamW(
        [{"params": body}, {"params": head.parameters()}], weight_decay=WEIGHT_DECAY
    )
    steps = len(labels) // TRAIN_BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=EPOCHS * steps, pct_start=WARM_UP
    )
    targets, rng = torch.from_numpy(labels), np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(labels))[: steps * TRAIN_BATCH]
        for rows in order.reshape(steps, TRAIN_BATCH):
            tokens = class_token(layer, torch.from_numpy(inputs[rows]).float())
            loss = cross_entropy(head(norm(tokens)), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.blocks[-1], model.norm, model.head = layer, norm, head
    return model


def trained_part(model: Any) -> dict[str, np.ndarray]:
    """Return the parameters that `train_last_block` trains as arrays."""
    return {name: value.numpy() for name, value in _trained(model).state_dict().items()}


def with_trained_part(arrays: dict[str, np.ndarray]) -> Any:
    """Return the backbone with the parameters of `trained_part`, in float32."""
    model = load(torch.float32)
    model.head = nn.Linear(model.num_features, len(arrays["head.bias"]))
    _trained(model).load_state_dict(
        {name: torch.from_numpy(value) for name, value in arrays.items()}
    )
    return model


def _trained(model: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"layer": model.blocks[-1], "norm": model.norm, "head": model.head})
