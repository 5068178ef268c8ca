"""Time and memory of the interrelation analysis relative to the forward pass (`semattn analyze`).

    python -m benchmarks.studies.cost.analysis [--tokens 257,1370] [--repeats 5]

The time of one image is the marginal time: that of an analysis of 2n images minus that of n images,
divided by n, with keypoints, three null distributions and intervals. Forward passes and analyses
are timed in turn, in batches of the same size, on one thread and on all threads. The peak memory of
each is measured in its own process. The result is written to benchmarks/results/analysis.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from benchmarks.studies.cost import measuring
from benchmarks.studies.cost.measuring import Calls
from semattn.interrelation import analyze

RESULTS = RESULTS_DIR / "analysis.json"
# tokens: (n, images in the model at once)
SIZES = {257: (32, 4), 1370: (6, 2), 5330: (2, 1)}
NAMES = {"forward": "forward", "analysis": "analysis"}


def images(x: Tensor, count: int) -> Tensor:
    """Return `count` different images: the photograph, shifted cyclically."""
    return torch.cat([x.roll(29 * number, -1) for number in range(count)])


def calls(model: nn.Module) -> Calls:
    """Return the functions of one image whose memory is measured."""
    return measuring.forward_and_backward(model) | {
        "analysis": lambda x: analyze(model, images(x, 4), batch_size=1, pool_size=3)
    }


def marginal(tokens: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of one more image: time of 2n images minus time of n, over n."""
    model, x = measuring.load(tokens)
    count, batch = SIZES.get(tokens, (1, 1))
    all_images = images(x, 2 * count)

    def forward(num_images: int) -> None:
        with torch.no_grad():
            for start in range(0, num_images, batch):
                model(all_images[start : start + batch])

    def analysis(num_images: int) -> None:
        analyze(model, all_images[:num_images], batch_size=batch, pool_size=min(count, 32))

    rounds: dict[str, list[float]] = {"forward": [], "analysis": []}
    for turn in range(repeats + 1):
        for name, call in (("forward", forward), ("analysis", analysis)):
            times = [time.perf_counter()]
            for num_images in (count, 2 * count):
                call(num_images)
                times.append(time.perf_counter())
            if turn:
                rounds[name].append((times[2] - 2 * times[1] + times[0]) / count)
        print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in rounds.items()}


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """Compute the table."""
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
        f"{measuring.versions()} Made by `python -m benchmarks.studies.cost.analysis`."
    )
    result = measuring.result(rows, caption)
    result["columns"].insert(1, {"key": "threads", "title": "threads", "format": "d"})
    return result


if __name__ == "__main__":
    measuring.main(__doc__, run, calls, list(NAMES), RESULTS, tokens="257,1370", repeats=5)
