"""Attention rows of a report: every layer and head, one byte per number.

A row is the attention of one query token. All rows are stored if they fit; otherwise those of the
class token and of a lattice of patches, which is finer for the mean over heads than for single
heads. Rows of windowed and hierarchical models are mapped to the report's grid as in
`SiteRecord.reduce`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..attention.token_map import TokenMap
from ..grid import PatchGrid

LEVELS = 255
PIECE = 32 * 2**20  # bytes of rows that are gathered at once
_TEXT = 4 / 3  # characters per byte in base64


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows (…, R, N) of tokens `rows` (R,): bytes and one scale per row."""

    rows: list[int]
    codes: np.ndarray
    scales: np.ndarray

    def payload(self) -> dict[str, Any]:
        """Return the rows ready for JSON: bytes in base64, scales as little-endian float32."""
        return {
            "rows": self.rows,
            "codes": base64.b64encode(self.codes.tobytes()).decode("ascii"),
            "scales": base64.b64encode(self.scales.astype("<f4").tobytes()).decode("ascii"),
        }


def encode(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Encode non-negative (…, N) as bytes (…, N) and scales (…,): a = scale (code / 255)^2.

    The square gives more levels to values near 0, where most attention is. The error of an entry
    is at most m/255 in a row with maximum m, and much smaller for small entries.

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
    """Decode bytes and scales to scale (code / 255)^2, (…, N)."""
    return scales[..., None] * (codes / LEVELS) ** 2


def gather(site_record: SiteRecord, placement: TokenMap, queries: Tensor) -> Tensor:
    """Return the attention rows of tokens of a grid at one site, on that grid: (H, R, N).

    Row r equals `SiteRecord.reduce` for the weights of token r alone: a patch that covers several
    patches of the site gets their mean; a patch inside a coarser patch gets the row of that patch.

    Parameters
    ----------
    site_record : from a record of one image
    placement : `own` is the grid of the record, `common` the grid of the rows
    queries : (R,), token numbers of the common grid
    """
    alone = torch.zeros(1, len(queries), placement.grid.tokens, device=queries.device)
    alone[0, torch.arange(len(queries), device=queries.device), queries] = 1
    assert site_record.queries_at is not None, "learned queries are not tokens"
    query_weights = site_record.queries_at.to_call(placement.to_call(alone)).to(site_record.dtype)
    groups, heads, _, keys = site_record.shape
    rows = torch.zeros(
        heads, len(queries), placement.grid.tokens, dtype=site_record.dtype, device=queries.device
    )
    for chunk in site_record.chunks():
        block = site_record.attention(chunk)
        chunk_weights = query_weights[..., chunk]
        active = chunk_weights.ne(0).any(dim=2).any(dim=0).nonzero().flatten()
        step = max(1, PIECE // (groups * heads * keys * site_record.dtype.itemsize))
        for queries_part in active.split(step):
            part = (chunk_weights[:, None, queries_part] @ block).flatten(1, 2)  # (G, H R, Nk)
            placed = placement.to_grid(site_record.keys_at.to_grid(part))[0]
            rows.index_add_(1, queries_part, placed.unflatten(0, (heads, len(queries_part))))
    return rows


def lattice(grid: PatchGrid, most: int) -> list[int]:
    """Choose at most `most` evenly spaced patches: every a-th row, every b-th column.

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
    """Choose the tokens whose rows are stored: for single heads, and for the mean over heads.

    All tokens and no means (they follow from the heads), if they fit; otherwise means on the
    finest lattice that fits into half of the room, and heads on the finest that fits into the rest.

    Parameters
    ----------
    grid : grid of the report, with prefix tokens
    heads : number of heads in each layer
    room : available characters of the file
    """
    row = (grid.tokens + 4) * _TEXT + 8  # including its scale and its number
    everything = list(range(grid.tokens))
    if grid.tokens * row * sum(heads) <= room:
        return everything, []
    prefix_rows = [0] if grid.prefix else []

    def lattice_tokens(room: float, layers: int) -> list[int]:
        most = int(room / (row * layers)) - len(prefix_rows)
        if most >= grid.patches:
            return prefix_rows + everything[grid.prefix :]
        patches = lattice(grid, most)
        return prefix_rows + [grid.prefix + patch for patch in patches] if patches else []

    mean_rows = lattice_tokens(room / 2, len(heads))
    head_rows = lattice_tokens(room - len(mean_rows) * row * len(heads), sum(heads))
    if len(head_rows) >= len(mean_rows):  # the means would add no information
        return lattice_tokens(room, sum(heads)), []
    return head_rows, mean_rows


def attention(
    attention_record: AttentionRecord, grid: PatchGrid, room: int
) -> dict[str, Any] | None:
    """Return the rows of a record of one image, ready for JSON; None if none fits.

    Parameters
    ----------
    attention_record : record of all layers
    grid : grid of the rows; its prefix tokens are those of the record
    room : available characters of the file
    """
    sites = [
        site_record
        for site_record in attention_record.sites
        if site_record.site.kind == "self" and site_record.queries_at is not None
    ]
    if not sites:
        return None
    placement = TokenMap(
        attention_record.grid, replace(grid, prefix=attention_record.grid.prefix), 1
    )
    heads = [site_record.shape[1] for site_record in sites]
    head_rows, mean_rows = choose(placement.grid, heads, room)
    if not head_rows and not mean_rows:
        return None
    encoded = {
        name: EncodedRows(rows, *_rows(sites, placement, rows, mean=name == "mean")).payload()
        for name, rows in (("heads", head_rows), ("mean", mean_rows))
        if rows
    }
    return {
        "tokens": placement.grid.tokens,
        "prefix": placement.grid.prefix,
        "reads_class_token": bool(attention_record.reads_class_token[0]),
        "layers": [_layer(site_record, grid) for site_record in sites],
        "all": len(head_rows) == placement.grid.tokens,
        **encoded,
    }


def _rows(
    sites: list[SiteRecord], placement: TokenMap, rows: list[int], *, mean: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return concatenated bytes and scales of all layers: (H, R, N), or (R, N) for means."""
    device = sites[0].attention(slice(0, 1)).device
    queries = torch.tensor(rows, device=device)
    codes, scales = [], []
    with torch.no_grad():
        for site_record in sites:
            values = gather(site_record, placement, queries)
            code, scale = encode(values.mean(dim=0, keepdim=True) if mean else values)
            codes.append(code.reshape(-1))
            scales.append(scale.reshape(-1))
    return np.concatenate(codes), np.concatenate(scales)


def _layer(site_record: SiteRecord, grid: PatchGrid) -> dict[str, Any]:
    """Return the name and heads of a layer, and how its grid differs from that of the report."""
    assert site_record.queries_at is not None
    windows = site_record.keys_at.image is not None and site_record.shape[0] > 1
    grid_shapes = [
        list(site_record.queries_at.call_grid.shape),
        list(site_record.keys_at.call_grid.shape),
    ]
    differences = []
    if grid_shapes[0] != list(grid.shape):
        differences.append(f"queries on {grid_shapes[0][0]} × {grid_shapes[0][1]} patches")
    if grid_shapes[1] != grid_shapes[0]:
        differences.append(f"keys on {grid_shapes[1][0]} × {grid_shapes[1][1]}")
    if windows:
        differences.append("in windows")
    return {
        "layer": site_record.site.layer,
        "name": site_record.site.name,
        "heads": site_record.shape[1],
        "differs": ", ".join(differences),
    }
