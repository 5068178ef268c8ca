"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928), one row of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import Fused, layers, roll, start

FUSIONS = {
    "mean": lambda attention: attention.mean(dim=1),
    "max": lambda attention: attention.amax(dim=1),
    "min": lambda attention: attention.amin(dim=1),
}


@explainers.register("attention-rollout")
class AttentionRollout(Explainer):
    """The product of all layers' attention: how much of each patch arrives where the answer is.

    The row of the readout in M_L ... M_1, where M_l = (A_l + I) / 2 with the heads of A_l averaged
    and rows that sum to 1. It does not depend on the target.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    head_fusion : "mean", "max" or "min" over the heads
    discard_ratio : the fraction in [0, 1) of each layer's fused attention that is set to 0, the
        smallest of an image first; that of the class token to itself stays
    residual : the weight in [0, 1) of I; that of A is 1 - residual
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    `head_fusion` and `discard_ratio` are not in the paper; they are those of J. Gildenblat's
    vit-explain, with each row divided by its own sum. A ratio above 0 holds one layer's fused
    matrix, N x N, at a time. An attention pool is where the answer is read.

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
    usual_layers = "all"

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
        """What this explainer was set to, ready for JSON."""
        return super().parameters() | {
            "head_fusion": self.head_fusion,
            "discard_ratio": self.discard_ratio,
            "residual": self.residual,
        }

    def relevance(self, taken: AttentionRecord, _p: Tensor) -> Tensor:
        """The rolled-out row (B, P)."""
        read = taken.readout()
        tokens = start(taken, lambda one: self._fused(one, read))
        for one in reversed(layers(taken)):
            moved, stays = roll(one, tokens, self._fused(one, read), self.residual)
            tokens = moved + tokens * stays
        return taken.grid.drop_prefix(tokens)

    def _fused(self, one: SiteRecord, read: Tensor) -> Fused:
        fuse = FUSIONS[self.head_fusion]
        if not self.discard_ratio:
            return lambda rows: fuse(one.attention(rows))
        whole = torch.cat([fuse(one.attention(rows)) for rows in one.chunks()], dim=1)
        self._discard(one, whole, read)
        return lambda rows: whole[:, rows]

    def _discard(self, one: SiteRecord, whole: Tensor, read: Tensor) -> None:
        """Set the smallest of `whole` (G, Nq, Nk) to 0 in place, image by image.

        What a prefix token that the score reads, by `read` (B, N), gives to itself stays.
        """
        at = one.keys_at
        for image in range(at.batch):
            mine = slice(image, image + 1) if at.image is None else at.image == image
            flat = whole[mine].flatten()
            own = _own_entries(one, read[image], image)
            stay = flat[own].clone()
            least = flat.topk(int(flat.numel() * self.discard_ratio), largest=False, sorted=False)
            flat[least.indices] = 0
            flat[own] = stay
            whole[mine] = flat.view_as(whole[mine])


def _own_entries(one: SiteRecord, read: Tensor, image: int) -> Tensor:
    """Return the flat indices of the attention of each read prefix token to itself."""
    prefix = one.keys_at.own.prefix
    chosen = (read[:prefix] > 0).nonzero().flatten()
    if one.queries_at is None or not len(chosen):
        return chosen[:0]
    places = []
    for at, count in ((one.queries_at, one.shape[2]), (one.keys_at, one.shape[3])):
        if at.token is None or at.image is None:
            token = torch.arange(count, device=read.device)[None]
        else:
            token = at.token[at.image == image]
        places.append(token)
    entries = []
    for number in chosen.tolist():
        for group, (queries, keys) in enumerate(zip(*places, strict=True)):
            rows, columns = (queries == number).nonzero(), (keys == number).nonzero()
            first = group * one.shape[2] * one.shape[3]
            entries.append((first + rows * one.shape[3] + columns.T).flatten())
    return torch.cat(entries)
