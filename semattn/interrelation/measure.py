"""What one forward pass shows of the interrelation of patches, image by image, head by head.

Source: METHOD of semattn after arXiv 2211.08543. All figures are on the patch-to-patch block:
what a patch gives to prefix tokens and to padding is removed, and reported. Rows of attention are
recomputed in chunks of queries, for all layers in turn; nothing N x N is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..density import EMPTY, HIGH, LOW
from .nulls import Held
from .places import Places, alike, asks_itself

BLOCK_BYTES = 16 * 2**20  # of (G,H,Q,Nk): it stays in the cache while it is passed over
TAME = 1e-20  # sums of exponentials between it and its inverse are exact enough in float32
HIDDEN = 1e-20  # of all that a query gives: a key that no head gives more is masked
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
            name: one.index_fill(3, torch.tensor([1], device="cpu"), torch.nan)
            for name, one in self.held.items()
        }
        mass = torch.full_like(self.alone["outlier_mass"], torch.nan)
        return replace(self, held=unknown, alone=self.alone | {"outlier_mass": mass})


def measure(taken: AttentionRecord, against: Held, class_tokens: Tensor | None = None) -> Measured:
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

    Parameters
    ----------
    class_tokens : (N,), the part of the output that is read from each prefix token, 0 for patches;
        None is no class token
    """
    sites = [one for one in taken.sites if one.site.kind == "self"]
    asked_for, asking = _asked_for(against), _asking(against, taken, class_tokens)
    made = []
    for group in alike(sites):
        places = Places.of(group[0], taken.logits.device)
        sides = _Sides(group[0], taken, asked_for, asking)
        sums = [_Sums(one, sides) for one in group]
        for groups, rows in _blocks(group[0]):
            away = places.distance(rows, groups)
            as_far = places.matched(away, sides.keys[groups, :, _P], sides.keys[groups, :, _PATCH])
            both = torch.stack([as_far, away.expand_as(as_far)], dim=-1)
            for one in sums:
                one.add(groups, rows, both)
        made += [one.figures() for one in sums]
    most = max(one.shape[1] for one in sites)
    return Measured(
        layers=tuple((one.site.layer, one.shape[1]) for one in sites),
        held={name: _stacked([one[name] for one in made], most) for name in HELD},
        alone={name: _stacked([one[name] for one in made], most) for name in ALONE},
    )


# Who asks: a patch of each stratum, weighted by p; every patch alike; the class token.
_STRATA, _PLAIN, _CLASS = slice(0, 3), 3, 4
# Whom: every key, patches, those that are kept; then EMPTY, LOW, HIGH and p of each distribution.
_EVERY, _PATCH, _KEPT, _FIRST, _P = 0, 1, 2, 3, 6


class _Sides:
    """Who asks and who is asked in calls at the same places.

    `keys` (G, Nk, K) are the columns that attention is summed over, `asking` (G, D, U, Nq) the
    weights of the queries, `patch` (G, Nk) says which keys are patches.
    """

    def __init__(
        self, one: SiteRecord, taken: AttentionRecord, asked_for: Tensor, asking: Tensor
    ) -> None:
        assert one.queries_at is not None
        self.at, self.itself = one.keys_at, asks_itself(one)
        device = taken.logits.device
        on_patches = taken.grid.add_prefix(asked_for.to(device, one.dtype))
        cover = one.keys_at.spread(on_patches[:, 0])[..., None]
        keys = one.keys_at.spread(on_patches).movedim(1, -1)
        # A coarse key gives its attention evenly to the patches that it covers.
        keys = torch.where(cover > 0, keys / cover.clamp(min=TINY), 0)
        self.keys = torch.cat([torch.ones_like(cover), keys], dim=-1)
        self.asking = one.queries_at.spread(asking.to(device, one.dtype))
        self.patch = cover[..., 0] > 0
        # What even attention to all keys gives, (G, D, U, 4).
        even = _shares(self.keys.sum(dim=1))
        self.even = self.asking.sum(dim=-1)[..., None] * even[:, :, None]


