"""Cost of finding the token layout of a model: once for each input shape, then none.

    python -m benchmarks.studies.cost.layout [--other CHECKOUT] [--rounds 7]

Measures, for a ViT-S with 197 and with 1,370 tokens and one image, the CPU seconds of a forward
pass, of the pass that finds the layout, and of `SIFTPatchInterrelation.patch_map` with the layout
known. With --other, the same map is also timed with the code of another checkout, in turn, and the
ratio of the medians is given. CPU seconds of one thread are counted, since other processes affect
them little. The result is written to benchmarks/results/layout_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Not imported from benchmarks: a worker runs this file with the package of another checkout.
ROOT = Path(__file__).resolve().parents[3]
RESULT = ROOT / "benchmarks" / "results" / "layout_cost.json"
MODELS = {197: ("vit_small_patch16_224", 224), 1370: ("vit_small_patch14_dinov2", 518)}


def worker(tokens: int) -> None:
    """Compute one map for each line of standard input and print its CPU seconds."""
    import timm
    import torch

    from semattn import SIFTPatchInterrelation

    torch.set_num_threads(1)
    name, size = MODELS[tokens]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    x = torch.rand(1, 3, size, size)
    explainer = SIFTPatchInterrelation(model, density="uniform")
    explainer.patch_map(x, target=1)
    explainer.patch_map(x, target=1)
    for _ in sys.stdin:
        start = time.process_time()
        explainer.patch_map(x, target=1)
        print(time.process_time() - start, flush=True)


def passes(tokens: int, rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of a forward pass and of the pass that finds the layout."""
    import timm
    import torch

    from semattn.attention.layout_pass import layout_pass
    from semattn.attention.model_call import ModelCall

    torch.set_num_threads(1)
    name, size = MODELS[tokens]
    model = timm.create_model(name, num_classes=10).eval()
    x = torch.rand(1, 3, size, size)
    call = ModelCall.of(x)
    seconds: dict[str, list[float]] = {"forward": [], "layout": []}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for kind, function in (
                ("forward", lambda: model(x)), ("layout", lambda: layout_pass(model, call)),
            ):  # fmt: skip
                start = time.process_time()
                function()
                seconds[kind].append(time.process_time() - start)
    return {kind: statistics.median(values[1:]) for kind, values in seconds.items()}


def maps(tokens: int, checkouts: list[Path], rounds: int) -> list[float]:
    """Return the median CPU seconds of one map with each checkout, measured in turn."""
    workers = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        )
        for checkout in checkouts
    ]
    seconds: list[list[float]] = [[] for _ in workers]
    for _ in range(rounds):
        for process, values in zip(workers, seconds, strict=True):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            values.append(float(process.stdout.readline()))
    for process in workers:
        process.communicate()
    return [statistics.median(values) for values in seconds]


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--other", type=Path, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    result: dict[str, Any] = {}
    for tokens in MODELS:
        row: dict[str, Any] = passes(tokens, options.rounds)
        checkouts = [ROOT, *([options.other.resolve()] if options.other else [])]
        row["map"], *others = maps(tokens, checkouts, options.rounds)
        row["layout_to_forward"] = row["layout"] / row["forward"]
        if others:
            row["other_map"] = others[0]
            row["map_ratio"] = row["map"] / others[0]
        result[str(tokens)] = {name: round(value, 4) for name, value in row.items()}
        print(tokens, result[str(tokens)], flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
