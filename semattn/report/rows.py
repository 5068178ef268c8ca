"""The attention that a report keeps: rows of every layer and head, one byte a number.

A row says where one token attends. All rows are kept where they fit; else those of the class token
and of a lattice of patches, a finer one for the mean over heads than for single heads. Rows of
windowed and hierarchical models are brought to the report's grid as `SiteRecord.reduce` brings
them; nothing is drawn here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..attention.token_map import Placement
from ..grid import PatchGrid

LEVELS = 255
PIECE = 32 * 2**20  # bytes of the rows that are gathered at once
_TEXT = 4 / 3  # characters a byte, in base64


@dataclass(frozen=True)
class Kept:
    """Rows (…, R, N) of tokens `rows` (R,), as bytes and a scale a row."""

    rows: list[int]
    codes: np.ndarray
    scales: np.ndarray

    def payload(self) -> dict[str, Any]:
        """Ready for JSON: bytes in base64, scales little-endian float32."""
        return {
            "rows": self.rows,
            "codes": base64.b64encode(self.codes.tobytes()).decode("ascii"),
            "scales": base64.b64encode(self.scales.astype("<f4").tobytes()).decode("ascii"),
        }


def encode(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative (…, N) as bytes (…, N) and a scale (…,): a = scale (code / 255)^2.

    The square spends the levels where attention is, near 0: an entry of a row whose greatest is m
    is off by m/255 at most, and by far less where it is small.

    Examples
    --------
    >>> codes, scales = encode(torch.tensor([[0.0, 0.25, 1.0]]))
    >>> decode(codes, scales).round(2).tolist()
    [[0.0, 0.25, 1.0]]
    """
    values = values.detach().to("cpu", torch.float32)
    scales = values.amax(dim=-1)
    share = values / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    codes = (share.clamp(min=0).sqrt() * LEVELS).round().to(torch.uint8)
    return codes.numpy(), scales.numpy()