class _Sums:
    """One site's sums over queries, gathered block by block."""

    def __init__(self, one: SiteRecord, sides: _Sides) -> None:
        self.one, self.sides = one, sides
        self.masked = one.mask is not None or one.causal or one.dense is not None
        groups, each, who, _ = sides.asking.shape
        heads = one.shape[1]
        self.total = sides.keys.new_zeros(groups, heads, each, who, 4)
        self.chance = torch.zeros_like(sides.even) if self.masked else sides.even
        self.means = sides.keys.new_zeros(groups, heads, len(ALONE))

    def add(self, groups: slice, rows: slice, both: Tensor) -> None:
        """Take in the queries `rows` of some groups.

        `both` (G, Q, Nk, 2) is, for each key, the mean of p over the keys at the same distance, and
        that distance, pixels.
        """
        scores = self.one.scores(rows, groups)
        mass, given = self._exponentials(scores, groups)
        asking = self.sides.asking[groups, ..., rows]
        alone = self._alone(scores, mass, given, both, groups, rows)
        dense = asking[:, 0, _STRATA].sum(dim=1)
        self.means[groups, :, :1] += torch.einsum("gq,ghqf->ghf", dense, alone[..., :1])
        even = asking[:, 0, _PLAIN]
        self.means[groups, :, 1:] += torch.einsum("gq,ghqf->ghf", even, alone[..., 1:])
        self.total[groups] += torch.einsum("gduq,ghqdv->ghduv", asking, _shares(given))
        if self.masked:
            seen = (mass > HIDDEN * given[..., _EVERY, None]).any(dim=1).to(mass)
            shares = _shares(seen @ self.sides.keys[groups])
            self.chance[groups] += torch.einsum("gduq,gqdv->gduv", asking, shares)

    def _exponentials(self, scores: Tensor, groups: slice) -> tuple[Tensor, Tensor]:
        """Attention, but for a factor a query, and what it gives to each column (G, H, Q, K).

        The greatest score of a query is taken off, in `scores` too, only where it has to be.
        """
        for greatest in (None, True):
            if greatest:
                scores -= scores.amax(dim=-1, keepdim=True)
            mass = scores.exp()
            given = torch.bmm(mass.flatten(1, 2), self.sides.keys[groups])
            every = given[..., _EVERY]
            if bool(((every > TAME) & (every < 1 / TAME)).all()):
                break
        return mass, given.unflatten(1, mass.shape[1:3])

    def _alone(
        self, scores: Tensor, mass: Tensor, given: Tensor, both: Tensor, groups: slice, rows: slice
    ) -> Tensor:
        """What queries show whatever the distribution, (G, H, Q, ALONE); `scores` is used up."""
        every, whole = given[..., : _PATCH + 1].clamp(min=TINY).unbind(-1)
        if self.masked:
            scores.clamp_(min=-1e4)  # nothing times minus infinity is to be nothing
        at = self.sides.at
        if at.token is None:
            scores[..., : at.own.prefix] = 0
        else:
            scores.masked_fill_(~self.sides.patch[groups, None, None], 0.0)
        surprise = scores.mul_(mass).sum(dim=-1) / whole
        # One by one: all at once, what is transposed would be copied.
        pairs = zip(mass.transpose(1, 2), both, strict=True)
        reach = torch.stack([torch.bmm(given_by, to) for given_by, to in pairs])
        reach = reach.transpose(1, 2) / whole[..., None]
        itself = whole.new_full((1,), torch.nan).expand_as(whole)
        if self.sides.itself:
            itself = torch.diagonal(mass, offset=rows.start, dim1=-2, dim2=-1) / whole
        columns = (
            *reach.unbind(-1),
            whole.log() - surprise,
            itself,
            1 - given[..., _PATCH] / every,
            1 - given[..., _KEPT] / whole,
        )
        return torch.stack(columns, dim=-1)

    def figures(self) -> dict[str, Tensor]:
        """Name: (B, H, …), float64 on the CPU."""
        total, chance, means = (
            self.sides.at.per_image(one).cpu().double()
            for one in (self.total, self.chance, self.means)
        )
        chance = chance[:, None]  # (B, 1, D, U, 4)
        dense = total[..., _STRATA, 3].sum(dim=-1)
        return {
            "lift": _ratio(total[..., _STRATA, :3], chance[..., _STRATA, :3]),
            "alignment": _ratio(dense, chance[..., _STRATA, 3].sum(dim=-1)),
            "alignment_plain": _ratio(total[..., _PLAIN, 3], chance[..., _PLAIN, 3]),
            "class_alignment": _ratio(total[..., _CLASS, 3], chance[..., _CLASS, 3]),
            "alignment_matched": _ratio(dense[..., 0], means[..., 0]),
        } | {name: means[..., place] for place, name in enumerate(ALONE) if place}


