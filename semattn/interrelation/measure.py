"""What one forward pass shows of the interrelation of patches, image by image, head by head.

Source: METHOD of semattn after arXiv 2211.08543. All figures are on the patch-to-patch block:
what a patch gives to prefix tokens and to padding is removed, and reported. Rows of attention are
recomputed in chunks of queries, for all layers in turn; nothing N x N is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..density import HIGH, LOW
from .nulls import Held
from .places import Places, alike, asks_itself

CHUNK_BYTES = 2**20  # of one (G,H,Q,Nk) block: it stays in the cache while it is passed over
HIDDEN = 1e-20  # of a query's greatest attention: a key that no head gives more is masked
TINY = torch.finfo(torch.float32).tiny

# Figures for each of the D distributions of `Held`, and figures that do not depend on them.
HELD = ("lift", "alignment", "alignment_plain", "class_alignment")
ALONE = (
    "alignment_matched",
    "distance",
    "entropy",
    "self_attention",
    "prefix_mass",
    "outlier_mass",
)


@dataclass(frozen=True)
class Measured:
    """The figures of B images and L layers of up to H heads; NaN where one is undefined.

    Parameters
    ----------
    layers : L pairs: the number of the layer and its number of heads
    held : "alignment", "alignment_plain" and "class_alignment", (B, L, H, D), and "lift",
        (B, L, H, D, 3, 3), for each of the D distributions of `Held`
    alone : what does not depend on them, (B, L, H)
    """

    layers: tuple[tuple[int, int], ...]
    held: dict[str, Tensor]
    alone: dict[str, Tensor]

    def without_outliers(self) -> Measured:
        """The same, where nobody could look for outliers: undefined, what depends on them."""
        unknown = {
            name: one.index_fill(3, torch.tensor([1]), torch.nan) for name, one in self.held.items()
        }
        mass = torch.full_like(self.alone["outlier_mass"], torch.nan)
        return replace(self, held=unknown, alone=self.alone | {"outlier_mass": mass})


def measure(taken: AttentionRecord, against: Held) -> Measured:
    """The figures of every self-attention layer of a record.

    With p the concentration, A' the attention between patches, rows summing to 1, and u, v strata:

    * ``lift(u, v)``: attention from patches of u to those of v, queries weighted by p, over what
      uniform attention would give;
    * ``alignment``: ``P sum_i p_i sum_j A'_ij p_j``; ``alignment_plain``: queries alike, 1/P;
      ``class_alignment``: the class token asks alone;
    * ``alignment_matched``: the alignment over what attention to the same distances, but evenly
      there, would give;
    * ``distance`` (pixels), ``entropy`` (nats) and ``self_attention`` (the share that a patch gives
      to itself), means over queries;
    * ``prefix_mass``, the share that was removed; ``outlier_mass``, the share of the rest that
      goes to tokens that are left out of the second distribution.

    Uniform attention is over what a query could attend to: all patches, or those of its window.
    """
    sites = [one for one in taken.sites if one.site.kind == "self"]
    sums = {one.site.name: _Sums(one, taken, against) for one in sites}
    for group in alike(sites):
        places = Places.of(group[0], taken.logits.device)
        keys = sums[group[0].site.name].keys
        for rows in group[0].chunks(size=CHUNK_BYTES):
            away = places.distance(rows)
            as_far = places.matched(away, keys[..., _P], keys[..., _PATCH])
            for one in group:
                sums[one.site.name].add(rows, away, as_far)
    made = [sums[one.site.name].figures() for one in sites]
    most = max(one.shape[1] for one in sites)
    return Measured(
        layers=tuple((one.site.layer, one.shape[1]) for one in sites),
        held={name: _stacked([one[name] for one in made], most) for name in HELD},
        alone={name: _stacked([one[name] for one in made], most) for name in ALONE},
    )


# Who asks: a patch of each stratum, weighted by p; every patch alike; the class token.
_STRATA, _PLAIN, _CLASS = slice(0, 3), 3, 4
# Whom: every key, patches, those that are kept; then LOW, HIGH and p of each distribution.
_EVERY, _PATCH, _KEPT, _FIRST, _P = 0, 1, 2, 3, 5


class _Sums:
    """One site's sums over queries, gathered chunk by chunk."""

    def __init__(self, one: SiteRecord, taken: AttentionRecord, against: Held) -> None:
        assert one.queries_at is not None
        self.one = one
        on_patches = _asked_for(against).to(taken.logits.device, one.dtype)
        cover = one.keys_at.spread(taken.grid.add_prefix(on_patches[:, 0]))[..., None]
        keys = one.keys_at.spread(taken.grid.add_prefix(on_patches)).movedim(1, -1)
        # A coarse key gives its attention evenly to the patches that it covers.
        keys = torch.where(cover > 0, keys / cover.clamp(min=TINY), 0)
        self.keys = torch.cat([torch.ones_like(cover), keys], dim=-1)  # (G, Nk, K)
        asking = _asking(against, taken).to(taken.logits.device, one.dtype)
        self.asking = one.queries_at.spread(asking)  # (G, D, U, Nq)
        self.patch = cover[..., 0] > 0
        self.itself = asks_itself(one)
        self.masked = one.mask is not None or one.causal or one.dense is not None
        self.even = _share(self.keys.sum(dim=1, keepdim=True))  # (G, 1, D, 3)
        self.total: Any = 0  # (G, H, D, U, 3)
        self.chance: Any = 0  # (G, D, U, 3)
        self.means: Any = 0  # (G, H, ALONE)

    def add(self, rows: slice, away: Tensor, as_far: Tensor) -> None:
        """Take in the queries `rows`, whose keys are `away` (G|1, Q, Nk) pixels.

        `as_far` (G, Q, Nk) is the mean of p over the keys at the same distance.
        """
        scores = self.one.scores(rows)
        scores -= scores.amax(dim=-1, keepdim=True)
        mass = scores.exp()  # attention, but for a factor a query
        given = torch.bmm(mass.flatten(1, 2), self.keys.expand(len(mass), -1, -1))
        given = given.unflatten(1, mass.shape[1:3])  # (G, H, Q, K)
        asking = self.asking[..., rows]
        self.total = self.total + torch.einsum("gduq,ghqdv->ghduv", asking, _share(given))
        self.chance = self.chance + torch.einsum("gduq,gqdv->gduv", asking, self._even(mass))
        alike = asking[:, 0, _PLAIN]
        weights = torch.stack([asking[:, 0, _STRATA].sum(dim=1)] + 5 * [alike], dim=-1)
        alone = self._alone(scores, mass, given, away, as_far, rows)
        self.means = self.means + torch.einsum("gqf,ghqf->ghf", weights, alone)

    def _even(self, mass: Tensor) -> Tensor:
        """The share (G, Q, D, 3) of each distribution in even attention to what is not masked."""
        if not self.masked:
            return self.even.expand(-1, mass.shape[2], -1, -1)
        seen = (mass.amax(dim=1) > HIDDEN).to(mass)
        return _share(seen @ self.keys)

    def _alone(
        self, scores: Tensor, mass: Tensor, given: Tensor, away: Tensor, as_far: Tensor, rows: slice
    ) -> Tensor:
        """What queries show whatever the distribution, (G, H, Q, ALONE); `scores` is used up."""
        whole = given[..., _PATCH].clamp(min=TINY)
        if self.masked:
            scores.clamp_(min=-1e4)  # nothing times minus infinity is to be nothing
        scores.masked_fill_(~self.patch[:, None, None], 0.0)
        surprise = torch.einsum("ghqk,ghqk->ghq", mass, scores) / whole
        itself = whole.new_full((1,), torch.nan).expand_as(whole)
        if self.itself:
            itself = torch.diagonal(mass, offset=rows.start, dim1=-2, dim2=-1) / whole
        columns = (
            _gathered(mass, as_far) / whole,
            _gathered(mass, away) / whole,
            whole.log() - surprise,
            itself,
            1 - given[..., _PATCH] / given[..., _EVERY],
            1 - given[..., _KEPT] / whole,
        )
        return torch.stack(columns, dim=-1)

    def figures(self) -> dict[str, Tensor]:
        """Name: (B, H, …), float64 on the CPU."""
        at = self.one.keys_at
        total, chance, means, asked = (
            at.per_image(one).to("cpu", torch.float64)
            for one in (self.total, self.chance, self.means, self.asking.sum(dim=-1))
        )
        chance = chance[:, None]  # (B, 1, D, U, 3)
        dense = total[..., _STRATA, 2].sum(dim=-1)
        strata, even = (
            _with_empty(one[..., _STRATA, :2], asked[:, None, :, _STRATA])
            for one in (total, chance)
        )
        return {
            "lift": _ratio(strata, even),
            "alignment": _ratio(dense, chance[..., _STRATA, 2].sum(dim=-1)),
            "alignment_plain": _ratio(total[..., _PLAIN, 2], chance[..., _PLAIN, 2]),
            "class_alignment": _ratio(total[..., _CLASS, 2], chance[..., _CLASS, 2]),
            "alignment_matched": _ratio(dense[..., 0], means[..., 0]),
        } | {name: means[..., place] for place, name in enumerate(ALONE) if place}


