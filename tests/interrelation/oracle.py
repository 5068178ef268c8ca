"""Slow float64 reference implementation of the interrelation metrics, patch by patch."""

from __future__ import annotations

import math

import numpy as np
import torch

from semattn.attention import AttentionRecord, SiteRecord


def expected_metrics(
    record: AttentionRecord, image: int, p: np.ndarray, strata: np.ndarray, keep: np.ndarray
):
    """Return the metrics of one image, a dict for each self-attention site.

    `p` (P,) is the concentration, `strata` (P,) the strata, `keep` (P,) the patches that count.
    """
    return [
        _site_metrics(site, record, image, p * keep / (p * keep).sum(), strata, keep)
        for site in record.sites
        if site.site.kind == "self"
    ]


def _site_metrics(site: SiteRecord, record, image, p, strata, keep):
    grid = record.grid
    heads = site.shape[1]
    attention = site.attention().double().numpy()
    query_overlaps, key_overlaps = (
        _token_overlaps(site.queries_at, grid),
        _token_overlaps(site.keys_at, grid),
    )
    groups = [
        g
        for g in range(site.shape[0])
        if query_overlaps[g].sum() and _image_of_group(site, g) == image
    ]
    query_centres, key_centres = _centres(site.queries_at), _centres(site.keys_at)
    kept_weights, even_weights = keep / keep.sum(), np.full(len(keep), 1 / len(keep))
    sums = {"lift": np.zeros((heads, 3, 3)), "even": np.zeros((3, 3))}
    sums_by_head = {name: np.zeros(heads) for name in ("dense", "plain", "matched", "distance")}
    sums_by_head |= {name: np.zeros(heads) for name in ("entropy", "self", "prefix", "outlier")}
    chance = {"dense": 0.0, "plain": 0.0}
    cell = sum(site.keys_at.call_grid.cell) / 2
    for g in groups:
        coverage = key_overlaps[g].sum(1)  # patches under each key
        patches = [j for j in range(site.shape[3]) if coverage[j] > 0]
        spread = {name: key_overlaps[g] @ values / np.maximum(coverage, 1e-30) for name, values in (
            ("p", p), ("keep", keep.astype(float)),
            *((stratum, (strata == stratum) * keep) for stratum in range(3)),
        )}  # fmt: skip
        for i in range(site.shape[2]):
            weight, even_weight = query_overlaps[g][i] @ p, query_overlaps[g][i] @ kept_weights
            query_mass = [query_overlaps[g][i] @ (p * (strata == u)) for u in range(3)]
            if query_overlaps[g][i].sum() == 0:
                continue
            visible = [j for j in patches if attention[g, :, i, j].max() > 1e-18]
            for v in range(3):
                share = sum(spread[v][j] for j in visible) / sum(spread["keep"][j] for j in visible)
                for u in range(3):
                    sums["even"][u, v] += query_mass[u] * share
            even = sum(spread["p"][j] for j in visible) / sum(spread["keep"][j] for j in visible)
            chance["dense"] += weight * even
            chance["plain"] += even_weight * even
            distance = {j: math.dist(query_centres[g][i], key_centres[g][j]) for j in patches}
            ring = {j: round(distance[j] / cell) for j in patches}
            matched_p = {
                j: np.mean([spread["p"][k] for k in patches if ring[k] == ring[j]]) for j in patches
            }
            for h in range(heads):
                row = attention[g, h, i]
                patch_mass = sum(row[j] for j in patches)
                kept_mass = sum(row[j] * spread["keep"][j] for j in patches)
                for v in range(3):
                    share_of_row = sum(row[j] * spread[v][j] for j in patches) / kept_mass
                    for u in range(3):
                        sums["lift"][h, u, v] += query_mass[u] * share_of_row
                dense_share = sum(row[j] * spread["p"][j] for j in patches) / kept_mass
                sums_by_head["dense"][h] += weight * dense_share
                sums_by_head["plain"][h] += even_weight * dense_share
                matched = sum(row[j] / patch_mass * matched_p[j] for j in patches)
                sums_by_head["matched"][h] += weight * matched
                shares = [row[j] / patch_mass for j in patches]
                sums_by_head["distance"][h] += even_weight * sum(
                    row[j] / patch_mass * distance[j] for j in patches
                )
                sums_by_head["entropy"][h] -= even_weight * sum(
                    a * math.log(a) for a in shares if a > 0
                )
                if query_overlaps[g].shape == key_overlaps[g].shape:
                    sums_by_head["self"][h] += even_weight * row[i] / patch_mass
                sums_by_head["prefix"][h] += even_weight * (1 - patch_mass / row.sum())
                sums_by_head["outlier"][h] += (query_overlaps[g][i] @ even_weights) * (
                    1 - kept_mass / patch_mass
                )
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = np.where(sums["even"] > 1e-9, sums["lift"] / sums["even"], np.nan)
    return {
        "lift": lift,
        "alignment": sums_by_head["dense"] / chance["dense"],
        "alignment_plain": sums_by_head["plain"] / chance["plain"],
        "alignment_matched": sums_by_head["dense"] / sums_by_head["matched"],
        "distance": sums_by_head["distance"],
        "entropy": sums_by_head["entropy"],
        "self_attention": sums_by_head["self"],
        "prefix_mass": sums_by_head["prefix"],
        "outlier_mass": sums_by_head["outlier"],
    }


def class_alignment(record: AttentionRecord, image: int, p: np.ndarray) -> list[np.ndarray]:
    """Return P sum_j A'_cj p_j for each site of a model that attends over all tokens in order."""
    alignments = []
    for site in record.sites:
        row = site.attention(slice(0, 1))[image, :, 0].double().numpy()[:, record.grid.prefix :]
        alignments.append(len(p) * (row / row.sum(1, keepdims=True)) @ p)
    return alignments


def _image_of_group(site: SiteRecord, group: int) -> int:
    return group if site.queries_at.image is None else int(site.queries_at.image[group])


def _token_overlaps(placement, grid) -> np.ndarray:
    """Return the part of each patch of the grid that each token of a group covers: (G, n, P)."""
    columns = [
        placement.to_call(grid.add_prefix(torch.eye(grid.patches, dtype=torch.float64)[j]).expand(
            placement.batch, -1
        )).numpy()
        for j in range(grid.patches)
    ]  # fmt: skip
    return np.stack(columns, axis=-1)


def _centres(placement) -> np.ndarray:
    """Return the centres (G, n, 2) of tokens in pixels; NaN for a token that is not a patch."""
    layout = placement.call_grid
    centres = np.concatenate([np.full((layout.prefix, 2), np.nan), layout.centers().numpy()])
    groups = placement.batch if placement.image is None else len(placement.image)
    if placement.token is None:
        return np.broadcast_to(centres, (groups, *centres.shape))
    padded = np.concatenate([centres, np.full((1, 2), np.nan)])
    return padded[placement.token.numpy()]
