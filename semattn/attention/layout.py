"""How one attention call lays out its tokens: which axes are heads, which tokens are in a window.

Read off the places that `trace` followed to the call. What does not come out as every patch of the
image asking once is refused by name: overlapping windows, queries that are not of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .intercept import Call, FusedCall, attach
from .owner import apart
from .placement import Placement
from .sites import AttentionSite
from .trace import Planes, Trace, mixed

_NEAR = 2e-4  # of the image's side: places that agree
_EVEN = 0.05  # of a patch: how much the distances between patches may differ


class UnplacedError(Exception):
    """Why the tokens of a call have no places; becomes an UnsupportedModelError with its site."""


@dataclass(frozen=True)
class Tokens:
    """The queries, or the keys, of one image: on which grid, and the windows (g, n) they are in.

    `table` holds token numbers in the order of `grid`, prefix tokens first, -1 for padding.
    """

    grid: PatchGrid
    table: Tensor

    @property
    def in_order(self) -> bool:
        """Whether one group holds all tokens as they come."""
        count = torch.arange(self.grid.tokens, device=self.table.device)
        return self.table.shape == (1, len(count)) and bool((self.table[0] == count).all())


@dataclass(frozen=True)
class Layout:
    """Of one site: its heads' axes, and its keys and queries.

    `heads` are axes of the call's leading ones; where a single leading axis holds groups and heads,
    `folded` says how many heads there are, and `heads_first` whether they are the slower ones.
    `images_first` says whether the groups of an image follow each other. `queries` is None where
    learned queries ask; a layout without keys is one of attention that is not between patches.
    """

    keys: Tokens | None
    queries: Tokens | None
    heads: tuple[int, ...] = (1,)
    folded: int = 0
    heads_first: bool = False
    images_first: bool = True

    def fold(self, tensor: Tensor, lead: tuple[int, ...]) -> Tensor:
        """(…, a, b), broadcastable to the leading axes `lead`, as (G, H, a, b)."""
        if self.heads == (1,) and len(lead) == 2 and not self.folded:
            return tensor
        rest = tensor.shape[-2:]
        tensor = tensor.expand(*lead, *rest)
        if self.folded:
            if self.heads_first:
                return tensor.reshape(self.folded, -1, *rest).transpose(0, 1)
            return tensor.reshape(-1, self.folded, *rest)
        groups = [axis for axis in range(len(lead)) if axis not in self.heads]
        order = [*groups, *self.heads]
        moved = tensor.permute(*order, -2, -1) if order != list(range(len(lead))) else tensor
        heads = math.prod(lead[axis] for axis in self.heads)
        return moved.reshape(-1, heads, *rest)

    def unfold(self, tensor: Tensor, lead: tuple[int, ...]) -> Tensor:
        """(G, H or 1, a, b) as it broadcasts to a call of leading axes `lead`; undoes `fold`."""
        if self.heads == (1,) and len(lead) == 2 and not self.folded:
            return tensor
        rest = tensor.shape[-2:]
        if self.folded:
            whole = tensor.expand(-1, self.folded, *rest)
            return (whole.transpose(0, 1) if self.heads_first else whole).flatten(0, 1)
        groups = [axis for axis in range(len(lead)) if axis not in self.heads]
        order = [*groups, *self.heads]
        single = tensor.shape[1] == 1
        apart = [1 if single and axis in self.heads else lead[axis] for axis in order]
        back = [order.index(axis) for axis in range(len(lead))]
        return tensor.reshape(*apart, *rest).permute(*back, -2, -1)

    def heads_of(self, lead: tuple[int, ...]) -> int:
        """H, of a call of leading axes `lead`."""
        return self.folded or math.prod(lead[axis] for axis in self.heads)

    def batch_of(self, lead: tuple[int, ...]) -> int:
        """How many images a call of leading axes `lead` holds."""
        assert self.keys is not None
        return math.prod(lead) // (self.heads_of(lead) * len(self.keys.table))

    def in_order_of(self, grid: PatchGrid) -> bool:
        """Whether keys, and queries if patches ask, are the tokens of `grid` as they come."""
        both = [one for one in (self.keys, self.queries) if one is not None]
        return all(one.grid.shape == grid.shape and one.in_order for one in both)

    def place(self, tokens: Tokens, common: PatchGrid, batch: int) -> Placement:
        """The placement of queries or keys for a batch."""
        if tokens.in_order:
            return Placement(tokens.grid, common, batch)
        windows = len(tokens.table)
        image = torch.arange(batch, device=tokens.table.device)
        if self.images_first:
            image, token = image.repeat_interleave(windows), tokens.table.repeat(batch, 1)
        else:
            image, token = image.repeat(windows), tokens.table.repeat_interleave(batch, dim=0)
        return Placement(tokens.grid, common, batch, image, token)


def plain(grid: PatchGrid, tokens: int, learned: bool) -> Layout:
    """The layout of (B, heads, N, N): all tokens at once, as they come."""
    own = PatchGrid(grid.shape, grid.image_size, grid.cell, tokens - grid.patches)
    everything = Tokens(own, torch.arange(tokens, device="cpu")[None])
    return Layout(everything, None if learned else everything)


def common_grid(layouts: Sequence[Layout]) -> PatchGrid:
    """The finest grid that patches ask on, with prefix tokens for all."""
    grids = [one.grid for layout in layouts if (one := layout.queries or layout.keys)]
    asking = [layout.queries.grid for layout in layouts if layout.queries is not None]
    finest = max(asking or grids, key=lambda grid: grid.patches)
    return replace(finest, prefix=max(grid.prefix for grid in grids))


def follow(
    model: nn.Module,
    inputs: Tensor,
    extra: tuple[Any, ...],
    sites: Mapping[nn.Module, AttentionSite],
) -> dict[AttentionSite, Layout]:
    """The layout of every site that `model` calls on `inputs` (B, C, H, W), by one forward pass.

    Two images tell how a batch is laid out, so no more than two are run.

    Raises
    ------
    UnsupportedModelError
        When the tokens of a site cannot be followed back to the image; it names the site.
    """
    layouts: dict[AttentionSite, Layout] = {}
    few = inputs if extra else inputs[:2]
    size = (inputs.shape[-2], inputs.shape[-1])
    with apart(layout=True), torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
        trace = Trace(few := few.clone())

        def handle(site: AttentionSite, call: Call) -> Tensor:
            try:
                layouts[site] = _layout(*_places(trace, call), size)
            except UnplacedError as reason:
                raise UnsupportedModelError(
                    f"{site}: expected attention between patches of the image, got {reason} "
                    f"in a call of shape {call.shape} — this kind is not supported"
                ) from None
            return run_traced(trace, call)

        with attach(dict(sites), handle), trace:
            model(few, *extra)
    return layouts


def run_traced(trace: Trace, call: Call) -> Tensor:
    """Make the call; what comes out of a fused one is where its queries are."""
    result = call.run()
    if isinstance(call, FusedCall) and (asked := trace.of(call.query)):
        there = mixed(asked[:3], [-1], True)
        trace.put(result, tuple(plane.expand(result.shape) for plane in there))
    return result


def _places(trace: Trace, call: Call) -> tuple[Planes | None, Planes]:
    """Places of the queries (…, Nq), if they have any, and of the keys (…, Nk)."""
    if isinstance(call, FusedCall):
        asked, known = trace.of(call.query), trace.of(call.key)
        if known is None:
            raise UnplacedError("keys that cannot be followed back to it")
        keys = mixed(known[:3], [-1], False)
        lead = call.shape[:-2]
        if call.key.shape[:-2] != lead:  # heads that share their keys: one is enough to know
            keys = tuple(plane[:, :1].expand(*lead, -1) for plane in keys)
        return None if asked is None else mixed(asked[:3], [-1], False), keys
    both = trace.of(call.scores)
    if both is None:
        raise UnplacedError("scores that cannot be followed back to it")
    queries = mixed(both[:3], [-1], False) if len(both) == 6 else None
    return queries, mixed(both[-3:], [-2], False)


def _layout(queries: Planes | None, keys: Planes, size: tuple[int, int]) -> Layout:
    queries = None if queries is None or (queries[0].isnan().all() and _few(queries)) else queries
    everything = torch.cat([torch.stack(one) for one in (queries, keys) if one is not None], -1)
    everything = everything.nan_to_num(-9.0)  # (3, …, Nq + Nk)
    lead = everything.shape[1:-1]
    heads = tuple(axis for axis in range(len(lead)) if _constant(everything, axis + 1))
    folded, heads_first = 0, False
    if not heads and len(lead) == 1:
        folded, heads_first = _unfold(everything)
    elif not heads:
        raise UnplacedError("no axis of heads")
    layout = Layout(None, None, heads, folded, heads_first)

    def first_head(planes: Planes) -> Planes:
        return tuple(layout.fold(plane[..., None], lead)[:, 0, :, 0] for plane in planes)

    order = _images_first(first_head(keys)[0])
    asked = None if queries is None else _tokens(first_head(queries), order, size)
    nothing = Layout(None, None, heads, folded, heads_first, order)
    if _all_alike(first_head(keys)):  # no keys: the scores are made of the asking patch alone
        return nothing
    known = _tokens(first_head(keys), order, size)
    if known is None:  # keys that are all in one place are mixtures of the whole image: channels
        return nothing
    if queries is not None:
        if asked is None:
            raise UnplacedError("queries that are mixtures of the whole image")
        _asks_once(asked)
    return Layout(known, asked, heads, folded, heads_first, order)


def _few(queries: Planes) -> bool:
    return queries[0].shape[-1] <= 1


def _all_alike(keys: Planes) -> bool:
    """Whether the keys (G, n) of every group are in one place, though not all groups' are."""
    return keys[0].shape[1] > 1 and all(_constant(plane.nan_to_num(-9.0), 1) for plane in keys)


