"""Attention sites of a model and the token layout of their calls, for images of one size.

`layout_pass` computes the layout once. It is cached for the model, and computed again if the model
is called with other kinds of arguments or one of its attributes changes.
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
from .attention_record import SiteRecord, site_record
from .hooks import Call
from .layout_pass import Findings, layout_pass, site_of
from .model_call import ModelCall, attributes_of, changed_attributes
from .model_pass import frozen
from .sites import AttentionSite
from .token_layout import Layout, common_grid, with_same_prefix

NO_INFLUENCE = "the score does not depend on it"

_MAX_LAYOUTS = 64  # cached per model


@dataclass(frozen=True)
class LeftOut:
    """Module named for attention, or with attention, that is not a site, and the reason."""

    site: AttentionSite
    reason: str


@dataclass(frozen=True)
class ModelLayout:
    """Attention sites of a model in the order of their calls, and the layout of each.

    Parameters
    ----------
    sites : the attention sites
    layouts : by site name, the layout of its call
    shapes : by site name, (Nq, Nk), the numbers of queries and keys of its call
    before : by site name, the names of the sites whose results its call depends on
    left_out : modules with attention that are not sites, with the reasons
    readout : (N,) bool, true for the tokens of the last layer that the output is read from; None
        before `record.with_readout` has measured it
    """

    sites: tuple[AttentionSite, ...]
    layouts: Mapping[str, Layout]
    shapes: Mapping[str, tuple[int, ...]]
    before: Mapping[str, frozenset[str]]
    left_out: tuple[LeftOut, ...] = ()
    readout: Tensor | None = None

    @property
    def self_attention_sites(self) -> tuple[AttentionSite, ...]:
        """Self-attention sites."""
        return tuple(site for site in self.sites if site.kind == "self")

    @property
    def grid(self) -> PatchGrid:
        """Finest grid of all self-attention sites; of all pools in a model without such sites."""
        return common_grid(
            [self.layouts[site.name] for site in self.self_attention_sites or self.sites]
        )

    @property
    def class_tokens(self) -> Tensor:
        """Weights (N,), equal for the prefix tokens that are read and 0 for others, with sum 1."""
        assert self.readout is not None
        numbers = torch.arange(len(self.readout), device=self.readout.device)
        read = (self.readout & (numbers < self.grid.prefix)).to(torch.float32)
        return read / read.sum().clamp(min=1)

    def modules(self, model: nn.Module) -> dict[nn.Module, tuple[AttentionSite, ...]]:
        """Return the sites of each module of the model."""
        modules: dict[nn.Module, tuple[AttentionSite, ...]] = {}
        for site in self.sites:
            module = model.get_submodule(site.path)
            modules[module] = (*modules.get(module, ()), site)
        return modules

    def without(self, names: Collection[str], reason: str) -> ModelLayout:
        """Return the layout without some sites, with the layers of the others renumbered."""
        remaining = number_layers([site for site in self.sites if site.name not in names])
        if not remaining:
            first = next(site for site in self.sites if site.name in names)
            raise UnsupportedModelError(
                f"{first}: expected attention that the score depends on, got none: {reason} — "
                "explain an output that depends on attention between patches"
            )
        removed = [LeftOut(site, reason) for site in self.sites if site.name in names]
        return replace(self, sites=remaining, left_out=(*self.left_out, *removed))

    def is_same(self, other: ModelLayout) -> bool:
        """Return whether another layout has the same sites with the same token positions."""
        return self.sites == other.sites and all(
            layout.is_same(other.layouts[name]) for name, layout in self.layouts.items()
        )

    def notes(self) -> tuple[str, ...]:
        """Return one sentence per reason why sites are left out."""
        sites_by_reason: dict[str, list[AttentionSite]] = {}
        for left_out in self.left_out:
            sites_by_reason.setdefault(left_out.reason, []).append(left_out.site)
        return tuple(
            f"Not in the map, since {reason}: {_summarize_sites(sites)}."
            for reason, sites in sites_by_reason.items()
        )

    def towers(self) -> list[set[str]]:
        """Return groups of sites that never exchange tokens, if they contain self-attention."""
        towers: list[set[str]] = []
        names = {site.name for site in self.sites}
        for site in self.sites:
            joined = {site.name, *(self.before[site.name] & names)}
            separate = [tower for tower in towers if not tower & joined]
            for tower in towers:
                joined |= tower if tower & joined else set()
            towers = [*separate, joined]
        sites = self.self_attention_sites or self.sites
        return [tower for tower in towers if any(site.name in tower for site in sites)]

    def check_one_tower(self) -> None:
        """Raise UnsupportedModelError for towers that never exchange tokens, as in an ensemble."""
        towers = self.towers()
        if len(towers) > 1:
            first = [next(s for s in self.sites if s.name in tower) for tower in towers[:2]]
            raise UnsupportedModelError(
                f"model: expected one tower of layers, got {len(towers)} parallel towers, such as "
                f"those of {first[0]} and {first[1]}, as in an ensemble — explain each member "
                "separately, or name the layers of one with sites=[…]"
            )

    def place(self, site: AttentionSite, call: Call, bias: Tensor) -> Tensor:
        """Map a bias (B or 1, H or 1, N) on the grid's tokens to the keys of an attention call.

        H is the number of heads, N that of tokens. A key that covers several patches gets the mean
        of their biases; padding gets 0. The result broadcasts to the scores of the call.
        """
        layout, lead, grid = self.layout_of_call(site, call), call.shape[:-2], self.grid
        assert layout.keys is not None
        if layout.keys.grid != grid or not layout.keys.in_order:
            at = layout.place(layout.keys, grid, layout.batch_of(lead))
            bias = bias.expand(at.batch, -1, -1)
            cover = at.to_call(bias.new_ones(bias.shape))
            bias = torch.where(cover > 0, at.to_call(bias) / cover.clamp(min=1e-12), 0)
        return layout.unfold(bias[:, :, None], lead)

    def query_mask(self, site: AttentionSite, call: Call, which: str) -> Tensor:
        """Return 1 for queries that are "class" tokens, or "patches": broadcasts to (…, Nq, 1).

        Class tokens are the prefix tokens that the score is read from.
        """
        layout, lead = self.layout_of_call(site, call), call.shape[:-2]
        assert layout.queries is not None
        grid, device = self.grid, call.device
        if which == "class":
            tokens = self.class_tokens.to(device)
        else:
            tokens = grid.add_prefix(torch.ones(grid.patches, device=device))
        at = layout.place(layout.queries, grid, layout.batch_of(lead))
        mask = at.to_call(tokens.expand(at.batch, -1)).ne(0)
        return layout.unfold(mask[:, None, :, None].to(torch.float32), lead)

    def record(self, site: AttentionSite, call: Call) -> SiteRecord:
        """Return the record of one call, like `semattn.record`, without its result."""
        layout = self.layout_of_call(site, call)
        record = site_record(site, call, layout, self.grid, layout.batch_of(call.shape[:-2]))
        return record if self.readout is None else replace(record, class_tokens=self.class_tokens)

    def layout_of_call(self, site: AttentionSite, call: Call) -> Layout:
        """Return the layout of a call, whose shape must be that of the layout pass."""
        layout = self.layouts.get(site.name)
        if layout is None or call.shape[-2:] != self.shapes[site.name]:
            expected = self.shapes.get(site.name, ())
            raise UnsupportedModelError(
                f"{site}: expected attention between {expected or 'no'} tokens, as in the first "
                f"pass, got {call.shape} — the model has changed; create the prompter again"
            )
        return layout


@dataclass
class _CachedLayout:
    """Layout of a model for one kind of call, and results of later passes."""

    attributes: tuple[Any, ...]
    layout: ModelLayout
    volatile: frozenset[tuple[int, str]] = frozenset()  # attributes that change in every pass
    unreached: frozenset[str] = frozenset()  # sites that no score has depended on yet
    blocked: bool = False  # whether the model runs a part without gradients
    weights: tuple[Any, ...] = ()  # identity of the weights that the readout was measured with
    first_layer: str = ""  # see `first_layer`
    is_plain: bool = False  # whether a pass has shown that gradients reach every site

    def is_of(self, attributes: tuple[Any, ...]) -> bool:
        """Return whether the layout is valid for a model with these attributes."""
        return attributes == self.attributes or (
            bool(self.volatile) and changed_attributes(attributes, self.attributes) <= self.volatile
        )


_caches: WeakKeyDictionary[nn.Module, dict[Any, _CachedLayout]] = WeakKeyDictionary()
_lock = threading.Lock()


def model_layout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None, *, refresh: bool = False
) -> ModelLayout:
    """Return the layout of `model` for calls like `call`; run an additional pass if it is unknown.

    Parameters
    ----------
    sites : names of modules, or patterns of names, that count as attention; None is all
    refresh : whether to ignore a cached layout

    Raises
    ------
    UnsupportedModelError
        For a model whose attention cannot be read correctly; the message names the module.
    """
    with frozen(model):
        return known_layout(model, call, sites, refresh=refresh).layout


def known_layout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None, *, refresh: bool = False
) -> _CachedLayout:
    """Return the cache entry of `model_layout`, with results of later passes.

    The caller holds the model in evaluation mode (`frozen`).
    """
    attributes = attributes_of(model)
    key = (call.key, None if sites is None else tuple(sites))
    with _lock:
        cache = _caches.setdefault(model, {})
        entry = cache.get(key)
    if entry is not None and entry.is_of(attributes) and not refresh:
        return entry
    findings, used_random = _run_layout_pass(model, call, sites)
    layout = _to_model_layout(model, findings)
    volatile = changed_attributes(attributes, attributes_of(model))
    check_again = volatile or used_random
    if check_again and not layout.is_same(_to_model_layout(model, layout_pass(model, call, sites))):
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected tokens in the same order in every forward pass, "
            "got an order that changes from pass to pass — fix the order"
        )
    entry = _CachedLayout(attributes, layout, volatile)
    if findings.repeatable:
        with _lock:
            while len(cache) >= _MAX_LAYOUTS:
                cache.pop(next(iter(cache)))
            cache[key] = entry
    return entry


def _run_layout_pass(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None
) -> tuple[Findings, bool]:
    """Return the findings of a pass, and whether it used random numbers of Python or NumPy."""
    before = _random_states()
    findings = layout_pass(model, call, sites)
    if not findings.repeatable and len(call.images) > len(call.few().images):
        findings = layout_pass(model, call, sites, all_images=True)  # positions differ by image
    return findings, _random_states() != before


def _random_states() -> tuple[Any, ...]:
    """Return the states of the random generators of Python and NumPy."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (models may use it)
    return random.getstate(), state["state"]["pos"], bytes(state["state"]["key"])


