"""Attribution by weighted patch interrelation: attention, its gradient, and SIFT.

After "Demystify Self-Attention in Vision Transformers from a Semantic Perspective: Analysis and
Application", arXiv 2211.08543, re-implemented from the abstract; the definitions are semattn's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..affinity import GROWTH, walked
from ..attention import AttentionRecord, SiteRecord
from ..attention.site_record import last_asking
from ..grid import PatchGrid
from ..utils.validation import check_number
from .base import Explainer, Maps, Run, explainers

QUERIES = ("auto", "class", "all")
TINY = torch.finfo(torch.float32).tiny


@explainers.register("sift-patch-interrelation")
class SIFTPatchInterrelation(Explainer):
    """Class-specific attention relevance, weighted by where the SIFT keypoints lie.

    For layer l and head h with attention A and its gradient dA for the target, the relevance of
    patch j is ``sum_lh a_lh sum_i w_i relu(A * dA)_ij``. SIFT enters twice, through the keypoint
    concentration p (one weight a patch, sum 1):

    * head alignment ``a_lh = P sum_i w_i sum_j A_ij p_j / sum_i w_i``, rows of A renormalised over
      the patches: how many times more attention than chance the head gives to dense patches;
    * query weights ``w_i``: for a prefix token the part of the score that is read from it; for
      patch i the rest times p_i, so that what semantic patches gather counts more.

    Then relevance is evened out over each thing: r = (1 - growth) relevance + growth T r, where T
    is the mean over the patches whose keys, in the layer nearest to half of the depth, are like a
    patch's own (`semattn.affinity`).

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    queries : "auto", the tokens that the score is read from ask: prefix tokens by the part that is
        read from each, and the patches, by their concentration, for the rest; "class", prefix
        tokens alone (row form, O(N)); "all", prefix tokens and all patches
    query_weights : False asks every patch alike, w_i = 1/P
    head_alignment : False counts every head alike, a_lh = 1
    growth : the part of a patch's relevance, in [0, 1), that it has from patches of like keys; 0
        leaves the map as it is
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Attention pools are one more layer, asked by their learned queries, each by the part of the
    score that is read from it. Prefix tokens that the score does not read, such as registers,
    never ask.
    A uniform p, as of an image without keypoints, gives the model-only map, to rounding.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> SIFTPatchInterrelation().patch_map(vit, x, target=[0, 1]).shape
    torch.Size([2, 4, 4])
    """

    name = "sift-patch-interrelation"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        queries: str = "auto",
        query_weights: bool = True,
        head_alignment: bool = True,
        growth: float = GROWTH,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if queries not in QUERIES:
            raise ValueError(f"queries: expected one of {', '.join(QUERIES)}, got {queries!r}")
        check_number("growth", growth)
        if not 0 <= growth < 1:
            raise ValueError(
                f"growth: expected a part in [0, 1), got {growth!r} — {GROWTH} is the default"
            )
        self.queries = queries
        self.query_weights = query_weights
        self.head_alignment = head_alignment
        self.growth = growth
        self._options = options

    def parameters(self) -> dict[str, Any]:
        """What this explainer was set to, ready for JSON."""
        return super().parameters() | {
            "queries": self.queries,
            "query_weights": self.query_weights,
            "head_alignment": self.head_alignment,
            "growth": self.growth,
        }

    def model_only(self) -> SIFTPatchInterrelation:
        """The same explainer without SIFT: what the model alone says, to compare with."""
        return SIFTPatchInterrelation(
            self.forward_func,
            queries=self.queries,
            query_weights=False,
            head_alignment=False,
            growth=self.growth,
            **self._options | {"density": "uniform"},
        )

    def maps(self, run: Run) -> Maps:
        """Compute the maps, with a note where affinity refinement has no keys."""
        made = super().maps(run)
        middle = made.taken.half_way()
        if not self.growth or middle.key is not None:
            return made
        note = (
            f"The map is without affinity refinement: {middle.site} makes its own softmax, so that "
            "its keys are not known."
        )
        return replace(made, notes=(*made.notes, note))

    def relevance(self, taken: AttentionRecord, p: Tensor) -> Tensor:
        """Relevance (B, P) of each patch, given the concentration `p` (B, P)."""
        weights = self._query_weights(taken, p)
        total = torch.zeros((), device=p.device)
        for one in taken.sites:
            total = total + self._site(one, taken.grid, p, weights)
        if self.growth:
            grown = walked(taken.half_way(), taken.grid, total[..., None], self.growth)
            total = total if grown is None else grown[..., 0]
        return total

    def _query_weights(self, taken: AttentionRecord, p: Tensor) -> Tensor:
        """Query weights (B, N): what is read from prefix tokens, and the rest by concentration."""
        read = taken.readout().to(p)
        read[:, taken.grid.prefix :] = 0
        on_prefix = read.sum(dim=1, keepdim=True)
        if self.queries == "class" and not bool((on_prefix > 0).all()):
            raise ValueError(
                "queries: expected a class token for 'class', got a model that does not read its "
                "answer from one — use queries='all' or 'auto'"
            )
        patches = p if self.query_weights else torch.full_like(p, 1 / taken.grid.patches)
        if self.queries != "auto":
            read = torch.where(on_prefix > 0, read / on_prefix.clamp(min=TINY), read)
            on_patches = torch.full_like(on_prefix, float(self.queries == "all"))
        else:
            on_patches = 1 - on_prefix
        return read + taken.grid.add_prefix(on_patches * patches)

    def _site(self, one: SiteRecord, grid: PatchGrid, p: Tensor, weights: Tensor) -> Tensor:
        """One site's share of the relevance, (B, P)."""
        keys = one.keys_at.spread(grid.add_prefix(p)).to(one.dtype)[:, None, :, None]
        patches = one.keys_at.spread(grid.add_prefix(torch.ones_like(p))).ne(0)
        patches = patches.to(one.dtype)[:, None, :, None]
        asking = one.asking(weights).to(one.dtype)
        gathered: Any = 0  # (G, H, Nk): sum over queries of w_i relu(A dA)_ij
        aligned: Any = 0  # (G, H): sum over queries of w_i times alignment of row i
        for rows in one.chunks(last_asking(asking)):
            attention = one.attention(rows)
            asked = asking[:, None, None, rows]
            if self.head_alignment:
                on_patches = (attention @ patches).clamp(min=TINY)
                dense = ((attention @ keys) / on_patches).squeeze(-1)
                aligned = aligned + (asked.squeeze(2) * dense).sum(dim=-1)
            relevance = attention.mul_(one.attention_gradient(rows)).relu_()
            gathered = gathered + (asked @ relevance).squeeze(2)
        gathered = one.keys_at.collect(gathered)[..., grid.prefix :]
        if self.head_alignment:
            asked = one.keys_at.per_image(asking.sum(dim=-1))[:, None].clamp(min=TINY)
            share = one.keys_at.own.patches * one.keys_at.per_image(aligned) / asked
            gathered = gathered * share[..., None]
        return gathered.sum(dim=1)