def _blocks(one: SiteRecord) -> Iterator[tuple[slice, slice]]:
    """Groups and queries of a site, in blocks: several groups whole, or some queries of one."""
    groups, heads, asked, keys = one.shape
    row = heads * keys * one.dtype.itemsize
    many = max(1, BLOCK_BYTES // (row * asked))
    step = asked if many > 1 else max(1, BLOCK_BYTES // row)
    for first in range(0, groups, many):
        for start in range(0, asked, step):
            yield slice(first, first + many), slice(start, min(start + step, asked))


def _asked_for(against: Held) -> Tensor:
    """Patches, those that are kept, and EMPTY, LOW, HIGH, p of each distribution: (B, K, P)."""
    counts = torch.ones_like(against.weights)
    counts[:, 1] = against.keep
    strata = [(against.strata == one) * counts for one in (EMPTY, LOW, HIGH)]
    each = torch.stack([*strata, against.weights], dim=2).flatten(1, 2)
    return torch.cat([counts[:, :2], each], dim=1)


def _asking(against: Held, taken: AttentionRecord, class_tokens: Tensor | None) -> Tensor:
    """Weights of the tokens that ask, (B, D, U, N): of each stratum, of all alike, of the class."""
    strata = [(against.strata == one) * against.weights for one in range(3)]
    alike = torch.ones_like(against.weights)
    alike[:, 1] = against.keep
    alike = alike / alike.sum(dim=-1, keepdim=True)
    asking = taken.grid.add_prefix(torch.stack([*strata, alike, torch.zeros_like(alike)], dim=2))
    if class_tokens is not None and bool(class_tokens.any()):
        asking[..., _CLASS, :] = (class_tokens / class_tokens.sum()).cpu().to(asking)
    return asking


def _shares(given: Tensor) -> Tensor:
    """What goes to EMPTY, LOW, HIGH and p of each distribution, of what goes to patches: (…, D, 4).

    It is made in the place of what was `given` (…, K).
    """
    whole, kept = given[..., _PATCH, None], given[..., _KEPT, None]
    each = given[..., _FIRST:].div_(whole.clamp(min=TINY))
    each = each.unflatten(-1, (-1, 4))
    each[..., 1, :] *= whole / kept.clamp(min=TINY)  # the second distribution
    return each


def _ratio(found: Tensor, even: Tensor) -> Tensor:
    """NaN where even attention would give nothing."""
    return torch.where(even > 0, found / even, torch.nan)


def _stacked(sites: list[Tensor], heads: int) -> Tensor:
    """Sites (B, H, …) of several numbers of heads as one (B, L, H, …), NaN where there is none."""
    wide = [
        torch.cat(
            [one, one.new_full((len(one), heads - one.shape[1], *one.shape[2:]), torch.nan)], 1
        )
        for one in sites
    ]
    return torch.stack(wide, dim=1)
