"""Slow implementations, straight from the definitions, that keep every matrix."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class DenseRecord:
    """Every attention matrix (B,H,N,N) of a model and its gradient, layer by layer."""

    attention: list[Tensor]
    gradient: list[Tensor]
    logits: Tensor


def dense_record(model: nn.Module, inputs: Tensor, target: list[int]) -> DenseRecord:
    """The way of the peers: fused attention off, a hook on every dropout, all matrices kept."""
    model = copy.deepcopy(model).eval()
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if hasattr(module, "attn_drop"):
            module.attn_drop.register_forward_hook(keep)
    logits = model(inputs)
    logits[torch.arange(len(logits)), torch.tensor(target)].sum().backward()
    gradients = [one.grad for one in kept if one.grad is not None]
    return DenseRecord([one.detach() for one in kept], gradients, logits.detach())


def interrelation(
    dense: DenseRecord,
    p: Tensor,
    layers: list[int],
    *,
    prefix: int,
    class_token: bool,
    queries: str,
    query_weights: bool,
    head_alignment: bool,
) -> Tensor:
    """METHOD: sum_lh a_lh sum_i w_i relu(A dA)_ij over loops, in float64: (B, P)."""
    batch, patches = p.shape
    total = torch.zeros(batch, patches, dtype=torch.float64)
    for b in range(batch):
        w = torch.zeros(prefix + patches, dtype=torch.float64)
        if class_token:
            w[0] = 1
        if queries == "all":
            w[prefix:] = p[b] if query_weights else 1 / patches
        for layer in layers:
            for head in range(dense.attention[layer].shape[1]):
                attention = dense.attention[layer][b, head].double()
                gradient = dense.gradient[layer][b, head].double()
                share = 0.0
                for i in range(prefix + patches):
                    row = attention[i, prefix:]
                    row = row / row.sum()
                    share += float(w[i]) * sum(float(row[j] * p[b, j]) for j in range(patches))
                share *= patches / float(w.sum())
                for j in range(patches):
                    gathered = 0.0
                    for i in range(prefix + patches):
                        product = float(attention[i, prefix + j] * gradient[i, prefix + j])
                        gathered += float(w[i]) * max(product, 0.0)
                    total[b, j] += gathered * (share if head_alignment else 1.0)
    return total
