"""What a prompted forward pass costs beside a plain one: python -m benchmarks.bench_prompting_cost.

    python -m benchmarks.bench_prompting_cost [--tokens 257,1370] [--repeats 9]

ViT-S/14 on batches of photographs, prompted by weights that are there, by densities of the pictures
(keypoints included) and by the default. The ways take turns in one process. The result goes to
benchmarks/results/prompting_cost.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measuring
from semattn.prompting import AttentionPrompter

RESULTS = Path(__file__).parent / "results" / "prompting_cost.json"
BATCH = 8
PLAIN = "forward"
WAYS = {
    "weights given": {"density": "weights"},
    "weights given, class queries": {"density": "weights", "queries": "class"},
    "weights given, all layers": {"density": "weights", "layers": "all"},
    "SIFT count": {"density": "count"},
    "SIFT distinct-size-surround": {"density": "distinct-size-surround"},
    "interrelation (default)": {"density": "interrelation"},
}


def ways(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Each way, as a function of nothing."""
    first = AttentionPrompter(model)
    weights = torch.rand(BATCH, first.grid(x).patches, generator=torch.manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def prompted(options: dict[str, Any]) -> Any:
        given = {
            **options,
            "density": weights if options["density"] == "weights" else options["density"],
        }
        prompter = AttentionPrompter(model, **given)

        def call() -> None:
            with torch.no_grad():
                prompter(x)

        return call

    return {PLAIN: forward} | {name: prompted(options) for name, options in WAYS.items()}


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """The whole benchmark: medians of ratios taken round by round."""
    rows = []
    for tokens in all_tokens:
        model, one = measuring.load(tokens)
        x = torch.cat([one.roll(29 * number, -1) for number in range(BATCH)])
        todo = ways(model, x)
        taken: dict[str, list[float]] = {name: [] for name in todo}
        for turn in range(repeats + 1):
            for name, way in todo.items():
                start = time.perf_counter()
                way()
                if turn:
                    taken[name].append(time.perf_counter() - start)
            print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
        for name, seconds in taken.items():
            ratios = [mine / plain for mine, plain in zip(seconds, taken[PLAIN], strict=True)]
            rows.append(
                {
                    "tokens": tokens, "way": name, "seconds": statistics.median(seconds),
                    "time_ratio": statistics.median(ratios), "mib": None, "memory_ratio": None,
                }
            )  # fmt: skip
    caption = (
        f"ViT-S/14, float32, batches of {BATCH} photographs, without gradients: a prompted forward "
        "pass (the last third of the layers, unless it says so; keypoints found in it where they "
        f"are needed) beside a plain one. Median of {repeats} rounds in which the ways take turns; "
        f"the ratio is the median of the rounds' ratios. {measuring.versions()} Made by "
        "`python -m benchmarks.bench_prompting_cost`."
    )
    made = measuring.result(rows, caption)
    made["columns"] = made["columns"][:4]
    return made


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", default="257,1370", help="numbers of tokens, by commas")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of timing (9)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result goes")
    options = parser.parse_args()
    tokens = [int(number) for number in options.tokens.split(",")]
    measuring.write(run(tokens, options.repeats), options.out)


if __name__ == "__main__":
    main()
