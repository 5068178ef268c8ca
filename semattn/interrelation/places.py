"""Positions of the queries and keys of attention calls, and the distances between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import SiteRecord
from ..attention.token_map import TokenMap


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
