"""Time and memory of every explainer relative to a forward and a backward pass.

    python -m benchmarks.studies.cost.explainers [--tokens 197,1370] [--repeats 3]

Measured as in `bench_attribution`: functions are timed in turn in one process, the peak memory of
each is measured in its own process. Explainers run with their defaults. Those that evaluate many
perturbed images (Captum's on pixels, transition attention) are timed at the smallest number of
tokens only. `dense-rollout` is rollout by its definition: every layer's attention matrix is kept,
and the matrices are multiplied. The result is written to benchmarks/results/explainers.json.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from benchmarks.studies.cost import measuring
from benchmarks.studies.cost.measuring import TARGET, Calls
from semattn.explain import explainers

RESULTS = RESULTS_DIR / "explainers.json"
SLOW = ("integrated-gradients", "smooth-grad", "occlusion", "transition-attention")
NAMES = {
    "forward": "forward",
    "backward": "forward + backward",
    "dense-rollout": "rollout, N x N",
} | {name: name for name in explainers}


def calls(model: nn.Module) -> Calls:
    """Return the functions to measure, by name."""

    def explain(name: str) -> Any:
        return lambda x: explainers[name]().attribute(model, x, target=TARGET)

    return (
        measuring.forward_and_backward(model)
        | {"dense-rollout": lambda x: dense_rollout(model, x)}
        | {name: explain(name) for name in explainers}
    )


def dense_rollout(model: nn.Module, x: Tensor) -> Tensor:
    """Return rollout from the full attention matrices, without fused attention."""
    attentions: list[Tensor] = []
    modules = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    hooks = [
        module.attn_drop.register_forward_hook(lambda _m, _i, output: attentions.append(output))
        for module in modules
    ]
    for module in modules:
        module.fused_attn = False
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook, module in zip(hooks, modules, strict=True):
            hook.remove()
            module.fused_attn = True
    rollout = torch.eye(attentions[0].shape[-1])
    for attention in attentions:
        transition = 0.5 * attention.mean(dim=1) + 0.5 * torch.eye(attention.shape[-1])
        rollout = transition / transition.sum(dim=-1, keepdim=True) @ rollout
    return rollout[:, 0, 1:]


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """Compute the table."""
    rows = []
    for tokens in all_tokens:
        names = [name for name in NAMES if tokens == min(all_tokens) or name not in SLOW]
        seconds = measuring.measure_times(tokens, repeats, calls, names)
        memory = {name: measuring.measure_memory(__spec__.name, tokens, name, 1) for name in names}
        base = (seconds["backward"], memory["backward"])
        rows += [
            measuring.row(tokens, NAMES[name], seconds[name], memory[name], base) for name in names
        ]
    caption = (
        "ViT-S/14, float32, batch 1, one photograph, defaults. Median of "
        f"{repeats} rounds; memory is the peak over the loaded model; ratios are to forward + "
        f"backward. {measuring.versions()} Made by `python -m benchmarks.studies.cost.explainers`."
    )
    return measuring.result(rows, caption)


if __name__ == "__main__":
    measuring.main(__doc__, run, calls, list(NAMES), RESULTS, tokens="197,1370", repeats=3)
