"""Time and memory of the interrelation analysis, beside the forward pass: `semattn analyze`.

    python -m benchmarks.bench_analysis [--tokens 257,1370] [--repeats 5]

What one more image of a set costs, keypoints, three nulls and intervals included: the time of an
analysis of 2n images less that of n of them, over n. Forward passes and analyses take turns, in
batches of the same size, in one process; each has a process of its own for its peak of memory.
Times are taken on one thread, which tells how much there is to compute, and on all.
The result goes to benchmarks/results/analysis.json.
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
from benchmarks.measuring import Ways
from semattn.interrelation import analyze

RESULTS = Path(__file__).parent / "results" / "analysis.json"
# tokens: (n, images in the model at once)
SIZES = {257: (32, 4), 1370: (6, 2), 5330: (2, 1)}
NAMES = {"forward": "forward", "analysis": "analysis"}


def images(x: Tensor, count: int) -> Tensor:
    """So many pictures that differ: the photograph, rolled round."""
    return torch.cat([x.roll(29 * number, -1) for number in range(count)])


def ways(model: nn.Module) -> Ways:
    """Each way, as a function of one image, for its memory."""
    return measuring.forward_and_backward(model) | {
        "analysis": lambda x: analyze(model, images(x, 4), batch_size=1, pool=3)
    }


def marginal(tokens: int, repeats: int) -> dict[str, float]:
    """Median seconds of one more image: what a run over 2n images takes beyond one over n."""
    model, x = measuring.load(tokens)
    count, batch = SIZES.get(tokens, (1, 1))
    many = images(x, 2 * count)

    def forward(through: int) -> None:
        with torch.no_grad():
            for start in range(0, through, batch):
                model(many[start : start + batch])

    def analysis(through: int) -> None:
        analyze(model, many[:through], batch_size=batch, pool=min(count, 32))

    rounds: dict[str, list[float]] = {"forward": [], "analysis": []}
    for turn in range(repeats + 1):
        for name, way in (("forward", forward), ("analysis", analysis)):
            clock = [time.perf_counter()]
            for through in (count, 2 * count):
                way(through)
                clock.append(time.perf_counter())
            if turn:
                rounds[name].append((clock[2] - 2 * clock[1] + clock[0]) / count)
        print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in rounds.items()}


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """The whole benchmark."""
    rows = []
    for tokens in all_tokens:
        memory = {name: measuring.measure_memory(__spec__.name, tokens, name, 1) for name in NAMES}
        for threads in dict.fromkeys((1, torch.get_num_threads())):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            seconds = marginal(tokens, repeats)
            torch.set_num_threads(before)
            base = (seconds["forward"], memory["forward"])
            rows += [
                measuring.row(tokens, NAMES[name], seconds[name], memory[name], base)
                | {"threads": threads}
                for name in NAMES
            ]
    caption = (
        "ViT-S/14, float32: one more image of a set, keypoints, nulls and intervals included. "
        f"Median of {repeats} rounds; memory is the peak over the loaded model, of a run over four "
        "images for the analysis; ratios are to forward. "
        f"{measuring.versions()} Made by `python -m benchmarks.bench_analysis`."
    )
    made = measuring.result(rows, caption)
    made["columns"].insert(1, {"key": "threads", "title": "threads", "format": "d"})
    return made


def main() -> None:
    """Run the benchmark, or measure one peak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", default="257,1370", help="numbers of tokens, by commas")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of timing (5)")
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