def _constant(planes: Tensor, axis: int) -> bool:
    return bool((planes - planes.narrow(axis, 0, 1)).abs().max() < _NEAR)


def _unfold(planes: Tensor) -> tuple[int, bool]:
    """How many heads the one leading axis of (3, L, n) holds, and whether they are the slower."""
    rows = (planes.permute(1, 0, 2).flatten(1) / _NEAR).round()
    _, group = rows.unique(dim=0, return_inverse=True)
    groups = int(group.max()) + 1
    heads, left = divmod(len(group), groups)
    if left:
        raise UnplacedError("groups and heads in no order")
    if bool((group.reshape(groups, heads) == group.reshape(groups, heads)[:, :1]).all()):
        return heads, False
    if bool((group.reshape(heads, groups) == group.reshape(heads, groups)[:1]).all()):
        return heads, True
    raise UnplacedError("groups and heads in no order")


def _images_first(image: Tensor) -> bool:
    """Whether the groups (G, n) of an image follow each other; each must be of one image."""
    inside = image.nan_to_num(-1.0)
    owner = inside.amax(dim=1)
    if not bool(((inside == owner[:, None]) | (inside < 0)).all()):
        raise UnplacedError("windows that hold several images")
    count = int(owner.max()) + 1
    each, left = divmod(len(owner), max(count, 1))
    if not left and count > 0:
        images = torch.arange(count, device=owner.device)
        if bool((owner == images.repeat_interleave(each)).all()):
            return True
        if bool((owner == images.repeat(each)).all()):
            return False
    raise UnplacedError("images in no order")


