"""Attribution by weighted patch interrelation: attention, its gradient, and SIFT keypoints.

After "Demystify Self-Attention in Vision Transformers from a Semantic Perspective: Analysis and
Application", arXiv 2211.08543, re-implemented from the abstract; the definitions are semattn's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..affinity import DEFAULT_AFFINITY, random_walk
from ..attention import AttentionRecord, SiteRecord
from ..attention.attention_record import num_active_queries
from ..grid import PatchGrid
from ..utils.validation import check_number
from .attention_gradient import AttentionGradientExplainer
from .base import explainers

QUERIES = ("auto", "class", "all")
TINY = torch.finfo(torch.float32).tiny


@explainers.register("sift-patch-interrelation")
class SIFTPatchInterrelation(AttentionGradientExplainer):
    """Class-specific attention relevance, weighted by the concentration of SIFT keypoints.

    For layer l and head h with attention A and its gradient dA for the target, the relevance of
    patch j is ``sum_lh a_lh sum_i w_i relu(A * dA)_ij``. SIFT is used twice, through the keypoint
    concentration p (one weight per patch, sum 1):

    * head alignment ``a_lh = P sum_i w_i sum_j A_ij p_j / sum_i w_i``, with rows of A renormalised
      over the patches: the attention of the head to dense patches, relative to uniform attention;
    * query weights ``w_i``: for a prefix token the part of the score that is read from it; for
      patch i the remaining part times p_i, so that rows of dense patches count more.

    Affinity refinement follows: r = (1 - affinity) relevance + affinity T r, where T averages over
    the patches with similar keys in the layer nearest to half of the depth (`semattn.affinity`).

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    queries : rows of attention that are used: "auto", the tokens that the score is read from, with
        the patches weighted by p; "class", prefix tokens only (O(N)); "all", prefix tokens and all
        patches
    query_weights : False weights all patches equally, w_i = 1/P
    head_alignment : False weights all heads equally, a_lh = 1
    affinity : strength of the affinity refinement, in [0, 1); 0 for the map without it
    options : gradient, "plain" or "lrp", as for `AttentionGradientExplainer`; and as for
        `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    An attention pool counts as one more layer; each of its learned queries is weighted by the part
    of the score that is read from it. Prefix tokens that the score does not read, such as
    registers, have the weight 0. With a uniform p, as for an image without keypoints, the result is
    the model-only map, up to rounding.

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
        affinity: float = DEFAULT_AFFINITY,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if queries not in QUERIES:
            raise ValueError(f"queries: expected one of {', '.join(QUERIES)}, got {queries!r}")
        check_number("affinity", affinity)
        if not 0 <= affinity < 1:
            raise ValueError(
                f"affinity: expected a number in [0, 1), got {affinity!r} — "
                f"{DEFAULT_AFFINITY} is the default"
            )
        self.queries = queries
        self.query_weights = query_weights
        self.head_alignment = head_alignment
        self.affinity = affinity
        self._options = options

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {
            "queries": self.queries,
            "query_weights": self.query_weights,
            "head_alignment": self.head_alignment,
            "affinity": self.affinity,
        }

    def model_only(self) -> SIFTPatchInterrelation:
        """Return the same explainer without SIFT, as a baseline that uses the model alone."""
        return SIFTPatchInterrelation(
            self.forward_func,
            queries=self.queries,
            query_weights=False,
            head_alignment=False,
            affinity=self.affinity,
            **self._options | {"density": "uniform"},
        )

    def notes(self, record: AttentionRecord) -> tuple[str, ...]:
        """Return a note if the layer of the affinity refinement has no keys."""
        layer = record.middle_layer()
        if not self.affinity or layer.key is not None:
            return ()
        note = (
            f"The map has no affinity refinement: {layer.site} computes its own softmax, so its "
            "keys are not available."
        )
        return (note,)

    def relevance(self, record: AttentionRecord, p: Tensor) -> Tensor:
        """Compute the relevance (B, P) of each patch for the concentration `p` (B, P)."""
        grid, query_weights = record.grid, self._query_weights(record, p)
        # Of each key: its concentration, and 1 for a patch.
        of_keys = grid.add_prefix(torch.stack([p, torch.ones_like(p)], dim=1))
        site_weights = [site.query_weights(query_weights).to(site.dtype) for site in record.sites]
        active = num_active_queries(*site_weights)
        total = torch.zeros((), device=p.device)
        for site, weights, queries in zip(record.sites, site_weights, active, strict=True):
            total = total + self._site_relevance(site, grid, of_keys, weights, queries)
        if self.affinity:
            refined = random_walk(
                record.middle_layer(), record.grid, total[..., None], self.affinity
            )
            total = total if refined is None else refined[..., 0]
        return total

    def _query_weights(self, record: AttentionRecord, p: Tensor) -> Tensor:
        """Return the query weights (B, N): readout of prefix tokens, and p for the patches."""
        weights = record.readout().to(p)
        weights[:, record.grid.prefix :] = 0
        on_prefix = weights.sum(dim=1, keepdim=True)
        if self.queries == "class" and not bool((on_prefix > 0).all()):
            raise ValueError(
                "queries: expected a model that reads its output from a class token for 'class', "
                "got one that does not — use queries='all' or 'auto'"
            )
        patches = p if self.query_weights else torch.full_like(p, 1 / record.grid.patches)
        if self.queries != "auto":
            weights = torch.where(on_prefix > 0, weights / on_prefix.clamp(min=TINY), weights)
            on_patches = torch.full_like(on_prefix, float(self.queries == "all"))
        else:
            on_patches = 1 - on_prefix
        return weights + record.grid.add_prefix(on_patches * patches)

    def _site_relevance(
        self, site: SiteRecord, grid: PatchGrid, of_keys: Tensor, site_weights: Tensor, active: int
    ) -> Tensor:
        """Compute the relevance from one site, (B, P).

        Parameters
        ----------
        of_keys : (B, 2, N), the concentration of each token of `grid`, and 1 for a patch
        site_weights : (G, Nq), the weights of the queries of the site
        active : the number of queries up to the last with a non-zero weight
        """
        p, is_patch = site.keys_at.to_call(of_keys).to(site.dtype).unbind(dim=1)
        of_keys = torch.stack([p, is_patch.ne(0).to(p)], dim=-1)[:, None]  # (G, 1, Nk, 2)
        relevance: Any = 0  # (G, H, Nk): sum over queries of w_i relu(A dA)_ij
        alignment: Any = 0  # (G, H): sum over queries of w_i times alignment of row i
        for rows in site.chunks(active):
            attention = site.attention(rows)
            row_weights = site_weights[:, None, None, rows]
            if self.head_alignment:
                on_p, on_patches = (attention @ of_keys).unbind(dim=-1)
                dense_share = on_p / on_patches.clamp(min=TINY)
                alignment = alignment + (row_weights.squeeze(2) * dense_share).sum(dim=-1)
            block = attention.mul_(site.attention_gradient(rows)).relu_()
            relevance = relevance + (row_weights @ block).squeeze(2)
        relevance = site.keys_at.to_grid(relevance)[..., grid.prefix :]
        if self.head_alignment:
            total_weight = site.keys_at.per_image(site_weights.sum(dim=-1))[:, None].clamp(min=TINY)
            alignment = (
                site.keys_at.call_grid.patches * site.keys_at.per_image(alignment) / total_weight
            )
            relevance = relevance * alignment[..., None]
        return relevance.sum(dim=1)
