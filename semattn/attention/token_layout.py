"""Layout of the tokens of one attention call: axes of heads, and windows of tokens.

The layout is derived from the positions that a tracer computes. It is refused, with the reason, if
not every patch of the image is a query exactly once, as for overlapping windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .position_planes import Planes, varies_along
from .token_map import TokenMap

POSITION_TOLERANCE = 2e-4  # fraction of the image's side below which positions are equal
_MAX_UNEVENNESS = 0.05  # fraction of a patch by which distances between patches may differ
_MAX_OFFSET = 0.04  # fraction of a patch between the first patch and the edge of the image


# Of a token without a position: its number, and the count of earlier tokens with this number.
TokenId = tuple[int, int]


class UnplacedError(Exception):
    """Reason why tokens have no positions; becomes an UnsupportedModelError that names the site."""


@dataclass(frozen=True)
class Tokens:
    """Queries or keys of one image: their grid and their windows (g, n).

    `table` holds token numbers in the order of `grid`, prefix tokens first, -1 for padding.
    `token_ids` identify the prefix tokens, equally in all layers.
    """

    grid: PatchGrid
    table: Tensor
    token_ids: tuple[TokenId, ...] = ()

    @cached_property
    def in_order(self) -> bool:
        """Return whether a single group holds all tokens in order."""
        numbers = torch.arange(self.grid.tokens, device=self.table.device)
        return self.table.shape == (1, len(numbers)) and bool((self.table[0] == numbers).all())

    def renumbered(self, ids: Sequence[TokenId], aliases: Mapping[TokenId, TokenId]) -> Tokens:
        """Return the tokens with prefix tokens numbered as in `ids`; `aliases` maps other ids."""
        numbers = [ids.index(aliases.get(token_id, token_id)) for token_id in self.token_ids]
        if numbers == list(range(len(numbers))):
            return self
        new_numbers = torch.tensor(numbers, device=self.table.device)
        prefix = self.table.clamp(min=0, max=self.grid.prefix - 1)
        patches = self.table + (len(ids) - self.grid.prefix)
        table = torch.where(self.table < self.grid.prefix, new_numbers[prefix], patches)
        table = torch.where(self.table < 0, -1, table)
        return Tokens(replace(self.grid, prefix=len(ids)), table, tuple(ids))


@dataclass(frozen=True)
class Layout:
    """Layout of the calls of one site: axes of the heads, keys and queries.

    `heads` are the leading axes of the call that hold heads. If a single leading axis holds both
    groups and heads, `folded` is the number of heads, and `heads_first` tells whether heads vary
    slower than groups. `images_first` tells whether the groups of an image are contiguous.
    `queries` is None for learned queries; `keys` is None for attention that is not between patches.
    """

    keys: Tokens | None
    queries: Tokens | None
    heads: tuple[int, ...] = (1,)
    folded: int = 0
    heads_first: bool = False
    images_first: bool = True

    def fold(self, tensor: Tensor, lead: tuple[int, ...]) -> Tensor:
        """Reshape (…, a, b), broadcastable to the leading axes `lead`, to (G, H, a, b)."""
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
        """Reshape (G, H or 1, a, b) to broadcast to the leading axes `lead`; inverse of `fold`."""
        if self.heads == (1,) and len(lead) == 2 and not self.folded:
            return tensor
        rest = tensor.shape[-2:]
        if self.folded:
            expanded = tensor.expand(-1, self.folded, *rest)
            return (expanded.transpose(0, 1) if self.heads_first else expanded).flatten(0, 1)
        groups = [axis for axis in range(len(lead)) if axis not in self.heads]
        order = [*groups, *self.heads]
        has_one_head = tensor.shape[1] == 1
        sizes = [1 if has_one_head and axis in self.heads else lead[axis] for axis in order]
        inverse = [order.index(axis) for axis in range(len(lead))]
        return tensor.reshape(*sizes, *rest).permute(*inverse, -2, -1)

    def heads_of(self, lead: tuple[int, ...]) -> int:
        """Return the number of heads H of a call with leading axes `lead`."""
        return self.folded or math.prod(lead[axis] for axis in self.heads)

    def batch_of(self, lead: tuple[int, ...]) -> int:
        """Return the number of images of a call with leading axes `lead`."""
        assert self.keys is not None
        return math.prod(lead) // (self.heads_of(lead) * len(self.keys.table))

    def is_same(self, other: Layout) -> bool:
        """Return whether another layout is equal to this one."""
        pairs = ((self.keys, other.keys), (self.queries, other.queries))
        if replace(self, keys=None, queries=None) != replace(other, keys=None, queries=None):
            return False
        return all(
            tokens is other_tokens
            or (
                tokens is not None
                and other_tokens is not None
                and tokens.grid == other_tokens.grid
                and torch.equal(tokens.table, other_tokens.table)
            )
            for tokens, other_tokens in pairs
        )

    def in_order_of(self, grid: PatchGrid) -> bool:
        """Return whether keys, and queries that are patches, are the tokens of `grid` in order."""
        present = [tokens for tokens in (self.keys, self.queries) if tokens is not None]
        return all(tokens.grid.shape == grid.shape and tokens.in_order for tokens in present)

    def place(self, tokens: Tokens, common: PatchGrid, batch: int) -> TokenMap:
        """Return the placement of queries or keys for a batch."""
        if tokens.in_order:
            return TokenMap(tokens.grid, common, batch)
        windows = len(tokens.table)
        image = torch.arange(batch, device=tokens.table.device)
        if self.images_first:
            image, token = image.repeat_interleave(windows), tokens.table.repeat(batch, 1)
        else:
            image, token = image.repeat(windows), tokens.table.repeat_interleave(batch, dim=0)
        return TokenMap(tokens.grid, common, batch, image, token)


def common_grid(layouts: Sequence[Layout]) -> PatchGrid:
    """Return the finest grid of the queries, with as many prefix tokens as any layer has."""
    grids = [tokens.grid for layout in layouts if (tokens := layout.queries or layout.keys)]
    query_grids = [layout.queries.grid for layout in layouts if layout.queries is not None]
    finest = max(query_grids or grids, key=lambda grid: grid.patches)
    for grid in grids:
        for side in (0, 1):
            start, end = _extent(grid, side)
            finest_start, finest_end = _extent(finest, side)
            difference = max(abs(start - finest_start), abs(end - finest_end))
            cells = grid.cell[side], finest.cell[side]
            # Coarse cells may extend beyond the image; with equal cells, rows have been dropped.
            is_same_cell = abs(cells[0] - cells[1]) < 0.01 * cells[1]
            if difference > (0.5 if is_same_cell else 1.01) * max(cells):
                raise UnsupportedModelError(
                    f"model: expected layers over the same part of the image, got grids of "
                    f"{grid.shape} and {finest.shape} patches over different parts — "
                    "choose layers of one part"
                )
    return replace(finest, prefix=max(grid.prefix for grid in grids))


def _extent(grid: PatchGrid, side: int) -> tuple[float, float]:
    start = grid.origin[side]
    return start, start + grid.cell[side] * grid.shape[side]


def with_same_prefix(layouts: Sequence[Layout]) -> list[Layout]:
    """Return the layouts with the same number for each prefix token in all of them."""
    order: list[TokenId] = []
    aliases: dict[TokenId, TokenId] = {}  # of tokens whose id changes, such as a mean of tokens
    last: tuple[TokenId, ...] = ()
    for layout in layouts:
        for tokens in (layout.keys, layout.queries):
            token_ids = () if tokens is None else tokens.token_ids
            ids = tuple(aliases.get(token_id, token_id) for token_id in token_ids)
            if len(ids) == len(last) and not set(ids) & set(order):
                aliases.update(zip(ids, last, strict=True))
                ids = last
            order.extend(token_id for token_id in ids if token_id not in order)
            last = ids or last
    return [
        replace(
            layout,
            keys=None if layout.keys is None else layout.keys.renumbered(order, aliases),
            queries=None if layout.queries is None else layout.queries.renumbered(order, aliases),
        )
        for layout in layouts
    ]


def has_positions(planes: Planes) -> bool:
    """Return whether any element has a position in the image."""
    return bool((planes[0] >= 0).any())


def layout_of(
    queries: Planes | None,
    keys: Planes,
    size: tuple[int, int],
    overlap: tuple[float, float] = (0.0, 0.0),
) -> Layout:
    """Return the layout of a call from the positions of its queries (…, Nq) and keys (…, Nk).

    Parameters
    ----------
    queries : None, or without positions, for learned queries
    size : (H, W) of the images, pixels
    overlap : length of patches beyond their cells, as fractions of the image

    Raises
    ------
    UnplacedError
        If the tokens do not cover every patch of a grid exactly once.
    """
    if queries is not None and bool(queries[0].isnan().all()):
        queries = None
    present = [torch.stack(planes) for planes in (queries, keys) if planes is not None]
    stacked = torch.cat(present, -1).nan_to_num(-9.0)  # (3, …, Nq + Nk)
    lead = stacked.shape[1:-1]
    heads = tuple(
        axis for axis in range(len(lead)) if not varies_along(stacked, axis, POSITION_TOLERANCE)
    )
    folded, heads_first = 0, False
    if not heads and len(lead) == 1:
        folded, heads_first = _folded_heads(stacked)
    elif not heads:
        raise UnplacedError("no head axis")
    layout = Layout(None, None, heads, folded, heads_first)

    def first_head(planes: Planes) -> Planes:
        return tuple(layout.fold(plane[..., None], lead)[:, 0, :, 0] for plane in planes)

    order = _images_first(first_head(keys)[0])
    query_tokens = None if queries is None else _tokens(first_head(queries), order, size, overlap)
    not_patches = Layout(None, None, heads, folded, heads_first, order)
    if _are_groups_constant(first_head(keys)):  # no keys: the scores depend only on the query patch
        return not_patches
    key_tokens = _tokens(first_head(keys), order, size, overlap)
    if key_tokens is None:  # keys with one common position average the image, as channels do
        return not_patches
    if queries is not None:
        if query_tokens is None:
            raise UnplacedError("queries that average the whole image")
        _check_queries_once(query_tokens)
    return Layout(key_tokens, query_tokens, heads, folded, heads_first, order)


def _are_groups_constant(keys: Planes) -> bool:
    """Return whether the keys (G, n) have one position within every group."""
    return keys[0].shape[1] > 1 and not varies_along(keys, 1, POSITION_TOLERANCE)


def _folded_heads(planes: Tensor) -> tuple[int, bool]:
    """Return the number of heads in the leading axis of (3, L, n), and whether they come first."""
    rows = (planes.permute(1, 0, 2).flatten(1) / POSITION_TOLERANCE).round()
    _, group = rows.unique(dim=0, return_inverse=True)
    groups = int(group.max()) + 1
    heads, remainder = divmod(len(group), groups)
    if remainder:
        raise UnplacedError("windows and heads in an irregular order")
    if bool((group.reshape(groups, heads) == group.reshape(groups, heads)[:, :1]).all()):
        return heads, False
    if bool((group.reshape(heads, groups) == group.reshape(heads, groups)[:1]).all()):
        return heads, True
    raise UnplacedError("windows and heads in an irregular order")


def _images_first(image: Tensor) -> bool:
    """Return whether the groups (G, n) of an image are contiguous; each must be of one image."""
    numbers = image.nan_to_num(-1.0)
    group_image = numbers.amax(dim=1)
    if not bool(((numbers == group_image[:, None]) | (numbers < 0)).all()):
        raise UnplacedError("windows that hold several images")
    count = int(group_image.max()) + 1
    windows, remainder = divmod(len(group_image), max(count, 1))
    if not remainder and count > 0:
        images = torch.arange(count, device=group_image.device)
        if bool((group_image == images.repeat_interleave(windows)).all()):
            return True
        if bool((group_image == images.repeat(windows)).all()):
            return False
    raise UnplacedError("windows of several images in an irregular order")


def _tokens(
    planes: Planes, images_first: bool, size: tuple[int, int], overlap: tuple[float, float]
) -> Tokens | None:
    """Return the tokens of one image from positions (G, n); None if all have one position."""
    tokens = _tokens_with_summary(planes, images_first, size)
    return None if tokens is None else replace(tokens, grid=with_overlap(tokens.grid, overlap))


def with_overlap(grid: PatchGrid, overlap: tuple[float, float]) -> PatchGrid:
    """Return a grid with an overlap in fractions of the image; unchanged if it starts at 0."""
    if grid.origin == (0.0, 0.0):
        return grid
    height, width = grid.image_size
    return replace(
        grid, overlap=(_rounded_pixels(overlap[0] * height), _rounded_pixels(overlap[1] * width))
    )


def _tokens_with_summary(
    planes: Planes, images_first: bool, size: tuple[int, int]
) -> Tokens | None:
    """Return the tokens as `_tokens`; a token that is the mean of all others is a prefix token."""
    planes = _of_first_image(planes, images_first)
    without_summary = _without_summary(planes)
    try:
        tokens = _tokens_on_grid(planes, size)
    except UnplacedError:
        if without_summary is None:
            raise
        return _tokens_on_grid(without_summary, size)
    has_summary = tokens is not None and tokens.table.numel() > tokens.grid.tokens
    if without_summary is not None and has_summary:  # at the position of the middle patch
        return _tokens_on_grid(without_summary, size)
    return tokens


def _of_first_image(planes: Planes, images_first: bool) -> Planes:
    """Return the positions (g, n) of the first image, which must be equal for all images."""
    image = planes[0]
    images = int(image.nan_to_num(-1).max()) + 1
    windows = len(image) // images
    shape = (images, windows, -1) if images_first else (windows, images, -1)
    by_image = [plane.reshape(shape) for plane in planes]
    by_image = by_image if images_first else [plane.transpose(0, 1) for plane in by_image]
    kinds = torch.where(by_image[0].isnan(), -2.0, by_image[0].clamp(max=0.0))
    is_same = bool((kinds == kinds[:1]).all()) and all(
        bool(((plane - plane[:1]).nan_to_num(0.0).abs() < POSITION_TOLERANCE).all())
        for plane in by_image[1:]
    )
    if not is_same:
        raise UnplacedError("an order of tokens that differs from image to image")
    return tuple(plane[0] for plane in by_image)


def _tokens_on_grid(planes: Planes, size: tuple[int, int]) -> Tokens | None:
    image, down, across = planes
    is_prefix = image.isnan()
    real = (image >= 0) & ~is_prefix
    if not bool(real.any()):
        raise UnplacedError("tokens that cannot be followed back to it")
    rows, h, tall, top = ranks(down, real, size[0])
    columns, w, wide, left = ranks(across, real, size[1])
    if h * w == 1 and real.sum() > 1:
        return None
    prefix = int(is_prefix.sum(dim=1).max())
    table = torch.where(real, prefix + rows * w + columns, -1)
    table = torch.where(is_prefix, is_prefix.cumsum(dim=1) - 1, table)
    grid = PatchGrid((h, w), size, (tall, wide), prefix, origin=(top, left))
    if len(table[table >= prefix].unique()) != grid.patches:
        raise UnplacedError(f"tokens that do not fill a grid of {h}x{w}")
    return Tokens(grid, table, _token_ids(is_prefix, down))


def _token_ids(is_prefix: Tensor, down: Tensor) -> tuple[TokenId, ...]:
    """Return the ids of the prefix tokens in the group that has the most."""
    group = int(is_prefix.sum(dim=1).argmax())
    numbers = [
        round(number * 1024) if number < 0 else 0
        for number in down[group][is_prefix[group]].nan_to_num(0.0).tolist()
    ]
    return tuple((number, numbers[:index].count(number)) for index, number in enumerate(numbers))


def _without_summary(planes: Planes) -> Planes | None:
    """Remove the position of a first or last token that is the mean of all others; else None."""
    image, down, across = planes
    if len(image) > 1 or image.shape[1] < 3:
        return None
    for token, others in ((0, slice(1, None)), (-1, slice(None, -1))):
        real = image[:, others] >= 0
        means = [
            (plane[:, others].nan_to_num(0.0) * real).sum(1) / real.sum(1).clamp(min=1)
            for plane in (down, across)
        ]
        distances = [
            (plane[:, token] - mean).abs()
            for plane, mean in zip((down, across), means, strict=True)
        ]
        if all(bool((distance < POSITION_TOLERANCE).all()) for distance in distances):
            image = image.clone()
            image[:, token] = torch.nan
            return image, down, across
    return None


def ranks(positions: Tensor, real: Tensor, pixels: int) -> tuple[Tensor, int, float, float]:
    """Compute the rows (or columns) of tokens along one side of the image.

    Returns
    -------
    tuple
        Row number of each position, number of rows, height of a row and edge of the first, pixels.
    """
    values = positions[real].sort().values
    is_new = torch.cat([values.new_ones(1, dtype=torch.bool), values.diff() > POSITION_TOLERANCE])
    centers = values[is_new]
    count = len(centers)
    step = 1.0 if count == 1 else float(centers[-1] - centers[0]) / (count - 1)
    if count > 1 and bool(((centers.diff() - step).abs() > _MAX_UNEVENNESS * step).any()):
        raise UnplacedError("tokens at uneven distances")
    start = float(centers[0]) - step / 2
    if abs(start) < _MAX_OFFSET * step:
        start = 0.0
    if count == 1 and start:
        raise UnplacedError("a single row or column of patches outside the middle of it")
    numbers = torch.searchsorted(
        centers, positions.nan_to_num(0.0).contiguous() - POSITION_TOLERANCE / 2
    )
    height, edge = _rounded_pixels(step * pixels), _rounded_pixels(start * pixels)
    return numbers.clamp(max=count - 1), count, height, edge


def _rounded_pixels(length: float) -> float:
    """Return a length without rounding errors of float32."""
    rounded = round(length * 64) / 64
    return rounded if abs(length - rounded) < 1e-3 else length


def _check_queries_once(queries: Tokens) -> None:
    numbers = queries.table[queries.table >= queries.grid.prefix]
    if len(numbers) != queries.grid.patches:
        raise UnplacedError("patches that are queries more than once")
