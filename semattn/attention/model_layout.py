"""Attention sites of a model and the token layout of their calls, for images of one size.

Found once by `layout_pass` and kept with the model, until the model is called in another way or one
of its plain attributes changes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .frozen import quiet
from .hooks import Call
from .layout_pass import Findings, layout_pass, site_of
from .model_attributes import attributes_of, changed
from .model_call import ModelCall
from .site_record import SiteRecord, site_record
from .sites import AttentionSite
from .token_layout import Layout, common_grid, with_same_prefix

NO_INFLUENCE = "the score does not depend on it"

_MOST_LAYOUTS = 64  # kept for each model


@dataclass(frozen=True)
class LeftOut:
    """A module that attends, or is named so, and why it is not among the sites."""

    site: AttentionSite
    reason: str


@dataclass(frozen=True)
class ModelLayout:
    """The attention sites of a model, in the order of their calls, and the layout of each.

    `layouts` and `shapes` (without leading axes) are those of each site by name; `before` names the
    sites whose results a site depends on. `grid` is that of the self-attention sites' patches.
    `readout` (N,) says which tokens of the last layer the output is read from, where that has been
    measured (`readout.with_readout`).
    """

    sites: tuple[AttentionSite, ...]
    layouts: Mapping[str, Layout]
    shapes: Mapping[str, tuple[int, ...]]
    before: Mapping[str, frozenset[str]]
    left_out: tuple[LeftOut, ...] = ()
    readout: Tensor | None = None

    @property
    def selves(self) -> tuple[AttentionSite, ...]:
        """The self-attention sites."""
        return tuple(site for site in self.sites if site.kind == "self")

    @property
    def grid(self) -> PatchGrid:
        """The grid that patches are counted on: the finest of all self-attention sites.

        Of all pools, in a model whose layers do not attend between patches otherwise.
        """
        return common_grid([self.layouts[site.name] for site in self.selves or self.sites])

    @property
    def class_tokens(self) -> Tensor:
        """Weights of the prefix tokens that are read, all alike, sum 1; 0 for the others: (N,)."""
        assert self.readout is not None
        numbers = torch.arange(len(self.readout), device=self.readout.device)
        read = (self.readout & (numbers < self.grid.prefix)).to(torch.float32)
        return read / read.sum().clamp(min=1)

    def modules(self, model: nn.Module) -> dict[nn.Module, tuple[AttentionSite, ...]]:
        """The sites of each module of the model."""
        found: dict[nn.Module, tuple[AttentionSite, ...]] = {}
        for site in self.sites:
            module = model.get_submodule(site.path)
            found[module] = (*found.get(module, ()), site)
        return found

    def without(self, names: Collection[str], reason: str) -> ModelLayout:
        """The same with some sites left out, and the layers of the others numbered anew."""
        kept = number_layers([site for site in self.sites if site.name not in names])
        if not kept:
            first = next(site for site in self.sites if site.name in names)
            raise UnsupportedModelError(
                f"{first}: expected attention that counts, got none: {reason} — "
                "explain an output that depends on attention between patches"
            )
        gone = [LeftOut(site, reason) for site in self.sites if site.name in names]
        return replace(self, sites=kept, left_out=(*self.left_out, *gone))

    def is_same(self, other: ModelLayout) -> bool:
        """Return whether another layout has the same sites, and their tokens at the same places."""
        return self.sites == other.sites and all(
            layout.is_same(other.layouts[name]) for name, layout in self.layouts.items()
        )

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each reason why sites are left out."""
        return tuple(
            f"Not in the map, since {reason}: {_listed(group)}."
            for reason in dict.fromkeys(one.reason for one in self.left_out)
            if (group := [one.site for one in self.left_out if one.reason == reason])
        )

    def towers(self) -> list[set[str]]:
        """The sites in groups that never exchange tokens; those with self-attention alone."""
        towers: list[set[str]] = []
        known = {site.name for site in self.sites}
        for site in self.sites:
            joined = {site.name, *(self.before[site.name] & known)}
            apart = [tower for tower in towers if not tower & joined]
            for tower in towers:
                joined |= tower if tower & joined else set()
            towers = [*apart, joined]
        counted = self.selves or self.sites
        return [one for one in towers if any(site.name in one for site in counted)]

    def check_one_tower(self) -> None:
        """Raise UnsupportedModelError for towers that never exchange tokens, as in an ensemble."""
        towers = self.towers()
        if len(towers) > 1:
            first = [next(s for s in self.sites if s.name in tower) for tower in towers[:2]]
            raise UnsupportedModelError(
                f"model: expected one tower of layers, got {len(towers)} parallel towers, such as "
                f"those of {first[0]} and {first[1]}, as an ensemble has — explain each member by "
                "itself, or name the layers of one with sites=[…]"
            )

    def place(self, site: AttentionSite, call: Call, bias: Tensor) -> Tensor:
        """A bias (B or 1, H or 1, N) on the tokens of the grid, for the keys of one call.

        A coarse key has the mean of the patches that it covers; padding has none. It broadcasts to
        the scores of the call.
        """
        layout, lead, grid = self.seen(site, call), call.shape[:-2], self.grid
        assert layout.keys is not None
        if layout.keys.grid != grid or not layout.keys.in_order:
            at = layout.place(layout.keys, grid, layout.batch_of(lead))
            bias = bias.expand(at.batch, -1, -1)
            cover = at.spread(bias.new_ones(bias.shape))
            bias = torch.where(cover > 0, at.spread(bias) / cover.clamp(min=1e-12), 0)
        return layout.unfold(bias[:, :, None], lead)

    def asking(self, site: AttentionSite, call: Call, which: str) -> Tensor:
        """1 for the queries that are the "class" tokens, or "patches": broadcasts to (…, Nq, 1).

        Class tokens are the prefix tokens that the score reads.
        """
        layout, lead = self.seen(site, call), call.shape[:-2]
        assert layout.queries is not None
        grid, device = self.grid, call.device
        if which == "class":
            chosen = self.class_tokens.to(device)
        else:
            chosen = grid.add_prefix(torch.ones(grid.patches, device=device))
        at = layout.place(layout.queries, grid, layout.batch_of(lead))
        spread = at.spread(chosen.expand(at.batch, -1)).ne(0)
        return layout.unfold(spread[:, None, :, None].to(torch.float32), lead)

    def record(self, site: AttentionSite, call: Call) -> SiteRecord:
        """Return the record of one call, as `semattn.record` keeps it, without its result."""
        layout = self.seen(site, call)
        one = site_record(site, call, layout, self.grid, layout.batch_of(call.shape[:-2]))
        return one if self.readout is None else replace(one, class_tokens=self.class_tokens)

    def seen(self, site: AttentionSite, call: Call) -> Layout:
        """The layout of a call, which must have the shape that was found."""
        layout = self.layouts.get(site.name)
        if layout is None or call.shape[-2:] != self.shapes[site.name]:
            was = self.shapes.get(site.name, ())
            raise UnsupportedModelError(
                f"{site}: expected attention between {was or 'no'} tokens, as at the first look, "
                f"got {call.shape} — the model has changed; make the prompter anew"
            )
        return layout


