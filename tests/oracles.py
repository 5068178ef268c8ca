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


def dense_record(
    model: nn.Module, inputs: Tensor, target: list[int], *, whole_output: bool = False
) -> DenseRecord:
    """The way of the peers: fused attention off, a hook on every dropout, all matrices kept.

    With `whole_output`, the gradient is that of sum_k cos(k) logit_k.
    """
    model = copy.deepcopy(model).eval()
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        maps.append(output)

    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if hasattr(module, "attn_drop"):
            module.attn_drop.register_forward_hook(keep)
    logits = model(inputs)
    if whole_output:
        (logits * torch.arange(logits.shape[1]).cos().to(logits)).sum().backward()
    else:
        logits[torch.arange(len(logits)), torch.tensor(target)].sum().backward()
    gradients = [attention.grad for attention in maps if attention.grad is not None]
    return DenseRecord([attention.detach() for attention in maps], gradients, logits.detach())


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


def readout(dense: DenseRecord) -> Tensor:
    """From which queries of the last layer the score is read, by loops: (B, N), rows of sum 1."""
    gradient = dense.gradient[-1].double()
    batch, heads, queries, keys = gradient.shape
    row = torch.zeros(batch, queries, dtype=torch.float64)
    for image in range(batch):
        for query in range(queries):
            total = 0.0
            for head in range(heads):
                for key in range(keys):
                    total += float(gradient[image, head, query, key]) ** 2
            row[image, query] = total**0.5
    return row / row.sum(dim=1, keepdim=True)


def rollout(
    dense: DenseRecord,
    *,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual: float,
    class_token: bool = True,
) -> Tensor:
    """arXiv 2005.00928 with the discarding of vit-explain: all rows, (B,N,N).

    With a class token, which vit-explain assumes, what it gives to itself is spared.
    """
    fuse = {"mean": Tensor.mean, "max": Tensor.amax, "min": Tensor.amin}[head_fusion]
    product = None
    for attention in dense.attention:
        fused = fuse(attention.double(), dim=1).clone()
        for image in fused:
            ranked = sorted(
                (float(image[i, j]), i, j) for i in range(len(image)) for j in range(len(image))
            )
            for _, i, j in ranked[: int(len(ranked) * discard_ratio)]:
                if (i, j) != (0, 0) or not class_token:
                    image[i, j] = 0
        product = _then(product, (1 - residual) * fused, residual)
    assert product is not None
    return product


def gradient_rollout(dense: DenseRecord) -> tuple[Tensor, Tensor]:
    """Rollout of relu(mean_h(A dA)) + I, rows divided by their sums.

    All rows, (B,N,N), and what I alone leaves of each token, (B,N).
    """
    product, stays = None, torch.ones(())
    for attention, gradient in zip(dense.attention, dense.gradient, strict=True):
        fused = (attention.double() * gradient.double()).mean(dim=1).clamp(min=0)
        product = _then(product, fused, 1.0)
        stays = stays / (1 + fused.sum(dim=-1))
    assert product is not None
    return product, stays


def _then(product: Tensor | None, fused: Tensor, identity: float) -> Tensor:
    layer = fused + identity * torch.eye(fused.shape[-1], dtype=torch.float64)
    layer = layer / layer.sum(dim=-1, keepdim=True)
    return layer if product is None else layer @ product


def generic_relevance(dense: DenseRecord) -> Tensor:
    """arXiv 2103.15679, equation 6 and on: R starts as I and becomes R + A-bar R, (B,N,N)."""
    batch, _, tokens, _ = dense.attention[0].shape
    relevance = torch.eye(tokens, dtype=torch.float64).repeat(batch, 1, 1)
    for attention, gradient in zip(dense.attention, dense.gradient, strict=True):
        bar = (attention.double() * gradient.double()).clamp(min=0).mean(dim=1)
        relevance = relevance + bar @ relevance
    return relevance


def legrad(model: nn.Module, inputs: Tensor, target: list[int], layers: list[int]) -> Tensor:
    """arXiv 2404.03214 on a timm ViT, one backward pass a layer: (B,N)."""
    model = copy.deepcopy(model).eval()
    attention: list[Tensor] = []
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for block in model.blocks:
        block.attn.attn_drop.register_forward_hook(lambda _m, _i, out: attention.append(out))
    features: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: features.append(out))
    model(inputs)
    total = torch.zeros(len(inputs), features[0].shape[1], dtype=torch.float64)
    for layer in layers:
        mean = features[layer].mean(dim=1)
        scores = model.head(model.fc_norm(model.norm(mean)))
        for image, number in enumerate(target):
            gradient = torch.autograd.grad(
                scores[image, number], attention[layer], retain_graph=True
            )[0]
            total[image] += gradient[image].double().clamp(min=0).mean(dim=(0, 1))
    return total / len(layers)


def transition_attention(
    model: nn.Module, inputs: Tensor, target: list[int], row: Tensor, first: int, steps: int
) -> Tensor:
    """Yuan et al. 2021: the state moved back, times the integrated gradient: (B,N)."""
    dense = dense_record(model, inputs, target)
    mean = [attention.double().mean(dim=1) for attention in dense.attention]
    state = torch.einsum("bi,bij->bj", row, mean[-1])
    for layer in reversed(range(first, len(mean) - 1)):
        state = state + torch.einsum("bi,bij->bj", state, mean[layer])
    total = torch.zeros_like(dense.gradient[-1].double())
    for step in range(steps):
        scaled = dense_record(model, inputs * step / (steps - 1), target)
        total += scaled.gradient[-1].double()
    weight = (total / steps).clamp(min=0).mean(dim=1)
    return state * torch.einsum("bi,bij->bj", row, weight)


def grad_cam(
    model: nn.Module, module: str, inputs: Tensor, target: list[int], prefix: int
) -> Tensor:
    """arXiv 1610.02391 on the output of a module, (B,N,D) in a timm ViT: (B,P)."""
    model = copy.deepcopy(model).eval()
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        maps.append(output)

    model.get_submodule(module).register_forward_hook(keep)
    logits = model(inputs)
    logits[torch.arange(len(logits)), torch.tensor(target)].sum().backward()
    assert maps[0].grad is not None
    features, gradient = maps[0].detach()[:, prefix:], maps[0].grad[:, prefix:]
    scores = torch.zeros(len(inputs), features.shape[1], dtype=torch.float64)
    for image in range(len(inputs)):
        for patch in range(features.shape[1]):
            for channel in range(features.shape[2]):
                weight = float(gradient[image, :, channel].mean())
                scores[image, patch] += weight * float(features[image, patch, channel])
    return scores.clamp(min=0)
