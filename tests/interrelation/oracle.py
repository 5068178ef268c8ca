"""The figures straight from their definitions, patch by patch, in float64; slow."""

from __future__ import annotations

import math

import numpy as np
import torch

from semattn.attention import AttentionRecord, SiteRecord


def figures(taken: AttentionRecord, image: int, p: np.ndarray, group: np.ndarray, keep: np.ndarray):
    """One image's figures, a dict for each self-attention site.

    `p` (P,) is the concentration, `group` (P,) the strata, `keep` (P,) the patches that count.
    """
    return [
        _site(one, taken, image, p * keep / (p * keep).sum(), group, keep)
        for one in taken.sites
        if one.site.kind == "self"
    ]


def _site(one: SiteRecord, taken, image, p, group, keep):
    grid = taken.grid
    heads = one.shape[1]
    attention = one.attention().double().numpy()
    asks, asked = _parts(one.queries_at, grid), _parts(one.keys_at, grid)
    mine = [g for g in range(one.shape[0]) if asks[g].sum() and _image(one, g) == image]
    at_queries, at_keys = _places(one.queries_at), _places(one.keys_at)
    plain, every = keep / keep.sum(), np.full(len(keep), 1 / len(keep))
    sums = {"lift": np.zeros((heads, 3, 3)), "even": np.zeros((3, 3))}
    found = {name: np.zeros(heads) for name in ("dense", "plain", "matched", "distance")}
    found |= {name: np.zeros(heads) for name in ("entropy", "self", "prefix", "outlier")}
    chance = {"dense": 0.0, "plain": 0.0}
    cell = sum(one.keys_at.own.cell) / 2
    for g in mine:
        cover = asked[g].sum(1)  # patches under each key
        patches = [j for j in range(one.shape[3]) if cover[j] > 0]
        spread = {name: asked[g] @ x / np.maximum(cover, 1e-30) for name, x in (
            ("p", p), ("keep", keep.astype(float)),
            *((v, (group == v) * keep) for v in range(3)),
        )}  # fmt: skip
        for i in range(one.shape[2]):
            weight, even_weight = asks[g][i] @ p, asks[g][i] @ plain
            by = [asks[g][i] @ (p * (group == u)) for u in range(3)]
            if asks[g][i].sum() == 0:
                continue
            visible = [j for j in patches if attention[g, :, i, j].max() > 1e-18]
            for v in range(3):
                share = sum(spread[v][j] for j in visible) / sum(spread["keep"][j] for j in visible)
                for u in range(3):
                    sums["even"][u, v] += by[u] * share
            even = sum(spread["p"][j] for j in visible) / sum(spread["keep"][j] for j in visible)
            chance["dense"] += weight * even
            chance["plain"] += even_weight * even
            away = {j: math.dist(at_queries[g][i], at_keys[g][j]) for j in patches}
            ring = {j: round(away[j] / cell) for j in patches}
            as_far = {
                j: np.mean([spread["p"][k] for k in patches if ring[k] == ring[j]]) for j in patches
            }
            for h in range(heads):
                row = attention[g, h, i]
                whole = sum(row[j] for j in patches)
                kept = sum(row[j] * spread["keep"][j] for j in patches)
                for v in range(3):
                    given = sum(row[j] * spread[v][j] for j in patches) / kept
                    for u in range(3):
                        sums["lift"][h, u, v] += by[u] * given
                dense = sum(row[j] * spread["p"][j] for j in patches) / kept
                found["dense"][h] += weight * dense
                found["plain"][h] += even_weight * dense
                alike = sum(row[j] / whole * as_far[j] for j in patches)
                found["matched"][h] += weight * alike
                shares = [row[j] / whole for j in patches]
                found["distance"][h] += even_weight * sum(row[j] / whole * away[j] for j in patches)
                found["entropy"][h] -= even_weight * sum(a * math.log(a) for a in shares if a > 0)
                if asks[g].shape == asked[g].shape:
                    found["self"][h] += even_weight * row[i] / whole
                found["prefix"][h] += even_weight * (1 - whole / row.sum())
                found["outlier"][h] += (asks[g][i] @ every) * (1 - kept / whole)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = np.where(sums["even"] > 1e-9, sums["lift"] / sums["even"], np.nan)
    return {
        "lift": lift,
        "alignment": found["dense"] / chance["dense"],
        "alignment_plain": found["plain"] / chance["plain"],
        "alignment_matched": found["dense"] / found["matched"],
        "distance": found["distance"],
        "entropy": found["entropy"],
        "self_attention": found["self"],
        "prefix_mass": found["prefix"],
        "outlier_mass": found["outlier"],
    }


def class_alignment(taken: AttentionRecord, image: int, p: np.ndarray) -> list[np.ndarray]:
    """Of models that attend over all tokens in order: P sum_j A'_cj p_j, a row a site."""
    made = []
    for one in taken.sites:
        row = one.attention(slice(0, 1))[image, :, 0].double().numpy()[:, taken.grid.prefix :]
        made.append(len(p) * (row / row.sum(1, keepdims=True)) @ p)
    return made


def _image(one: SiteRecord, group: int) -> int:
    return group if one.queries_at.image is None else int(one.queries_at.image[group])


def _parts(place, grid) -> np.ndarray:
    """What part of each common patch lies in each token of a group: (G, n, P)."""
    columns = [
        place.spread(grid.add_prefix(torch.eye(grid.patches, dtype=torch.float64)[j]).expand(
            place.batch, -1
        )).numpy()
        for j in range(grid.patches)
    ]  # fmt: skip
    return np.stack(columns, axis=-1)


def _places(place) -> np.ndarray:
    """Centres (G, n, 2) of tokens, pixels; NaN for what is no patch."""
    own = place.own
    centres = np.concatenate([np.full((own.prefix, 2), np.nan), own.centers().numpy()])
    groups = place.batch if place.image is None else len(place.image)
    if place.token is None:
        return np.broadcast_to(centres, (groups, *centres.shape))
    padded = np.concatenate([centres, np.full((1, 2), np.nan)])
    return padded[place.token.numpy()]