@dataclass
class _Known:
    """Layout of a model for one way of calling it, and what passes have shown since."""

    attributes: tuple[Any, ...]
    layout: ModelLayout
    volatile: frozenset[tuple[int, str]] = frozenset()  # attributes that change in every pass
    unreached: frozenset[str] = frozenset()  # sites that no score has depended on so far
    blocked: bool = False  # whether the model runs a part without gradients
    weights: tuple[Any, ...] = ()  # those that the readout was measured with

    def is_of(self, attributes: tuple[Any, ...]) -> bool:
        """Return whether a model with these attributes has this layout."""
        return attributes == self.attributes or (
            bool(self.volatile) and changed(attributes, self.attributes) <= self.volatile
        )


_shelves: WeakKeyDictionary[nn.Module, dict[Any, _Known]] = WeakKeyDictionary()
_lock = threading.Lock()


def model_layout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None, *, anew: bool = False
) -> ModelLayout:
    """The layout of `model` for calls like `call`; found by one more pass where it is not known.

    Parameters
    ----------
    sites : names of modules, or patterns of names, that count as attention; None is all
    anew : whether to look again although a layout is known

    Raises
    ------
    UnsupportedModelError
        For a model whose attention cannot be read truthfully; it names the module.
    """
    with quiet(model):
        return known_layout(model, call, sites, anew=anew).layout


