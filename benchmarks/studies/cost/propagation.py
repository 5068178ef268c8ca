"""Time and memory of relevance propagation relative to a forward and a backward pass.

    python -m benchmarks.studies.cost.propagation [--tokens 197,1370] [--repeats 3]

Measured as in `benchmarks.studies.cost.explainers`, but in seconds of the processor, which other
processes on the machine do not lengthen. hilrp needs an environment of its own, see
docs/benchmarks.md; without it, its row is left out. The first call, which also computes the token
layout, is a warm-up. The result is written to benchmarks/results/propagation_cost.json.
"""

from __future__ import annotations

import importlib.util
import time
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from benchmarks.studies.cost import measuring
from benchmarks.studies.cost.measuring import TARGET, Calls
from semattn import AttnLRP, SIFTPatchInterrelation
from semattn.evaluation.peer_methods import put_back

RESULTS = RESULTS_DIR / "propagation_cost.json"
HILRP = "hilrp"
NAMES = {
    "forward": "forward",
    "backward": "forward + backward",
    "sift-patch-interrelation": "sift-patch-interrelation",
    "gamma-pixels": "attn-lrp, gamma, pixels",
    "gamma-patches": "attn-lrp, gamma, patches",
    "epsilon-pixels": "attn-lrp, epsilon, pixels",
    "epsilon-patches": "attn-lrp, epsilon, patches",
    HILRP: "AttnLRP of hilrp, gamma, pixels",
}
WITH_MEMORY = ("backward", "sift-patch-interrelation", "gamma-pixels", "epsilon-pixels", HILRP)
OPTIONS = {
    f"{preset}-{level}": {"preset": "signed" if preset == "gamma" else preset, "level": level}
    for preset in ("gamma", "epsilon")
    for level in ("pixels", "patches")
}


def calls(model: nn.Module) -> Calls:
    """Return the functions to measure, by name."""
    model.requires_grad_(False)
    explained = {
        name: partial(AttnLRP(**options).attribute, model, target=TARGET)
        for name, options in OPTIONS.items()
    }
    ours = partial(SIFTPatchInterrelation().attribute, model, target=TARGET)
    peers = {HILRP: partial(by_hilrp, model)} if has_hilrp() else {}
    return (
        measuring.forward_and_backward(model)
        | {"sift-patch-interrelation": ours}
        | explained
        | peers
    )


def has_hilrp() -> bool:
    """Return whether hilrp is installed."""
    return importlib.util.find_spec(HILRP) is not None


def by_hilrp(model: nn.Module, x: Tensor) -> Tensor:
    """Return hilrp's map with the rules of AttnLRP, and undo its patches."""
    import hilrp
    import hilrp.vit_lxt as port
    import zennit.core

    with put_back([port, zennit.core.BasicHook, *port.VIT_PATCH_MAP]):
        result = hilrp.attribute(model, x, target=TARGET, arch="vit", attn_mode="attnlrp")
    relevance: Tensor = result["pixel_map"]
    return relevance


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """Compute the table."""
    names = [name for name in NAMES if name != HILRP or has_hilrp()]
    rows = []
    for tokens in all_tokens:
        seconds = measuring.measure_times(tokens, repeats, calls, names, time.process_time)
        memory = {
            name: measuring.measure_memory(__spec__.name, tokens, name, 1)
            for name in names
            if name in WITH_MEMORY
        }
        base = (seconds["backward"], memory["backward"])
        rows += [
            measuring.row(tokens, NAMES[name], seconds[name], memory.get(name), base)
            for name in names
        ]
    caption = (
        f"ViT-S/14, float32, batch 1, one photograph. Median of {repeats} "
        f"round{'s' * (repeats > 1)}, seconds of the processor; memory is the peak over the loaded "
        f"model; ratios are to forward + backward. {measuring.versions()} Made by "
        "`python -m benchmarks.studies.cost.propagation`."
    )
    return measuring.result(rows, caption)


if __name__ == "__main__":
    measuring.main(__doc__, run, calls, list(NAMES), RESULTS, tokens="197,1370", repeats=3)
