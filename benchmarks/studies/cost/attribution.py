"""Time and memory of an attribution relative to a forward and a backward pass.

    python -m benchmarks.studies.cost.attribution [--tokens 197,1370,5330] [--repeats 7]

Compared for each number of tokens: a forward pass; forward and backward (the gradient of one logit
for the image, parameters frozen: the minimum of any gradient method); `SIFTPatchInterrelation` with
the class query and with all queries, SIFT included; and the same map from full N x N matrices
(fused attention off, every matrix and its gradient kept, as hook-based tools do).

Times are medians of rounds in which the functions are called in turn, in one process. Memory is the
peak of the resident set beyond the loaded model, of one call after one smaller warm-up call, in a
process of its own. The result is written to benchmarks/results/attribution.json.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from benchmarks.studies.cost import measuring
from benchmarks.studies.cost.measuring import PATCH, TARGET, Calls
from semattn import SIFTPatchInterrelation
from semattn.density import Scene, concentration, densities
from semattn.grid import PatchGrid
from semattn.images import pixels_of
from semattn.keypoints import detect

RESULTS = RESULTS_DIR / "attribution.json"
LONG = 5000  # tokens; fewer rounds from this number on
NAMES = {
    "forward": "forward",
    "backward": "forward + backward",
    "row": "SIFTPatchInterrelation, row form",
    "all": "SIFTPatchInterrelation, all queries",
    "dense": "the N x N way, class-token row",
}
NEEDED_GIB = {197: 1, 1370: 4, 5330: 18}  # GiB that the N x N matrices need, by number of tokens


def calls(model: nn.Module) -> Calls:
    """Return the functions to measure, by name."""

    def row(x: Tensor) -> Tensor:
        return SIFTPatchInterrelation(queries="class").attribute(model, x, target=TARGET)

    def all_queries(x: Tensor) -> Tensor:
        return SIFTPatchInterrelation(queries="all").attribute(model, x, target=TARGET)

    return measuring.forward_and_backward(model) | {
        "row": row,
        "all": all_queries,
        "dense": lambda x: dense_map(model, x),
    }


def dense_map(model: nn.Module, x: Tensor) -> Tensor:
    """Return the class-query map from all attention matrices and their gradients."""
    attentions: list[Tensor] = []

    def keep_attention(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        attentions.append(output)

    modules = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    hooks = [module.attn_drop.register_forward_hook(keep_attention) for module in modules]
    for module in modules:
        module.fused_attn = False
    try:
        model.requires_grad_(False)
        model(x.clone().requires_grad_())[:, TARGET].sum().backward()
    finally:
        for hook, module in zip(hooks, modules, strict=True):
            hook.remove()
            module.fused_attn = True
    side = x.shape[-1] // PATCH
    patch_grid = PatchGrid((side, side), (x.shape[-2], x.shape[-1]), (PATCH, PATCH), prefix=1)
    pixels = pixels_of(x, None)
    p = concentration(densities["count"](Scene(pixels, detect(pixels), patch_grid))).float()
    total = torch.zeros_like(p)
    for attention in attentions[len(attentions) // 2 :]:
        gradient = attention.grad
        assert gradient is not None
        weights = attention.detach()[:, :, 0, 1:]
        alignment = p.shape[1] * (weights * p[:, None]).sum(-1) / weights.sum(-1)
        total += (alignment[..., None] * (weights * gradient[:, :, 0, 1:]).relu()).sum(1)
    return patch_grid.upsample(total)


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """Compute the table."""
    rows, skipped = [], []
    for tokens in all_tokens:
        names = list(NAMES)
        if measuring.available_gib() < NEEDED_GIB.get(tokens, 18):
            names.remove("dense")
            skipped.append(tokens)
        rounds, processes = (repeats, 3) if tokens < LONG else (max(2, repeats // 2), 1)
        seconds = measuring.measure_times(tokens, rounds, calls, names)
        memory = {
            name: measuring.measure_memory(__spec__.name, tokens, name, processes) for name in names
        }
        base = (seconds["backward"], memory["backward"])
        rows += [
            measuring.row(tokens, label, seconds.get(name), memory.get(name), base)
            for name, label in NAMES.items()
        ]
    caption = (
        "ViT-S/14, float32, batch 1, one photograph; SIFT included in every map. Median of "
        f"{repeats} rounds ({max(2, repeats // 2)} above {LONG:,} tokens); memory is the peak over "
        f"the loaded model, median of 3 processes (1 above {LONG:,}); ratios are to forward + "
        f"backward. {measuring.versions()} Made by `python -m benchmarks.studies.cost.attribution`."
    )
    if skipped:
        caption += f" The N x N way at {skipped} tokens did not fit this machine's memory."
    return measuring.result(rows, caption)


if __name__ == "__main__":
    measuring.main(__doc__, run, calls, list(NAMES), RESULTS, tokens="197,1370,5330", repeats=7)
