"""How one attention call lays out its tokens: which axes are heads, which tokens are in a window.

Read off the places that `trace` followed to the call. What does not come out as every patch of the
image asking once is refused by name: overlapping windows, queries that are not of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .position_rules import Planes
from .token_map import Placement

_NEAR = 2e-4  # of the image's side: places that agree
_EVEN = 0.05  # of a patch: how much the distances between patches may differ
_EDGE = 0.04  # of a patch: how far the first may begin from the edge of the image


# Of a token without a place: its number, and how many before it in the call have the same number.
Name = tuple[int, int]


class UnplacedError(Exception):
    """Why the tokens of a call have no places; becomes an UnsupportedModelError with its site."""


@dataclass(frozen=True)
class Tokens:
    """The queries, or the keys, of one image: on which grid, and the windows (g, n) they are in.

    `table` holds token numbers in the order of `grid`, prefix tokens first, -1 for padding. `names`
    are those of the prefix tokens, the same for one token in all layers.
    """

    grid: PatchGrid
    table: Tensor
    names: tuple[Name, ...] = ()

    @property
    def in_order(self) -> bool:
        """Whether one group holds all tokens as they come."""
        count = torch.arange(self.grid.tokens, device=self.table.device)
        return self.table.shape == (1, len(count)) and bool((self.table[0] == count).all())

    def renumbered(self, names: Sequence[Name], same: Mapping[Name, Name]) -> Tokens:
        """The same with prefix tokens numbered as in `names`, under which those in `same` are."""
        numbers = [names.index(same.get(name, name)) for name in self.names]
        if numbers == list(range(len(numbers))):
            return self
        own = torch.tensor(numbers, device=self.table.device)
        prefix = self.table.clamp(min=0, max=self.grid.prefix - 1)
        patches = self.table + (len(names) - self.grid.prefix)
        table = torch.where(self.table < self.grid.prefix, own[prefix], patches)
        table = torch.where(self.table < 0, -1, table)
        return Tokens(replace(self.grid, prefix=len(names)), table, tuple(names))


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

    def is_same(self, other: Layout) -> bool:
        """Return whether another layout is equal to this one."""
        pairs = ((self.keys, other.keys), (self.queries, other.queries))
        if replace(self, keys=None, queries=None) != replace(other, keys=None, queries=None):
            return False
        return all(
            one is two
            or (
                one is not None
                and two is not None
                and one.grid == two.grid
                and torch.equal(one.table, two.table)
            )
            for one, two in pairs
        )

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


def common_grid(layouts: Sequence[Layout]) -> PatchGrid:
    """The finest grid that patches ask on, with prefix tokens for all."""
    grids = [one.grid for layout in layouts if (one := layout.queries or layout.keys)]
    asking = [layout.queries.grid for layout in layouts if layout.queries is not None]
    finest = max(asking or grids, key=lambda grid: grid.patches)
    for grid in grids:
        for side in (0, 1):
            ends = [
                (one.origin[side], one.origin[side] + one.cell[side] * one.shape[side])
                for one in (grid, finest)
            ]
            apart = max(abs(ends[0][0] - ends[1][0]), abs(ends[0][1] - ends[1][1]))
            cells = grid.cell[side], finest.cell[side]
            # Coarse cells may reach beyond the image; rows of the same height are dropped ones.
            same = abs(cells[0] - cells[1]) < 0.01 * cells[1]
            if apart > (0.5 if same else 1.01) * max(cells):
                raise UnsupportedModelError(
                    f"model: expected layers that see the same part of the image, got grids of "
                    f"{grid.shape} and {finest.shape} patches over different parts — "
                    "choose layers of one part"
                )
    return replace(finest, prefix=max(grid.prefix for grid in grids))


def with_same_prefix(layouts: Sequence[Layout]) -> list[Layout]:
    """The layouts with each prefix token under the same number in all of them."""
    order: list[Name] = []
    same: dict[
        Name, Name
    ] = {}  # of a token that has changed its name, such as one of several mixed
    last: tuple[Name, ...] = ()
    for layout in layouts:
        for tokens in (layout.keys, layout.queries):
            names = () if tokens is None else tuple(same.get(one, one) for one in tokens.names)
            if len(names) == len(last) and not set(names) & set(order):
                same.update(zip(names, last, strict=True))
                names = last
            order.extend(name for name in names if name not in order)
            last = names or last
    return [
        replace(
            layout,
            keys=None if layout.keys is None else layout.keys.renumbered(order, same),
            queries=None if layout.queries is None else layout.queries.renumbered(order, same),
        )
        for layout in layouts
    ]


def has_places(planes: Planes) -> bool:
    """Return whether any element lies in the image."""
    return bool((planes[0] >= 0).any())


def layout_of(
    queries: Planes | None,
    keys: Planes,
    size: tuple[int, int],
    reach: tuple[float, float] = (0.0, 0.0),
) -> Layout:
    """The layout of a call from the places of its queries (…, Nq) and keys (…, Nk).

    Parameters
    ----------
    queries : None, or no place in the image, for learned queries
    size : (H, W) of the images, pixels
    reach : how far patches overlap beyond their cells, in parts of the image

    Raises
    ------
    UnplacedError
        When the tokens are not every patch of a grid once.
    """
    if queries is not None and bool(queries[0].isnan().all()):
        queries = None
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
    asked = None if queries is None else _tokens(first_head(queries), order, size, reach)
    nothing = Layout(None, None, heads, folded, heads_first, order)
    if _all_alike(first_head(keys)):  # no keys: the scores are made of the asking patch alone
        return nothing
    known = _tokens(first_head(keys), order, size, reach)
    if known is None:  # keys that are all in one place are mixtures of the whole image: channels
        return nothing
    if queries is not None:
        if asked is None:
            raise UnplacedError("queries that are mixtures of the whole image")
        _asks_once(asked)
    return Layout(known, asked, heads, folded, heads_first, order)


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


def _tokens(
    planes: Planes, images_first: bool, size: tuple[int, int], reach: tuple[float, float]
) -> Tokens | None:
    """Tokens of one image from the places (G, n) of all; None when all are in one place."""
    tokens = _summarised(planes, images_first, size)
    return None if tokens is None else replace(tokens, grid=with_reach(tokens.grid, reach))


def with_reach(grid: PatchGrid, reach: tuple[float, float]) -> PatchGrid:
    """Return a grid with its `reach`, given in parts of the image; 0 for a grid from its corner."""
    if grid.origin == (0.0, 0.0):
        return grid
    height, width = grid.image_size
    return replace(grid, reach=(_in_pixels(reach[0] * height), _in_pixels(reach[1] * width)))


def _summarised(planes: Planes, images_first: bool, size: tuple[int, int]) -> Tokens | None:
    """As `_tokens`; a token that is the mean of all others is a prefix token."""
    planes = _of_one_image(planes, images_first)
    without = _without_summary(planes)
    try:
        tokens = _on_grid(planes, size)
    except UnplacedError:
        if without is None:
            raise
        return _on_grid(without, size)
    if tokens is not None and without is not None and tokens.table.numel() > tokens.grid.tokens:
        return _on_grid(without, size)  # the mean lies where the middle patch is
    return tokens


def _of_one_image(planes: Planes, images_first: bool) -> Planes:
    """The places (g, n) of the first image's groups, which must be those of every image."""
    image = planes[0]
    images = int(image.nan_to_num(-1).max()) + 1
    windows = len(image) // images
    shape = (images, windows, -1) if images_first else (windows, images, -1)
    each = [plane.reshape(shape) for plane in planes]
    each = each if images_first else [plane.transpose(0, 1) for plane in each]
    kinds = torch.where(each[0].isnan(), -2.0, each[0].clamp(max=0.0))
    same = bool((kinds == kinds[:1]).all()) and all(
        bool(((plane - plane[:1]).nan_to_num(0.0).abs() < _NEAR).all()) for plane in each[1:]
    )
    if not same:
        raise UnplacedError("an order of tokens that differs from image to image")
    return tuple(plane[0] for plane in each)