def decode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What the page reads: scale (code / 255)^2, (…, N)."""
    return scales[..., None] * (codes / LEVELS) ** 2


def gather(one: SiteRecord, shown: Placement, queries: Tensor) -> Tensor:
    """Where tokens of a grid attend at one site, on that grid: (H, R, N).

    Row r is what `SiteRecord.reduce` gives for the weights of token r alone: a patch that covers
    several of the site's is their mean, one that lies within a coarser one attends as that does.

    Parameters
    ----------
    one : of a record of one image
    shown : `own` is the record's grid, `common` the one that the rows are wanted on
    queries : (R,), token numbers of the wanted grid
    """
    alone = torch.zeros(1, len(queries), shown.common.tokens, device=queries.device)
    alone[0, torch.arange(len(queries), device=queries.device), queries] = 1
    assert one.queries_at is not None, "learned queries are no tokens"
    asking = one.queries_at.spread(shown.spread(alone)).to(one.dtype)
    groups, heads, _, keys = one.shape
    rows = torch.zeros(
        heads, len(queries), shown.common.tokens, dtype=one.dtype, device=queries.device
    )
    for chunk in one.chunks():
        block = one.attention(chunk)
        asked = asking[..., chunk]
        live = asked.ne(0).any(dim=2).any(dim=0).nonzero().flatten()
        step = max(1, PIECE // (groups * heads * keys * one.dtype.itemsize))
        for some in live.split(step):
            part = (asked[:, None, some] @ block).flatten(1, 2)  # (G, H R, Nk)
            placed = shown.collect(one.keys_at.collect(part))[0]
            rows.index_add_(1, some, placed.unflatten(0, (heads, len(some))))
    return rows


def lattice(grid: PatchGrid, most: int) -> list[int]:
    """The most even choice of at most `most` patches: every a-th row, every b-th column.

    Examples
    --------
    >>> lattice(PatchGrid((4, 4), (64, 64), (16, 16)), 7)
    [0, 2, 8, 10]
    """
    h, w = grid.shape

    def every(length: int, step: int) -> range:
        return range((step - 1) // 2, length, step)

    fits = [
        (len(every(h, a)) * len(every(w, b)), -a, a, b)
        for a in range(1, max(h, w) + 1)
        for b in (a, a + 1)
        if len(every(h, a)) * len(every(w, b)) <= most
    ]
    _, _, a, b = max(fits, default=(0, 0, 2 * h + 1, 1))
    return [row * w + column for row in every(h, a) for column in every(w, b)]


def choose(grid: PatchGrid, heads: list[int], room: int) -> tuple[list[int], list[int]]:
    """Which tokens' rows to keep: of single heads, and of the mean over heads.

    All, and no means (they follow from the heads), where that fits; else means on the finest
    lattice that half the room holds, and heads on the finest that the rest holds.

    Parameters
    ----------
    grid : the report's, with prefix tokens
    heads : their number in each layer
    room : characters of the file
    """
    row = (grid.tokens + 4) * _TEXT + 8  # with its scale and its number
    everything = list(range(grid.tokens))
    if grid.tokens * row * sum(heads) <= room:
        return everything, []
    first = [0] if grid.prefix else []

    def some(room: float, layers: int) -> list[int]:
        most = int(room / (row * layers)) - len(first)
        if most >= grid.patches:
            return first + everything[grid.prefix :]
        chosen = lattice(grid, most)
        return first + [grid.prefix + patch for patch in chosen] if chosen else []

    means = some(room / 2, len(heads))
    single = some(room - len(means) * row * len(heads), sum(heads))
    if len(single) >= len(means):  # these would tell nothing that those do not
        return some(room, sum(heads)), []
    return single, means


def attention(taken: AttentionRecord, grid: PatchGrid, room: int) -> dict[str, Any] | None:
    """The rows of a record of one image, ready for JSON; None where not one fits.

    Parameters
    ----------
    taken : of all layers
    grid : that the rows are wanted on; its prefix tokens are the record's
    room : characters of the file that they may take
    """
    sites = [one for one in taken.sites if one.site.kind == "self" and one.queries_at is not None]
    if not sites:
        return None
    shown = Placement(taken.grid, replace(grid, prefix=taken.grid.prefix), 1)
    heads = [one.shape[1] for one in sites]
    single, means = choose(shown.common, heads, room)
    if not single and not means:
        return None
    kept = {
        name: Kept(rows, *_rows(sites, shown, rows, mean=name == "mean")).payload()
        for name, rows in (("heads", single), ("mean", means))
        if rows
    }
    return {
        "tokens": shown.common.tokens,
        "prefix": shown.common.prefix,
        "reads_class_token": bool(taken.reads_class_token[0]),
        "layers": [_layer(one, grid) for one in sites],
        "all": len(single) == shown.common.tokens,
        **kept,
    }


def _rows(
    sites: list[SiteRecord], shown: Placement, rows: list[int], *, mean: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and scales of all layers, one after the other: (H, R, N) each, or (R, N) of means."""
    device = sites[0].attention(slice(0, 1)).device
    queries = torch.tensor(rows, device=device)
    codes, scales = [], []
    with torch.no_grad():
        for one in sites:
            values = gather(one, shown, queries)
            code, scale = encode(values.mean(dim=0, keepdim=True) if mean else values)
            codes.append(code.reshape(-1))
            scales.append(scale.reshape(-1))
    return np.concatenate(codes), np.concatenate(scales)


def _layer(one: SiteRecord, grid: PatchGrid) -> dict[str, Any]:
    """What a reader must know of a layer, and how it differs from the report's grid."""
    assert one.queries_at is not None
    windows = one.keys_at.image is not None and one.shape[0] > 1
    own = [list(one.queries_at.own.shape), list(one.keys_at.own.shape)]
    said = []
    if own[0] != list(grid.shape):
        said.append(f"asks on {own[0][0]} × {own[0][1]} patches")
    if own[1] != own[0]:
        said.append(f"over keys of {own[1][0]} × {own[1][1]}")
    if windows:
        said.append("in windows")
    return {
        "layer": one.site.layer,
        "name": one.site.name,
        "heads": one.shape[1],
        "differs": " ".join(said),
    }
