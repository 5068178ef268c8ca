"""Interrelation metrics of one forward pass, for each image, layer and head.

The definitions are semattn's, after arXiv 2211.08543. All metrics use the attention between
patches: attention to prefix tokens and to padding is removed, and its share is reported. Rows of
attention are recomputed in chunks of queries, one layer after the other; no N x N matrix is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..attention.token_map import TokenMap
from ..density import EMPTY, HIGH, LOW
from .nulls import PatchDistributions


@dataclass(frozen=True)
class TokenPositions:
    """Positions of the tokens that one or more sites attend over.

    If the groups of a call are windows of an image, each group has its own positions. Otherwise all
    groups share them, and the leading axis is 1.

    Parameters
    ----------
    queries, keys : (G|1, n, 2), centres in pixels (x, y); NaN for a token that is not a patch
    cell : mean side of a patch, pixels
    """

    queries: Tensor
    keys: Tensor
    cell: float

    @classmethod
    def from_site(cls, site_record: SiteRecord, device: torch.device) -> TokenPositions:
        """Return the positions of a site whose queries are tokens of the image."""
        assert site_record.queries_at is not None
        queries, keys = (
            _centres(at).to(device, site_record.dtype)
            for at in (site_record.queries_at, site_record.keys_at)
        )
        return cls(queries, keys, sum(site_record.keys_at.call_grid.cell) / 2)

    def distance(self, rows: slice, groups: slice) -> Tensor:
        """Return the distances (G|1, Q, Nk) in pixels; 0 to a token that is not a patch."""
        group_index = groups if len(self.keys) > 1 else slice(None)
        queries, keys = self.queries[group_index, rows], self.keys[group_index]
        distance = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.nan_to_num_(0.0)

    def mean_at_same_distance(self, distance: Tensor, values: Tensor, counts: Tensor) -> Tensor:
        """Return, for each key, the mean of `values` at the same distance: (G, Q, Nk).

        Distances are equal if they round to the same number of patches. The mean is 0 for a key
        that is not a patch.

        Parameters
        ----------
        distance : (G|1, Q, Nk), the result of `distance`
        values : (G, Nk), one per key
        counts : (G, Nk), 1 for a key that is a patch, else 0
        """
        ring = (distance / self.cell).round_().long().expand(len(values), -1, -1)
        empty = values.new_zeros(len(values), ring.shape[1], int(ring.max()) + 1)
        total = empty.scatter_add(2, ring, values[:, None].expand_as(ring))
        number = empty.scatter_add(2, ring, counts[:, None].expand_as(ring))
        return (total / number.clamp(min=1)).gather(2, ring) * counts[:, None]


def group_by_positions(sites: Sequence[SiteRecord]) -> Iterator[list[SiteRecord]]:
    """Yield runs of consecutive sites whose queries and keys have the same positions."""
    group: list[SiteRecord] = []
    for site_record in sites:
        first = group[0] if group else site_record
        if not (
            _is_same_placement(site_record.queries_at, first.queries_at)
            and _is_same_placement(site_record.keys_at, first.keys_at)
        ):
            yield group
            group = []
        group.append(site_record)
    yield group


def has_queries_as_keys(site_record: SiteRecord) -> bool:
    """Return whether the queries of a call are its keys, in the same order."""
    return site_record.queries_at is not None and _is_same_placement(
        site_record.queries_at, site_record.keys_at
    )


def _is_same_placement(first: TokenMap | None, second: TokenMap | None) -> bool:
    if first is None or second is None or first is second:
        return first is second
    if first.call_grid != second.call_grid or (first.token is None) is not (second.token is None):
        return False
    return first.token is None or second.token is None or torch.equal(first.token, second.token)


def _centres(placement: TokenMap) -> Tensor:
    layout = placement.call_grid
    prefix = torch.full((layout.prefix, 2), torch.nan, dtype=torch.float64, device="cpu")
    centres = torch.cat([prefix, layout.centers()])
    if placement.token is None:
        return centres[None]
    padded = torch.cat([centres, centres.new_full((1, 2), torch.nan)])
    return padded[placement.token.cpu()]


BLOCK_BYTES = 16 * 2**20  # of (G,H,Q,Nk): small enough for the processor's cache
MIN_EXACT_SUM = 1e-20  # float32 sums of exponentials are exact enough in [x, 1/x]
MASKED_SHARE = 1e-20  # of a query's attention: a key that gets less from every head is masked
TINY = torch.finfo(torch.float32).tiny

# Metrics for each of the D distributions of `PatchDistributions`, and metrics without them.
DISTRIBUTION_METRICS = ("lift", "alignment", "alignment_plain", "class_alignment")
PLAIN_METRICS = (
    "alignment_matched",
    "distance",
    "entropy",
    "self_attention",
    "prefix_mass",
    "outlier_mass",
)


@dataclass(frozen=True)
class BatchMetrics:
    """Metrics of B images and L layers of up to H heads; NaN where a metric is undefined.

    Parameters
    ----------
    layers : L pairs: the number of the layer and its number of heads
    by_distribution : "alignment", "alignment_plain" and "class_alignment", (B, L, H, D), and
        "lift", (B, L, H, D, 3, 3), for each of the D distributions of `PatchDistributions`
    plain : metrics that do not depend on a distribution, (B, L, H)
    """

    layers: tuple[tuple[int, int], ...]
    by_distribution: dict[str, Tensor]
    plain: dict[str, Tensor]

    def without_outliers(self) -> BatchMetrics:
        """Return a copy in which every metric that needs outlier tokens is NaN."""
        masked = {
            name: values.index_fill(3, torch.tensor([1], device="cpu"), torch.nan)
            for name, values in self.by_distribution.items()
        }
        mass = torch.full_like(self.plain["outlier_mass"], torch.nan)
        return replace(self, by_distribution=masked, plain=self.plain | {"outlier_mass": mass})


def measure(
    record: AttentionRecord, distributions: PatchDistributions, class_tokens: Tensor | None = None
) -> BatchMetrics:
    """Compute the metrics of every self-attention layer of a record.

    p is the concentration, A' the attention between patches with rows that sum to 1, and u, v are
    strata:

    * ``lift(u, v)``: attention from patches of u to patches of v, queries weighted by p, divided
      by the value under uniform attention;
    * ``alignment``: ``P sum_i p_i sum_j A'_ij p_j``; ``alignment_plain``: every query has the
      weight 1/P; ``class_alignment``: the class token is the only query;
    * ``alignment_matched``: the alignment divided by its value if each query spread its attention
      evenly over the patches at the same distance;
    * ``distance`` (pixels), ``entropy`` (nats) and ``self_attention`` (the share of a patch's
      attention to itself), means over queries;
    * ``prefix_mass``, the share of attention to prefix tokens; ``outlier_mass``, the share of the
      rest to tokens that the second distribution leaves out.

    Uniform attention is over the keys that a query can attend to: all patches, or its window.

    Parameters
    ----------
    class_tokens : (N,), the part of the output that is read from each prefix token, 0 for patches;
        None if the model has no class token
    """
    sites = [site_record for site_record in record.sites if site_record.site.kind == "self"]
    key_columns = _key_columns(distributions)
    query_weights = _query_weights(distributions, record, class_tokens)
    metrics = []
    for group in group_by_positions(sites):
        positions = TokenPositions.from_site(group[0], record.logits.device)
        weights = _QueryAndKeyWeights(group[0], record, key_columns, query_weights)
        sums = [_SiteSums(site_record, weights) for site_record in group]
        for groups, rows in _iterate_blocks(group[0]):
            distance = positions.distance(rows, groups)
            p = weights.key_columns[groups, :, _P_COLUMN]
            is_patch = weights.key_columns[groups, :, _PATCH_KEYS]
            matched_p = positions.mean_at_same_distance(distance, p, is_patch)
            p_and_distance = torch.stack([matched_p, distance.expand_as(matched_p)], dim=-1)
            for site_sums in sums:
                site_sums.add(groups, rows, p_and_distance)
        metrics += [site_sums.metrics() for site_sums in sums]
    max_heads = max(site_record.shape[1] for site_record in sites)
    return BatchMetrics(
        layers=tuple((site_record.site.layer, site_record.shape[1]) for site_record in sites),
        by_distribution={
            name: _stack_sites([site_metrics[name] for site_metrics in metrics], max_heads)
            for name in DISTRIBUTION_METRICS
        },
        plain={
            name: _stack_sites([site_metrics[name] for site_metrics in metrics], max_heads)
            for name in PLAIN_METRICS
        },
    )


# Sets of queries: patches of each stratum, weighted by p; all patches, equally; the class token.
_STRATUM_QUERIES, _ALL_QUERIES, _CLASS_QUERY = slice(0, 3), 3, 4
# Columns: all keys, patches, kept patches; then EMPTY, LOW, HIGH and p of each distribution.
_ALL_KEYS, _PATCH_KEYS, _KEPT_KEYS, _FIRST_DISTRIBUTION, _P_COLUMN = 0, 1, 2, 3, 6


class _QueryAndKeyWeights:
    """Weights of the queries and keys of calls whose tokens have the same positions.

    `key_columns` (G, Nk, K) are the columns that attention is summed over, `query_weights`
    (G, D, U, Nq) the weights of the queries, `is_patch` (G, Nk) marks the keys that are patches.
    """

    def __init__(
        self,
        site_record: SiteRecord,
        record: AttentionRecord,
        key_columns: Tensor,
        query_weights: Tensor,
    ) -> None:
        assert site_record.queries_at is not None
        self.keys_at = site_record.keys_at
        self.has_queries_as_keys = has_queries_as_keys(site_record)
        device = record.logits.device
        on_grid = record.grid.add_prefix(key_columns.to(device, site_record.dtype))
        coverage = site_record.keys_at.to_call(on_grid[:, 0])[..., None]
        key_columns = site_record.keys_at.to_call(on_grid).movedim(1, -1)
        # A coarse key spreads its attention evenly over the patches that it covers.
        key_columns = torch.where(coverage > 0, key_columns / coverage.clamp(min=TINY), 0)
        self.key_columns = torch.cat([torch.ones_like(coverage), key_columns], dim=-1)
        self.query_weights = site_record.queries_at.to_call(
            query_weights.to(device, site_record.dtype)
        )
        self.is_patch = coverage[..., 0] > 0
        # Under uniform attention to all keys, (G, D, U, 4).
        uniform = _shares(self.key_columns.sum(dim=1))
        self.uniform = self.query_weights.sum(dim=-1)[..., None] * uniform[:, :, None]


class _SiteSums:
    """Sums over the queries of one site, accumulated block by block."""

    def __init__(self, site_record: SiteRecord, weights: _QueryAndKeyWeights) -> None:
        self.site_record, self.weights = site_record, weights
        self.masked = (
            site_record.mask is not None or site_record.causal or site_record.dense is not None
        )
        groups, n_distributions, n_query_sets, _ = weights.query_weights.shape
        heads = site_record.shape[1]
        self.total = weights.key_columns.new_zeros(groups, heads, n_distributions, n_query_sets, 4)
        self.uniform = torch.zeros_like(weights.uniform) if self.masked else weights.uniform
        self.means = weights.key_columns.new_zeros(groups, heads, len(PLAIN_METRICS))

    def add(self, groups: slice, rows: slice, p_and_distance: Tensor) -> None:
        """Add the queries `rows` of some groups.

        `p_and_distance` (G, Q, Nk, 2) holds, for each key, the mean of p over the keys at the same
        distance, and that distance in pixels.
        """
        scores = self.site_record.scores(rows, groups)
        mass, key_sums = self._exponentiate(scores, groups)
        query_weights = self.weights.query_weights[groups, ..., rows]
        plain = self._plain_metrics(scores, mass, key_sums, p_and_distance, groups, rows)
        dense = query_weights[:, 0, _STRATUM_QUERIES].sum(dim=1)
        self.means[groups, :, :1] += torch.einsum("gq,ghqf->ghf", dense, plain[..., :1])
        uniform = query_weights[:, 0, _ALL_QUERIES]
        self.means[groups, :, 1:] += torch.einsum("gq,ghqf->ghf", uniform, plain[..., 1:])
        self.total[groups] += torch.einsum("gduq,ghqdv->ghduv", query_weights, _shares(key_sums))
        if self.masked:
            visible = (mass > MASKED_SHARE * key_sums[..., _ALL_KEYS, None]).any(dim=1).to(mass)
            shares = _shares(visible @ self.weights.key_columns[groups])
            self.uniform[groups] += torch.einsum("gduq,gqdv->gduv", query_weights, shares)

    def _exponentiate(self, scores: Tensor, groups: slice) -> tuple[Tensor, Tensor]:
        """Return unnormalised attention, and its sum over each key column (G, H, Q, K).

        The maximum of each row is subtracted, also from `scores`, only if the sums would otherwise
        overflow or underflow.
        """
        for greatest in (None, True):
            if greatest:
                scores -= scores.amax(dim=-1, keepdim=True)
            mass = scores.exp()
            key_sums = torch.bmm(mass.flatten(1, 2), self.weights.key_columns[groups])
            total = key_sums[..., _ALL_KEYS]
            if bool(((total > MIN_EXACT_SUM) & (total < 1 / MIN_EXACT_SUM)).all()):
                break
        return mass, key_sums.unflatten(1, mass.shape[1:3])

    def _plain_metrics(
        self,
        scores: Tensor,
        mass: Tensor,
        key_sums: Tensor,
        p_and_distance: Tensor,
        groups: slice,
        rows: slice,
    ) -> Tensor:
        """Return the metrics of each query, (G, H, Q, PLAIN_METRICS); `scores` is overwritten."""
        to_all, to_patches = key_sums[..., : _PATCH_KEYS + 1].clamp(min=TINY).unbind(-1)
        if self.masked:
            scores.clamp_(min=-1e4)  # 0 times minus infinity would be NaN
        keys_at = self.weights.keys_at
        if keys_at.token is None:
            scores[..., : keys_at.call_grid.prefix] = 0
        else:
            scores.masked_fill_(~self.weights.is_patch[groups, None, None], 0.0)
        mean_score = scores.mul_(mass).sum(dim=-1) / to_patches
        # A loop, because one batched product would copy the transposed tensor.
        per_query = zip(mass.transpose(1, 2), p_and_distance, strict=True)
        expected = torch.stack([torch.bmm(weights, values) for weights, values in per_query])
        expected = expected.transpose(1, 2) / to_patches[..., None]
        self_share = to_patches.new_full((1,), torch.nan).expand_as(to_patches)
        if self.weights.has_queries_as_keys:
            self_share = torch.diagonal(mass, offset=rows.start, dim1=-2, dim2=-1) / to_patches
        columns = (
            *expected.unbind(-1),
            to_patches.log() - mean_score,
            self_share,
            1 - key_sums[..., _PATCH_KEYS] / to_all,
            1 - key_sums[..., _KEPT_KEYS] / to_patches,
        )
        return torch.stack(columns, dim=-1)

    def metrics(self) -> dict[str, Tensor]:
        """Return each metric by name, (B, H, …), float64 on the CPU."""
        total, uniform, means = (
            self.weights.keys_at.per_image(sums).cpu().double()
            for sums in (self.total, self.uniform, self.means)
        )
        uniform = uniform[:, None]  # (B, 1, D, U, 4)
        dense = total[..., _STRATUM_QUERIES, 3].sum(dim=-1)
        return {
            "lift": _ratio(total[..., _STRATUM_QUERIES, :3], uniform[..., _STRATUM_QUERIES, :3]),
            "alignment": _ratio(dense, uniform[..., _STRATUM_QUERIES, 3].sum(dim=-1)),
            "alignment_plain": _ratio(total[..., _ALL_QUERIES, 3], uniform[..., _ALL_QUERIES, 3]),
            "class_alignment": _ratio(total[..., _CLASS_QUERY, 3], uniform[..., _CLASS_QUERY, 3]),
            "alignment_matched": _ratio(dense[..., 0], means[..., 0]),
        } | {name: means[..., column] for column, name in enumerate(PLAIN_METRICS) if column}


def _iterate_blocks(site_record: SiteRecord) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of groups and queries: several complete groups, or some queries of one."""
    groups, heads, queries, keys = site_record.shape
    row_bytes = heads * keys * site_record.dtype.itemsize
    groups_at_once = max(1, BLOCK_BYTES // (row_bytes * queries))
    step = queries if groups_at_once > 1 else max(1, BLOCK_BYTES // row_bytes)
    for first in range(0, groups, groups_at_once):
        for start in range(0, queries, step):
            yield slice(first, first + groups_at_once), slice(start, min(start + step, queries))


def _key_columns(distributions: PatchDistributions) -> Tensor:
    """Return the key columns (B, K, P): patches, kept patches, strata and p by distribution."""
    counts = torch.ones_like(distributions.weights)
    counts[:, 1] = distributions.keep
    strata = [(distributions.strata == stratum) * counts for stratum in (EMPTY, LOW, HIGH)]
    by_distribution = torch.stack([*strata, distributions.weights], dim=2).flatten(1, 2)
    return torch.cat([counts[:, :2], by_distribution], dim=1)


def _query_weights(
    distributions: PatchDistributions, record: AttentionRecord, class_tokens: Tensor | None
) -> Tensor:
    """Return the query weights (B, D, U, N): by stratum, uniform, and of the class token."""
    strata = [(distributions.strata == stratum) * distributions.weights for stratum in range(3)]
    even = torch.ones_like(distributions.weights)
    even[:, 1] = distributions.keep
    even = even / even.sum(dim=-1, keepdim=True)
    query_weights = record.grid.add_prefix(
        torch.stack([*strata, even, torch.zeros_like(even)], dim=2)
    )
    if class_tokens is not None and bool(class_tokens.any()):
        class_weights = (class_tokens / class_tokens.sum()).cpu()
        query_weights[..., _CLASS_QUERY, :] = class_weights.to(query_weights)
    return query_weights


def _shares(key_sums: Tensor) -> Tensor:
    """Return the shares of EMPTY, LOW, HIGH and p in the attention to patches: (…, D, 4).

    `key_sums` (…, K) is overwritten.
    """
    to_patches, to_kept = key_sums[..., _PATCH_KEYS, None], key_sums[..., _KEPT_KEYS, None]
    shares = key_sums[..., _FIRST_DISTRIBUTION:].div_(to_patches.clamp(min=TINY))
    shares = shares.unflatten(-1, (-1, 4))
    shares[..., 1, :] *= to_patches / to_kept.clamp(min=TINY)  # the second distribution
    return shares


def _ratio(attended: Tensor, uniform: Tensor) -> Tensor:
    """Divide, with NaN where the value under uniform attention is 0."""
    return torch.where(uniform > 0, attended / uniform, torch.nan)


def _stack_sites(sites: list[Tensor], heads: int) -> Tensor:
    """Stack values of sites (B, H, …) to (B, L, H, …); NaN pads layers with fewer heads."""
    padded = [
        torch.cat(
            [
                site_values,
                site_values.new_full(
                    (len(site_values), heads - site_values.shape[1], *site_values.shape[2:]),
                    torch.nan,
                ),
            ],
            1,
        )
        for site_values in sites
    ]
    return torch.stack(padded, dim=1)