def _tokens(planes: Planes, images_first: bool, size: tuple[int, int]) -> Tokens | None:
    """Tokens of one image from the places (G, n) of all; None when all are in one place."""
    image, down, across = planes
    images = int(image.nan_to_num(-1).max()) + 1
    windows = len(image) // images
    mine = slice(0, windows) if images_first else slice(0, None, images)
    image, down, across = image[mine], down[mine], across[mine]
    nowhere = image.isnan()
    real = (image >= 0) & ~nowhere
    if not bool(real.any()):
        raise UnplacedError("tokens that cannot be followed back to it")
    rows, h, tall = ranks(down, real, size[0])
    columns, w, wide = ranks(across, real, size[1])
    if h * w == 1 and real.sum() > 1:
        return None
    prefix = int(nowhere.sum(dim=1).max())
    table = torch.where(real, prefix + rows * w + columns, -1)
    table = torch.where(nowhere, nowhere.cumsum(dim=1) - 1, table)
    grid = PatchGrid((h, w), size, (tall, wide), prefix)
    if len(table[table >= prefix].unique()) != grid.patches:
        raise UnplacedError(f"tokens that do not fill a grid of {h}x{w}")
    return Tokens(grid, table)


def ranks(places: Tensor, real: Tensor, pixels: int) -> tuple[Tensor, int, float]:
    """Row (or column) number of each place, their count, and the size of one in pixels."""
    found = places[real].sort().values
    new = torch.cat([found.new_ones(1, dtype=torch.bool), found.diff() > _NEAR])
    marks = found[new]
    count = len(marks)
    step = 1.0 if count == 1 else float(marks[-1] - marks[0]) / (count - 1)
    if count > 1 and bool(((marks.diff() - step).abs() > _EVEN * step).any()):
        raise UnplacedError("tokens at uneven distances")
    if count > 1 and (marks[0] > 1.01 * step or 1 - marks[-1] > 1.51 * step):
        raise UnplacedError("patches of a part of it alone")
    ranks = torch.searchsorted(marks, places.nan_to_num(0.0).contiguous() - _NEAR / 2)
    return ranks.clamp(max=count - 1), count, round(step * pixels * 64) / 64


def _asks_once(asked: Tokens) -> None:
    numbers = asked.table[asked.table >= asked.grid.prefix]
    if len(numbers) != asked.grid.patches:
        raise UnplacedError("patches that ask more than once")
