"""Where the tokens of every attention call of a model lie, for images of one size.

Looked up once, by one pass; a bias on the patches of the image can then be brought to each call,
whatever windows, coarser grids or pooled keys it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .intercept import Call
from .layout import Layout
from .owner import apart
from .record import AttentionRecord, record
from .recorder import site_record
from .rows import SiteRecord
from .sites import AttentionSite


@dataclass(frozen=True)
class Survey:
    """The grid that patches are counted on, and the layout of each self-attention call by name.

    `shapes` are those of the calls it saw, without their leading axes.
    """

    grid: PatchGrid
    layouts: Mapping[str, Layout]
    shapes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(taken: AttentionRecord) -> Survey:
        """What a record has seen."""
        selves = [one for one in taken.sites if one.site.kind == "self"]
        return Survey(
            taken.grid,
            {one.site.name: one.layout for one in selves if one.layout is not None},
            {one.site.name: one.shape[-2:] for one in selves},
        )

    def inside(self, prefix: str) -> Survey:
        """The same for what was `prefix` of the module that was looked at."""
        return Survey(
            self.grid,
            {name.removeprefix(prefix): one for name, one in self.layouts.items()},
            {name.removeprefix(prefix): one for name, one in self.shapes.items()},
        )

    def place(self, site: AttentionSite, call: Call, bias: Tensor) -> Tensor:
        """A bias (B or 1, H or 1, N) on the tokens of the grid, for the keys of one call.

        A coarse key has the mean of the patches that it covers; padding has none. It broadcasts to
        the scores of the call.
        """
        layout, lead = self._seen(site, call), call.shape[:-2]
        assert layout.keys is not None
        if layout.keys.grid != self.grid or not layout.keys.in_order:
            at = layout.place(layout.keys, self.grid, layout.batch_of(lead))
            bias = bias.expand(at.batch, -1, -1)
            cover = at.spread(bias.new_ones(bias.shape))
            bias = torch.where(cover > 0, at.spread(bias) / cover.clamp(min=1e-12), 0)
        return layout.unfold(bias[:, :, None], lead)

    def asking(self, site: AttentionSite, call: Call, which: str) -> Tensor:
        """1 for the queries that are the "class" token, or "patches": broadcasts to (…, Nq, 1)."""
        layout, lead = self._seen(site, call), call.shape[:-2]
        assert layout.queries is not None
        tokens = layout.queries
        at = layout.place(tokens, self.grid, layout.batch_of(lead))
        token = at.token
        if token is None:
            token = torch.arange(tokens.grid.tokens, device="cpu")[None]
        chosen = token == 0 if which == "class" else token >= tokens.grid.prefix
        if which == "class" and not tokens.grid.prefix:
            chosen = torch.zeros_like(chosen)
        device = (call.scores if hasattr(call, "scores") else call.query).device
        return layout.unfold(chosen[:, None, :, None].to(device, torch.float32), lead)

    def record(self, site: AttentionSite, call: Call) -> SiteRecord:
        """What one call did, as `semattn.record` keeps it, without its result."""
        layout = self._seen(site, call)
        return site_record(site, call, layout, self.grid, layout.batch_of(call.shape[:-2]))

    def _seen(self, site: AttentionSite, call: Call) -> Layout:
        layout = self.layouts.get(site.name)
        if layout is None or call.shape[-2:] != self.shapes[site.name]:
            was = self.shapes.get(site.name, ())
            raise UnsupportedModelError(
                f"{site}: expected attention between {was or 'no'} tokens, as at the first look, "
                f"got {call.shape} — the model has changed; make the prompter anew"
            )
        return layout


def survey(model: nn.Module, inputs: Tensor) -> Survey:
    """Look at one pass of `model` on `inputs` (B, C, H, W).

    Of one image alone nobody could tell the axis of images from that of heads: two tell all.

    Raises
    ------
    UnsupportedModelError
        As `semattn.record` does.
    """
    with apart(layout=True):
        return Survey.of(record(model, inputs, grad=False))