def _on_grid(planes: Planes, size: tuple[int, int]) -> Tokens | None:
    image, down, across = planes
    nowhere = image.isnan()
    real = (image >= 0) & ~nowhere
    if not bool(real.any()):
        raise UnplacedError("tokens that cannot be followed back to it")
    rows, h, tall, top = ranks(down, real, size[0])
    columns, w, wide, left = ranks(across, real, size[1])
    if h * w == 1 and real.sum() > 1:
        return None
    prefix = int(nowhere.sum(dim=1).max())
    table = torch.where(real, prefix + rows * w + columns, -1)
    table = torch.where(nowhere, nowhere.cumsum(dim=1) - 1, table)
    grid = PatchGrid((h, w), size, (tall, wide), prefix, origin=(top, left))
    if len(table[table >= prefix].unique()) != grid.patches:
        raise UnplacedError(f"tokens that do not fill a grid of {h}x{w}")
    return Tokens(grid, table, _names(nowhere, down))


def _names(nowhere: Tensor, down: Tensor) -> tuple[Name, ...]:
    """The names of the prefix tokens of a group: a number, and how many have had it before."""
    group = int(nowhere.sum(dim=1).argmax())
    numbers = [
        round(number * 1024) if number < 0 else 0
        for number in down[group][nowhere[group]].nan_to_num(0.0).tolist()
    ]
    return tuple((one, numbers[:place].count(one)) for place, one in enumerate(numbers))


