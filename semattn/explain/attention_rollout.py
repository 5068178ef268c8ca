"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928), one row of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import FusedAttention, initial_weights, layer_sites, rollout_step

FUSIONS = {
    "mean": lambda attention: attention.mean(dim=1),
    "max": lambda attention: attention.amax(dim=1),
    "min": lambda attention: attention.amin(dim=1),
}


@explainers.register("attention-rollout")
class AttentionRollout(Explainer):
    """Attention rollout: the product of the attention matrices of all layers.

    The map is the row of the readout in M_L ... M_1, where M_l = (A_l + I) / 2 with the heads of
    A_l averaged and rows that sum to 1. It does not depend on the target.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    head_fusion : "mean", "max" or "min" over the heads
    discard_ratio : the fraction in [0, 1) of each layer's fused attention that is set to 0, the
        smallest values of an image first; attention of the class token to itself is kept
    residual : the weight in [0, 1) of I; the weight of A is 1 - residual
    options : as for `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    `head_fusion` and `discard_ratio` are not in the paper; they follow J. Gildenblat's vit-explain,
    with each row divided by its sum. A ratio above 0 needs the fused N x N matrix of one layer in
    memory at a time. If the model has an attention pool, its row is the first.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> AttentionRollout(vit).patch_map(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 4, 4])
    """

    name = "attention-rollout"
    needs_gradient = False
    uses_keypoints = False
    class_specific = False
    default_layers = "all"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        head_fusion: str = "mean",
        discard_ratio: float = 0.0,
        residual: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if head_fusion not in FUSIONS:
            raise ValueError(
                f"head_fusion: expected one of {', '.join(FUSIONS)}, got {head_fusion!r}"
            )
        for name, value in (("discard_ratio", discard_ratio), ("residual", residual)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: expected at least 0 and less than 1, got {value}")
        self.head_fusion = head_fusion
        self.discard_ratio = discard_ratio
        self.residual = residual

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "head_fusion": self.head_fusion,
            "discard_ratio": self.discard_ratio,
            "residual": self.residual,
        }

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the rollout row (B, P)."""
        read = record.readout()
        tokens = initial_weights(record, lambda site: self._fuse_heads(site, read))
        for site in reversed(layer_sites(record)):
            fused = self._fuse_heads(site, read)
            moved, retained = rollout_step(site, tokens, fused, self.residual)
            tokens = moved + tokens * retained
        return record.grid.drop_prefix(tokens)

    def _fuse_heads(self, site: SiteRecord, read: Tensor) -> FusedAttention:
        fuse = FUSIONS[self.head_fusion]
        if not self.discard_ratio:
            return lambda rows: fuse(site.attention(rows))
        fused = torch.cat([fuse(site.attention(rows)) for rows in site.chunks()], dim=1)
        self._discard(site, fused, read)
        return lambda rows: fused[:, rows]

    def _discard(self, site: SiteRecord, fused: Tensor, read: Tensor) -> None:
        """Set the smallest values of `fused` (G, Nq, Nk) to 0 in place, image by image.

        The attention to itself of a prefix token that the score reads, by `read` (B, N), is kept.
        """
        keys_at = site.keys_at
        for image in range(keys_at.batch):
            of_image = slice(image, image + 1) if keys_at.image is None else keys_at.image == image
            flat = fused[of_image].flatten()
            diagonal = _self_attention_indices(site, read[image], image)
            diagonal_values = flat[diagonal].clone()
            n_discarded = int(flat.numel() * self.discard_ratio)
            flat[flat.topk(n_discarded, largest=False, sorted=False).indices] = 0
            flat[diagonal] = diagonal_values
            fused[of_image] = flat.view_as(fused[of_image])


def _self_attention_indices(site: SiteRecord, read: Tensor, image: int) -> Tensor:
    """Return the flat indices of the self-attention of the prefix tokens that the score reads."""
    prefix = site.keys_at.call_grid.prefix
    read_tokens = (read[:prefix] > 0).nonzero().flatten()
    if site.queries_at is None or not len(read_tokens):
        return read_tokens[:0]
    positions = []
    for placement, count in ((site.queries_at, site.shape[2]), (site.keys_at, site.shape[3])):
        if placement.token is None or placement.image is None:
            tokens = torch.arange(count, device=read.device)[None]
        else:
            tokens = placement.token[placement.image == image]
        positions.append(tokens)
    indices = []
    for token in read_tokens.tolist():
        for group, (queries, keys) in enumerate(zip(*positions, strict=True)):
            rows, columns = (queries == token).nonzero(), (keys == token).nonzero()
            offset = group * site.shape[2] * site.shape[3]
            indices.append((offset + rows * site.shape[3] + columns.T).flatten())
    return torch.cat(indices)
