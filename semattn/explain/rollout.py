"""Methods that propagate one weight per token from the output back through the attention layers.

Attention rollout, gradient rollout, generic relevance and raw attention need only the row of a
product of attention matrices at which the output is read. Therefore a row vector is multiplied
layer by layer, and no matrix product is stored. Token maps bring the vector to windows and coarser
grids and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, SiteRecord
from ..attention.attention_record import num_active_queries
from ..errors import UnsupportedModelError
from .attention_gradient import AttentionGradientExplainer
from .base import Explainer, explainers

# Function from a slice of queries to the head-fused matrix F of a site, (G, Q, Nk).
FusedAttention = Callable[[slice], Tensor]


def pool_sites(record: AttentionRecord) -> list[SiteRecord]:
    """Return the attention pools, whose learned queries read the output from all tokens."""
    return [site for site in record.sites if site.queries_at is None]


def layer_sites(record: AttentionRecord) -> list[SiteRecord]:
    """Return the sites whose queries are tokens, in the order of the layers."""
    return [site for site in record.sites if site.queries_at is not None]


def require_layer_sites(record: AttentionRecord, model: nn.Module, method: str) -> list[SiteRecord]:
    """Return the sites whose queries are tokens; raise if the model has none.

    Raises
    ------
    UnsupportedModelError
        For a model whose only attention between patches is in attention pools.
    """
    sites = layer_sites(record)
    if not sites:
        pools = ", ".join(str(site.site) for site in pool_sites(record)) or "no attention at all"
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected a self-attention layer between patches for "
            f"{method}, got only {pools} — choose another method, such as attention-rollout"
        )
    return sites


def initial_weights(
    record: AttentionRecord, fuse: Callable[[SiteRecord], FusedAttention]
) -> Tensor:
    """Return the token weights (B, N) at the output: `readout`, propagated through the pools."""
    weights = record.readout()
    pools = [propagate(site, weights, fuse(site), few=True) for site in pool_sites(record)]
    return torch.stack(pools).mean(dim=0) if pools else weights


def mean_attention(site: SiteRecord) -> FusedAttention:
    """Return the function that computes the mean over heads of a site's attention."""
    return lambda rows: site.attention(rows).mean(dim=1)


def propagate(
    site: SiteRecord, tokens: Tensor, fused: FusedAttention, *, few: bool = False
) -> Tensor:
    """Compute sum_i tokens_i F_ij over the queries i: (B, N) to (B, N).

    `few` leaves out the queries behind the last one with a weight, which one read of the device
    tells. It pays if few tokens have a weight, as in the readout.
    """
    weights = site.query_weights(tokens)
    total = torch.zeros((), dtype=site.dtype, device=weights.device)
    for rows in site.chunks(*num_active_queries(weights) if few else ()):
        block = fused(rows)
        total = total + (weights[:, None, rows].to(block) @ block).squeeze(1)
    return site.keys_at.to_grid(total[:, None])[:, 0]


def rollout_step(
    site: SiteRecord,
    tokens: Tensor,
    fused: FusedAttention,
    residual: float = 0.5,
    *,
    few: bool = False,
) -> tuple[Tensor, Tensor]:
    """Multiply token weights by one rollout matrix, and return the product in two parts.

    The product is ``sum_i tokens_i M_ij``, where M is ``(1 - residual) F + residual I`` with each
    row divided by its sum, F the fused attention and I the identity. `few` is that of `propagate`.

    Returns
    -------
    moved : Tensor
        (B, N), the part of the product that comes from F.
    retained : Tensor
        (B, N), the factor that I applies to the weight of each token; 1 for a token that is not an
        input of the site. The product is ``moved + tokens * retained``.
    """
    assert site.queries_at is not None
    weights = site.query_weights(tokens).to(site.dtype)
    retained = torch.ones_like(weights)
    total = torch.zeros((), dtype=site.dtype, device=weights.device)
    for rows in site.chunks(*num_active_queries(weights) if few else ()):
        block = fused(rows)
        sums = (1 - residual) * block.sum(dim=-1) + residual
        sums = sums.clamp(min=torch.finfo(block.dtype).tiny)
        row_weights = weights[:, rows] * (1 - residual) / sums
        total = total + (row_weights[:, None] @ block).squeeze(1)
        retained[:, rows] = residual / sums
    return site.keys_at.to_grid(total[:, None])[:, 0], _mean_on_tokens(site, retained)