def known_layout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None, *, anew: bool = False
) -> _Known:
    """Return the same as `model_layout`, with what passes have shown since.

    The caller holds the model in evaluation mode (`quiet`).
    """
    attributes = attributes_of(model)
    key = (call.key, None if sites is None else tuple(sites))
    with _lock:
        shelf = _shelves.setdefault(model, {})
        known = shelf.get(key)
    if known is not None and known.is_of(attributes) and not anew:
        return known
    found, outside = _watched_pass(model, call, sites)
    layout, varying = _read(model, found), changed(attributes, attributes_of(model))
    again = varying or outside
    if again and not layout.is_same(_read(model, layout_pass(model, call, sites))):
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected tokens in the same order in every forward pass, "
            "got an order that changes from pass to pass — fix the order"
        )
    known = _Known(attributes, layout, varying)
    if found.repeatable:
        with _lock:
            while len(shelf) >= _MOST_LAYOUTS:
                shelf.pop(next(iter(shelf)))
            shelf[key] = known
    return known


def _watched_pass(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None
) -> tuple[Findings, bool]:
    """Return the findings of a pass, and whether it drew random numbers of Python or NumPy."""
    before = _random_states()
    found = layout_pass(model, call, sites)
    if not found.repeatable and len(call.images) > len(call.few().images):
        found = layout_pass(model, call, sites, whole=True)  # other images may have other places
    return found, _random_states() != before


def _random_states() -> tuple[Any, ...]:
    """The states of the random generators of Python and NumPy."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (models may use it)
    return random.getstate(), repr(state["state"]), bytes(state["state"]["key"])


def any_layout(model: nn.Module) -> ModelLayout | None:
    """A layout that was found for some way of calling the model, the latest; None without one."""
    with _lock:
        shelf = _shelves.get(model)
        return next(reversed(shelf.values())).layout if shelf else None


def number_layers(sites: Sequence[AttentionSite]) -> tuple[AttentionSite, ...]:
    """Sites with their layers counted from 0; a pool has the number of the layer before it."""
    numbered, layer = [], 0
    for site in sites:
        number = max(layer - 1, 0) if site.kind == "pool" else layer
        numbered.append(replace(site, layer=number))
        layer += site.kind == "self"
    return tuple(numbered)


def _read(model: nn.Module, found: Findings) -> ModelLayout:
    """The layout from what a pass has found."""
    left_out = tuple(
        LeftOut(AttentionSite(path, 0, kind, "self"), reason)
        for path, kind, reason in found.left_out
    )
    paths = [one.path for one in found.calls]
    sites = number_layers([site_of(one, 0, paths.count(one.path) > 1) for one in found.calls])
    if not sites:
        raise _nothing_found(model, left_out)
    for number, one in enumerate(found.calls):
        for other in range(number):
            if found.calls[other].path != one.path:
                continue
            if found.calls[other].call == one.call or other not in one.before:
                raise UnsupportedModelError(
                    f"{one.path or 'the model'} ({one.module}): expected one attention call a "
                    f"forward pass, or calls that follow each other, got a second one on "
                    f"{one.shape} — differential and shared attention are not supported"
                )
    layouts = with_same_prefix([one.layout for one in found.calls])
    return ModelLayout(
        sites=sites,
        layouts={site.name: one for site, one in zip(sites, layouts, strict=True)},
        shapes={site.name: one.shape[-2:] for site, one in zip(sites, found.calls, strict=True)},
        before={
            site.name: frozenset(sites[number].name for number in one.before)
            for site, one in zip(sites, found.calls, strict=True)
        },
        left_out=left_out,
    )


def _nothing_found(model: nn.Module, left_out: Sequence[LeftOut]) -> UnsupportedModelError:
    kind = type(model).__name__
    if left_out:
        reasons = "; ".join(f"{one.site}: {one.reason}" for one in left_out[:3])
        more = f" (and {len(left_out) - 3} more)" if len(left_out) > 3 else ""
        return UnsupportedModelError(
            f"{kind}: expected attention between patches, got none: {reasons}{more} — "
            "this kind is not supported"
        )
    return UnsupportedModelError(
        f"{kind}: expected a vision transformer, got a model that makes no attention call "
        "(scaled_dot_product_attention, or a softmax between two products of tokens) — "
        "for a convolutional network use captum.attr.LayerGradCam"
    )


def _listed(sites: Sequence[AttentionSite]) -> str:
    kinds = ", ".join(dict.fromkeys(site.module for site in sites))
    count = f"{len(sites)} layers" if len(sites) > 1 else sites[0].name or "the model"
    return f"{kinds}, {count}"
