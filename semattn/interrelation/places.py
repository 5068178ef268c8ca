"""Where the queries and keys of attention calls lie, and how far from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention import SiteRecord
from ..attention.placement import Placement


@dataclass(frozen=True)
class Places:
    """The places of the tokens that one or several sites attend over.

    Where a call's groups are windows of an image, each has its own; else all groups share them, and
    the leading axis is 1.

    Parameters
    ----------
    queries, keys : (G|1, n, 2), centres in pixels (x, y); NaN for what is no patch
    cell : mean side of a patch, pixels
    """

    queries: Tensor
    keys: Tensor
    cell: float

    @classmethod
    def of(cls, one: SiteRecord, device: torch.device) -> Places:
        """Those of a site whose queries are tokens of the image."""
        assert one.queries_at is not None
        queries, keys = (_centres(at).to(device, one.dtype) for at in (one.queries_at, one.keys_at))
        return cls(queries, keys, sum(one.keys_at.own.cell) / 2)

    def distance(self, rows: slice, groups: slice) -> Tensor:
        """Pixels (G|1, Q, Nk) between queries and keys; 0 to what is no patch."""
        chosen = groups if len(self.keys) > 1 else slice(None)
        queries, keys = self.queries[chosen, rows], self.keys[chosen]
        away = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
        return away.nan_to_num_(0.0)

    def matched(self, distance: Tensor, values: Tensor, counts: Tensor) -> Tensor:
        """For each key, the mean of `values` over all keys as far from the query: (G, Q, Nk).

        0 for a key that is no patch.

        As far means: the same distance when rounded to patches.

        Parameters
        ----------
        distance : (G|1, Q, Nk), as `distance` gives it
        values : (G, Nk), one a key
        counts : (G, Nk), 1 for a key that is a patch, else 0
        """
        ring = (distance / self.cell).round_().long().expand(len(values), -1, -1)
        empty = values.new_zeros(len(values), ring.shape[1], int(ring.max()) + 1)
        total = empty.scatter_add(2, ring, values[:, None].expand_as(ring))
        number = empty.scatter_add(2, ring, counts[:, None].expand_as(ring))
        return (total / number.clamp(min=1)).gather(2, ring) * counts[:, None]


def alike(sites: Sequence[SiteRecord]) -> Iterator[list[SiteRecord]]:
    """Runs of sites whose queries and keys lie at the same places."""
    group: list[SiteRecord] = []
    for one in sites:
        first = group[0] if group else one
        if not (_same(one.queries_at, first.queries_at) and _same(one.keys_at, first.keys_at)):
            yield group
            group = []
        group.append(one)
    yield group


def asks_itself(one: SiteRecord) -> bool:
    """Whether the queries of a call are its keys, in the same order."""
    return one.queries_at is not None and _same(one.queries_at, one.keys_at)


def _same(one: Placement | None, other: Placement | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    if one.own != other.own or (one.token is None) is not (other.token is None):
        return False
    return one.token is None or other.token is None or torch.equal(one.token, other.token)


def _centres(place: Placement) -> Tensor:
    own = place.own
    nowhere = torch.full((own.prefix, 2), torch.nan, dtype=torch.float64, device="cpu")
    centres = torch.cat([nowhere, own.centers()])
    if place.token is None:
        return centres[None]
    padded = torch.cat([centres, centres.new_full((1, 2), torch.nan)])
    return padded[place.token.cpu()]