def any_layout(model: nn.Module) -> ModelLayout | None:
    """Return the latest cached layout of a model for any kind of call; None without one."""
    with _lock:
        cache = _caches.get(model)
        return next(reversed(cache.values())).layout if cache else None


def number_layers(sites: Sequence[AttentionSite]) -> tuple[AttentionSite, ...]:
    """Number the layers of sites from 0; a pool has the number of the layer before it."""
    numbered, layer = [], 0
    for site in sites:
        number = max(layer - 1, 0) if site.kind == "pool" else layer
        numbered.append(replace(site, layer=number))
        layer += site.kind == "self"
    return tuple(numbered)


def _to_model_layout(model: nn.Module, findings: Findings) -> ModelLayout:
    """Create the layout from the findings of a pass."""
    left_out = tuple(
        LeftOut(AttentionSite(path, 0, kind, "self"), reason)
        for path, kind, reason in findings.left_out
    )
    calls = findings.calls
    paths = [call.path for call in calls]
    sites = number_layers([site_of(call, 0, paths.count(call.path) > 1) for call in calls])
    if not sites:
        raise _no_attention_error(model, left_out)
    for number, call in enumerate(calls):
        for earlier in range(number):
            if calls[earlier].path != call.path:
                continue
            if calls[earlier].call == call.call or earlier not in call.before:
                raise UnsupportedModelError(
                    f"{call.path or 'the model'} ({call.module}): expected one attention call per "
                    f"forward pass, or calls that follow each other, got a second one on "
                    f"{call.shape} — differential and shared attention are not supported"
                )
    layouts = with_same_prefix([call.layout for call in calls])
    return ModelLayout(
        sites=sites,
        layouts={site.name: layout for site, layout in zip(sites, layouts, strict=True)},
        shapes={site.name: call.shape[-2:] for site, call in zip(sites, calls, strict=True)},
        before={
            site.name: frozenset(sites[number].name for number in call.before)
            for site, call in zip(sites, calls, strict=True)
        },
        left_out=left_out,
    )


def _no_attention_error(model: nn.Module, left_out: Sequence[LeftOut]) -> UnsupportedModelError:
    kind = type(model).__name__
    if left_out:
        reasons = "; ".join(f"{module.site}: {module.reason}" for module in left_out[:3])
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


def _summarize_sites(sites: Sequence[AttentionSite]) -> str:
    kinds = ", ".join(dict.fromkeys(site.module for site in sites))
    count = f"{len(sites)} layers" if len(sites) > 1 else sites[0].name or "the model"
    return f"{kinds}, {count}"