def _without_summary(planes: Planes) -> Planes | None:
    """The places with a first or last token that is the mean of all others counted as nowhere."""
    image, down, across = planes
    if len(image) > 1 or image.shape[1] < 3:
        return None
    for token, others in ((0, slice(1, None)), (-1, slice(None, -1))):
        real = image[:, others] >= 0
        means = [
            (plane[:, others].nan_to_num(0.0) * real).sum(1) / real.sum(1).clamp(min=1)
            for plane in (down, across)
        ]
        away = [
            (plane[:, token] - mean).abs()
            for plane, mean in zip((down, across), means, strict=True)
        ]
        if all(bool((one < _NEAR).all()) for one in away):
            image = image.clone()
            image[:, token] = torch.nan
            return image, down, across
    return None


def ranks(places: Tensor, real: Tensor, pixels: int) -> tuple[Tensor, int, float, float]:
    """Rows (or columns) of tokens along one side of the image.

    Returns
    -------
    tuple
        The number of each place's row, how many rows there are, the height of one and the edge of
        the first, pixels.
    """
    found = places[real].sort().values
    new = torch.cat([found.new_ones(1, dtype=torch.bool), found.diff() > _NEAR])
    marks = found[new]
    count = len(marks)
    step = 1.0 if count == 1 else float(marks[-1] - marks[0]) / (count - 1)
    if count > 1 and bool(((marks.diff() - step).abs() > _EVEN * step).any()):
        raise UnplacedError("tokens at uneven distances")
    start = float(marks[0]) - step / 2
    if abs(start) < _EDGE * step:
        start = 0.0
    if count == 1 and start:
        raise UnplacedError("a single row or column of patches beside the middle of it")
    ranks = torch.searchsorted(marks, places.nan_to_num(0.0).contiguous() - _NEAR / 2)
    return ranks.clamp(max=count - 1), count, _in_pixels(step * pixels), _in_pixels(start * pixels)


def _in_pixels(length: float) -> float:
    """A length without the rounding errors of single precision."""
    exact = round(length * 64) / 64
    return exact if abs(length - exact) < 1e-3 else length


def _asks_once(asked: Tokens) -> None:
    numbers = asked.table[asked.table >= asked.grid.prefix]
    if len(numbers) != asked.grid.patches:
        raise UnplacedError("patches that ask more than once")
