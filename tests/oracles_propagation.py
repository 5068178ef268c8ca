"""Relevance propagation through a ViT of timm, layer by layer, from the definition of each rule.

All functions pass relevance, in float64; none uses a modified gradient.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.oracles import DenseRecord


def linear_rule(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor, gamma: float
) -> Tensor:
    """Gamma rule of a linear layer, contribution by contribution: (…, O) to (…, I)."""
    offset = torch.zeros(len(weight)).to(weight) if bias is None else bias
    offset = offset[:, None].expand(*inputs.shape[:-1], -1, 1)
    parts = torch.cat([inputs[..., None, :] * weight, offset], dim=-1)  # (…, O, I + 1)
    result = parts.sum(dim=-1, keepdim=True)
    parts = parts + gamma * parts * (parts.sign() == result.sign())
    shares = parts / parts.sum(dim=-1, keepdim=True)
    return (shares[..., :-1] * relevance[..., None]).sum(dim=-2)


def norm_rule(inputs: Tensor, norm: nn.LayerNorm, relevance: Tensor) -> Tensor:
    """Layer norm as a linear layer, since its standard deviation is a constant."""
    width = inputs.shape[-1]
    centre = torch.eye(width).to(inputs) - 1 / width
    deviation = (inputs.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    matrix = centre * norm.weight[:, None] / deviation[..., None]
    return linear_rule(inputs, matrix, norm.bias, relevance, gamma=0)


def sum_rule(first: Tensor, second: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Each summand gets its share of the sum."""
    total = first + second
    return first / total * relevance, second / total * relevance


def attention_rule(qkv: Tensor, heads: int, relevance: Tensor) -> Tensor:
    """A quarter for queries and keys, half for values: (B, N, D) to that of `qkv` (B, N, 3D)."""
    qkv = qkv.detach().requires_grad_()
    _, _, result = attention_of(qkv, heads)
    (gradient,) = torch.autograd.grad(result, qkv, relevance / result.detach())
    share = torch.tensor([0.25, 0.25, 0.5]).to(qkv).repeat_interleave(qkv.shape[-1] // 3)
    return (qkv * gradient * share).detach()


def attention_of(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention (B, H, N, N), values (B, H, N, D / H) and result (B, N, D)."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    attention = scores.softmax(dim=-1)
    return attention, value, (attention @ value).transpose(1, 2).flatten(2)


class LayerwisePropagation:
    """Forward pass of a ViT with a class token, and relevance at the result of each attention."""

    def __init__(self, model: nn.Module, inputs: Tensor, gamma: float) -> None:
        self.model, self.gamma = copy.deepcopy(model).eval().requires_grad_(False), gamma
        self.kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for module in self.model.modules():
            module.register_forward_hook(self._keep)
        self.logits = self.model(inputs)
        self.blocks = list(self.model.blocks)
        self.heads = self.blocks[0].attn.num_heads

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        self.kept[module] = inputs[0], result

    def linear(self, layer: nn.Linear, relevance: Tensor) -> Tensor:
        return linear_rule(self.kept[layer][0], layer.weight, layer.bias, relevance, self.gamma)

    def head(self, features: Tensor, target: list[int]) -> Tensor:
        """Relevance of features (B, …, D), each read by norm and head, for the score 1."""
        normed = self.model.norm(features)
        logits = self.model.head(normed)
        relevance = torch.zeros_like(logits)
        for image, number in enumerate(target):
            relevance[image, ..., number] = logits[image, ..., number]
        weight, bias = self.model.head.weight, self.model.head.bias
        relevance = linear_rule(normed, weight, bias, relevance, self.gamma)
        return norm_rule(features, self.model.norm, relevance)

    def to_attention(self, block: nn.Module, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance of a block's result to that of its input (by the residual) and of A V."""
        kept = self.kept
        middle, added = kept[block.norm2][0], kept[block.mlp.fc2][1]
        of_middle, of_mlp = sum_rule(middle, added, relevance)
        of_mlp = self.linear(block.mlp.fc1, self.linear(block.mlp.fc2, of_mlp))
        of_middle = of_middle + norm_rule(middle, block.norm2, of_mlp)
        of_input, of_projection = sum_rule(kept[block][0], kept[block.attn.proj][1], of_middle)
        return of_input, self.linear(block.attn.proj, of_projection)

    def through_attention(self, block: nn.Module, relevance: Tensor) -> Tensor:
        """Relevance of A V to that of the block's input."""
        of_qkv = attention_rule(self.kept[block.attn.qkv][1], self.heads, relevance)
        of_normed = self.linear(block.attn.qkv, of_qkv)
        return norm_rule(self.kept[block.norm1][0], block.norm1, of_normed)

    def attention_and_gradient(self, block: nn.Module, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """A, and dA = dO V^T, where dO is the relevance of A V divided by its value."""
        attention, value, result = attention_of(self.kept[block.attn.qkv][1], self.heads)
        gradient = (relevance / result).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return attention, gradient @ value.transpose(-2, -1)


def dense_record_under_rules(
    model: nn.Module, inputs: Tensor, target: list[int], gamma: float
) -> DenseRecord:
    """Return every attention matrix of a ViT with a class token, and its gradient under rules."""
    layers = LayerwisePropagation(model, inputs, gamma)
    tokens = layers.kept[layers.model.norm][0]
    relevance = torch.zeros_like(tokens)
    relevance[:, 0] = layers.head(tokens[:, 0], target)
    pairs = []
    for block in reversed(layers.blocks):
        of_input, of_result = layers.to_attention(block, relevance)
        pairs.append(layers.attention_and_gradient(block, of_result))
        relevance = of_input + layers.through_attention(block, of_result)
    attention, gradient = zip(*reversed(pairs), strict=True)
    return DenseRecord(list(attention), list(gradient), layers.logits)


def legrad_under_rules(model: nn.Module, inputs: Tensor, target: list[int], gamma: float) -> Tensor:
    """LeGrad (arXiv 2404.03214) with gradients under rules: (B, N)."""
    layers = LayerwisePropagation(model, inputs, gamma)
    gradients = []
    for block in layers.blocks:
        tokens = layers.kept[block][1]
        mean = tokens.mean(dim=1, keepdim=True)
        relevance = tokens / tokens.shape[1] / mean * layers.head(mean, target)
        _, of_result = layers.to_attention(block, relevance)
        _, gradient = layers.attention_and_gradient(block, of_result)
        gradients.append(gradient.clamp(min=0).mean(dim=(1, 2)))
    return torch.stack(gradients).mean(dim=0)
