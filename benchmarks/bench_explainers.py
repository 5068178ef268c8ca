"""Time and memory of every explainer, beside a forward and a backward pass.

    python -m benchmarks.bench_explainers [--tokens 197,1370] [--repeats 3]

Measured as `bench_attribution` does: ways take turns in one process to be timed, each has a process
of its own for its peak of memory. Explainers run with their defaults; those that ask the model
about many changed copies of the image (Captum's on pixels, transition attention) take long by
nature and are timed at the smallest number of tokens alone. `dense-rollout` is rollout by its
definition: every layer's matrix kept, matrices multiplied.
The result goes to benchmarks/results/explainers.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measuring
from benchmarks.measuring import TARGET, Ways
from semattn.explain import explainers

RESULTS = Path(__file__).parent / "results" / "explainers.json"
MANY = ("integrated-gradients", "smooth-grad", "occlusion", "transition-attention")
NAMES = {
    "forward": "forward",
    "backward": "forward + backward",
    "dense-rollout": "rollout, N x N",
} | {name: name for name in explainers}


def ways(model: nn.Module) -> Ways:
    """Each way, as a function of the images."""

    def explain(name: str) -> Any:
        return lambda x: explainers[name]().attribute(model, x, target=TARGET)

    return (
        measuring.forward_and_backward(model)
        | {"dense-rollout": lambda x: dense_rollout(model, x)}
        | {name: explain(name) for name in explainers}
    )


def dense_rollout(model: nn.Module, x: Tensor) -> Tensor:
    """Rollout by matrices, over unfused attention."""
    kept: list[Tensor] = []
    switched = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    hooks = [
        module.attn_drop.register_forward_hook(lambda _m, _i, output: kept.append(output))
        for module in switched
    ]
    for module in switched:
        module.fused_attn = False
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook, module in zip(hooks, switched, strict=True):
            hook.remove()
            module.fused_attn = True
    whole = torch.eye(kept[0].shape[-1])
    for attention in kept:
        mixed = 0.5 * attention.mean(dim=1) + 0.5 * torch.eye(attention.shape[-1])
        whole = mixed / mixed.sum(dim=-1, keepdim=True) @ whole
    return whole[:, 0, 1:]


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """The whole benchmark."""
    rows = []
    for tokens in all_tokens:
        chosen = [name for name in NAMES if tokens == min(all_tokens) or name not in MANY]
        seconds = measuring.measure_times(tokens, repeats, ways, chosen)
        memory = {name: measuring.measure_memory(__spec__.name, tokens, name, 1) for name in chosen}
        base = (seconds["backward"], memory["backward"])
        rows += [
            measuring.row(tokens, NAMES[name], seconds[name], memory[name], base) for name in chosen
        ]
    caption = (
        "ViT-S/14, float32, batch 1, one photograph, defaults. Median of "
        f"{repeats} rounds; memory is the peak over the loaded model; ratios are to forward + "
        f"backward. {measuring.versions()} Made by `python -m benchmarks.bench_explainers`."
    )
    return measuring.result(rows, caption)


def main() -> None:
    """Run the benchmark, or measure one peak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", default="197,1370", help="numbers of tokens, by commas")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of timing (3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--peak", choices=list(NAMES), help="print one peak in MiB and stop")
    options = parser.parse_args()
    tokens = [int(number) for number in options.tokens.split(",")]
    if options.peak:
        print(measuring.peak_over_model(tokens[0], ways, options.peak))
        return
    measuring.write(run(tokens, options.repeats), options.out)


if __name__ == "__main__":
    main()
