"""Cost of a prompted forward pass: python -m benchmarks.studies.cost.prompter.

    python -m benchmarks.studies.cost.prompter [--tokens 257,1370] [--repeats 9]

ViT-S/14 on batches of photographs, prompted by given weights, by densities of the images (keypoint
detection included) and by the default. The variants are timed in turn in one process. The result is
written to benchmarks/results/prompting_cost.json.
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

from benchmarks import RESULTS_DIR
from benchmarks.studies.cost import measuring
from semattn.prompting import AttentionPrompter

RESULTS = RESULTS_DIR / "prompting_cost.json"
BATCH = 8
PLAIN = "forward"
PROMPTS = {
    "weights given": {"density": "weights"},
    "weights given, class queries": {"density": "weights", "queries": "class"},
    "weights given, all layers": {"density": "weights", "layers": "all"},
    "SIFT count": {"density": "count"},
    "SIFT distinct-size-surround": {"density": "distinct-size-surround"},
    "interrelation (default)": {"density": "interrelation"},
}


def calls(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Return the functions to time, by name."""
    first = AttentionPrompter(model)
    weights = torch.rand(BATCH, first.grid(x).patches, generator=torch.manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def prompted(options: dict[str, Any]) -> Any:
        arguments = {
            **options,
            "density": weights if options["density"] == "weights" else options["density"],
        }
        prompter = AttentionPrompter(model, **arguments)

        def call() -> None:
            with torch.no_grad():
                prompter(x)

        return call

    return {PLAIN: forward} | {name: prompted(options) for name, options in PROMPTS.items()}


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """Compute the table: medians of the ratios within a round."""
    rows = []
    for tokens in all_tokens:
        model, image = measuring.load(tokens)
        x = torch.cat([image.roll(29 * number, -1) for number in range(BATCH)])
        functions = calls(model, x)
        seconds_of: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(repeats + 1):
            for name, call in functions.items():
                start = time.perf_counter()
                call()
                if turn:
                    seconds_of[name].append(time.perf_counter() - start)
            print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
        for name, seconds in seconds_of.items():
            ratios = [
                prompted_seconds / plain_seconds
                for prompted_seconds, plain_seconds in zip(seconds, seconds_of[PLAIN], strict=True)
            ]
            rows.append(
                {
                    "tokens": tokens, "way": name, "seconds": statistics.median(seconds),
                    "time_ratio": statistics.median(ratios), "mib": None, "memory_ratio": None,
                }
            )  # fmt: skip
    caption = (
        f"ViT-S/14, float32, batches of {BATCH} photographs, without gradients: a prompted forward "
        "pass (last third of the layers by default; keypoint detection included) relative to a "
        f"plain one. Median of {repeats} interleaved rounds; "
        f"the ratio is the median of the rounds' ratios. {measuring.versions()} Made by "
        "`python -m benchmarks.studies.cost.prompter`."
    )
    result = measuring.result(rows, caption)
    result["columns"] = result["columns"][:4]
    return result


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