def _mean_on_tokens(site: SiteRecord, values: Tensor) -> Tensor:
    """Return the mean of query values (G, Nq) on the tokens (B, N); 1 for a token without query."""
    assert site.queries_at is not None
    counts = site.queries_at.to_grid(torch.ones_like(values)[:, None])[:, 0]
    sums = site.queries_at.to_grid(values[:, None])[:, 0]
    return torch.where(counts > 0, sums / counts.clamp(min=torch.finfo(counts.dtype).tiny), 1)


@explainers.register("raw-attention")
class RawAttention(Explainer):
    """Attention of the last layer, averaged over heads, in the rows that the output is read from.

    Each row has as weight the part of the output that is read from it (`AttentionRecord.readout`):
    the row of the class token, rows of several prefix tokens, or rows of the patches. If an
    attention pool comes last, it is the row of its learned query. The map does not depend on the
    target.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as for `Explainer`: density, detector, layers (several layers are averaged), refine,
        preprocessing, seed

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> RawAttention(vit, layers=[-2]).patch_map(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 4, 4])
    """

    name = "raw-attention"
    needs_gradient = False
    uses_keypoints = False
    class_specific = False
    default_layers = (-1,)

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the mean attention (B, P) in the rows of the readout."""
        readout = record.readout()
        rows = [
            propagate(site, readout, mean_attention(site), few=True)
            for site in pool_sites(record) or layer_sites(record)
        ]
        return record.grid.drop_prefix(torch.stack(rows).mean(dim=0))


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
        for number, site in enumerate(reversed(layer_sites(record))):
            fused = self._fuse_heads(site, read)
            moved, retained = rollout_step(site, tokens, fused, self.residual, few=number == 0)
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


@explainers.register("gradient-rollout")
class GradientRollout(AttentionGradientExplainer):
    """Rollout of the positive part of attention times its gradient for the target.

    The map is the row of the readout in M_L ... M_1, where M_l is relu(mean_h(A * dA)) + I with
    rows divided by their sums, A the attention after softmax and dA the gradient of the target with
    respect to it.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : gradient, "plain" or "lrp", as for `AttentionGradientExplainer`; and as for
        `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Rollout is arXiv 2005.00928; the weighting by the gradient follows J. Gildenblat's vit-explain,
    without discarding. The weight that never leaves its token through I is subtracted, because it
    does not depend on attention.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GradientRollout(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "gradient-rollout"
    uses_keypoints = False
    default_layers = "all"

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the rollout row (B, P)."""
        tokens = initial_weights(record, _weighted_attention)
        never_moved = torch.zeros_like(tokens) if pool_sites(record) else tokens
        for number, site in enumerate(reversed(layer_sites(record))):
            fused = _weighted_attention(site)
            moved, retained = rollout_step(site, tokens, fused, few=number == 0)
            tokens, never_moved = moved + tokens * retained, never_moved * retained
        return record.grid.drop_prefix(tokens - never_moved)


def _weighted_attention(site: SiteRecord) -> FusedAttention:
    """Return the function that computes relu(mean_h(A * dA)) of a site."""
    return lambda rows: site.attention(rows).mul_(site.attention_gradient(rows)).mean(dim=1).relu_()


@explainers.register("generic-relevance")
class GenericRelevance(AttentionGradientExplainer):
    """Relevance that accumulates over the layers.

    R starts as I and becomes R + mean_h(relu(A * dA)) R at every layer, with A the attention after
    softmax and dA the gradient of the target with respect to it; the map is the readout's row of R.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : gradient, "plain" or "lrp", as for `AttentionGradientExplainer`; and as for
        `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Only the row is computed: v becomes v + v mean_h(relu(A * dA)) from the last layer to the first.
    The paper reads a class token. If the output is read from the patches, the part of I, which is
    the same for all patches, is subtracted. If the model has an attention pool, its row is the
    first.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GenericRelevance(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "generic-relevance"
    uses_keypoints = False
    default_layers = "all"

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the row of R at the readout, (B, P)."""
        tokens = initial_weights(record, _positive_attention)
        identity_part = 0 if pool_sites(record) else tokens
        for number, site in enumerate(reversed(layer_sites(record))):
            fused = _positive_attention(site)
            tokens = tokens + propagate(site, tokens, fused, few=number == 0)
        return record.grid.drop_prefix(tokens - identity_part)


def _positive_attention(site: SiteRecord) -> FusedAttention:
    """Return the function that computes mean_h(relu(A * dA)) of a site."""
    return lambda rows: site.attention(rows).mul_(site.attention_gradient(rows)).relu_().mean(dim=1)