def _asked_for(against: Held) -> Tensor:
    """Patches, those that are kept, and LOW, HIGH and p of each distribution: (B, K, P)."""
    counts = torch.ones_like(against.weights)
    counts[:, 1] = against.keep
    low, high = ((against.strata == one) * counts for one in (LOW, HIGH))
    each = torch.stack([low, high, against.weights], dim=2).flatten(1, 2)
    return torch.cat([counts[:, :2], each], dim=1)


def _asking(against: Held, taken: AttentionRecord) -> Tensor:
    """Weights of the tokens that ask, (B, D, U, N): of each stratum, of all alike, of the class."""
    strata = [(against.strata == one) * against.weights for one in range(3)]
    alike = torch.ones_like(against.weights)
    alike[:, 1] = against.keep
    alike = alike / alike.sum(dim=-1, keepdim=True)
    asking = taken.grid.add_prefix(torch.stack([*strata, alike, torch.zeros_like(alike)], dim=2))
    if taken.grid.prefix:
        asking[..., _CLASS, 0] = 1
    return asking


def _share(given: Tensor) -> Tensor:
    """What goes to LOW, HIGH and p of each distribution, of what goes to patches: (…, D, 3)."""
    each = given[..., _FIRST:].unflatten(-1, (-1, 3))
    whole = given[..., _PATCH, None, None].expand_as(each).clone()
    whole[..., 1, :] = given[..., _KEPT, None]
    return each / whole.clamp(min=TINY)


def _gathered(mass: Tensor, values: Tensor) -> Tensor:
    """Sum over keys of mass (G,H,Q,Nk) times values (G|1,Q,Nk): (G,H,Q)."""
    return torch.einsum("ghqk,gqk->ghq", mass, values.expand(len(mass), -1, -1))


def _with_empty(two: Tensor, whole: Tensor) -> Tensor:
    """Sums (…, 3, 2) of LOW and HIGH; before them, as EMPTY, what is left of the whole (…, 3)."""
    return torch.cat([whole[..., None] - two.sum(dim=-1, keepdim=True), two], dim=-1)


def _ratio(found: Tensor, even: Tensor) -> Tensor:
    """NaN where even attention would give nothing, but for rounding."""
    return torch.where(even > 1e-7, found / even, torch.nan)


def _stacked(sites: list[Tensor], heads: int) -> Tensor:
    """Sites (B, H, …) of several numbers of heads as one (B, L, H, …), NaN where there is none."""
    wide = [
        torch.cat(
            [one, one.new_full((len(one), heads - one.shape[1], *one.shape[2:]), torch.nan)], 1
        )
        for one in sites
    ]
    return torch.stack(wide, dim=1)
