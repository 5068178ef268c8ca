"""Cost of a step with each target: ``python -m benchmarks.studies.pretraining.target_cost``.

CPU seconds of runs that were made at different times differ with the load of the computer: two
threads of a core slow each other. Here the steps of all arms alternate, and ratios to pixels are
computed within a round. A step is targets, weights, masks, forward and backward pass and AdamW on
crops that exist already; crops cost the same in all arms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from . import acceleration, pretraining_data
from .acceleration import BETA, LEAST, RATIO, SMALL
from .target_arms import TARGET_ARMS, fit_arm_words, head_length
from .target_epochs import SeedEpochs
from .target_training import batch_loss, model_of, optimizer_of, set_rate, unit_images

BASE = "pixels"


def measure(
    epochs: SeedEpochs, sizes: dict[str, int], batch_size: int, rounds: int
) -> dict[str, list[float]]:
    """Return the CPU seconds of one step by arm and round, after two rounds of warm-up."""
    size, patch_size = epochs.data.grid.image_size[0], int(epochs.data.grid.cell[0])
    epochs.detect_keypoints()
    epoch = epochs.epoch(0, with_counts=True)
    rows = slice(0, batch_size)
    steps = {}
    for name, arm in TARGET_ARMS.items():
        words = fit_arm_words(arm, unit_images(epoch.pixels), patch_size, 0)
        outputs = head_length(arm, patch_size, words)
        model = model_of(sizes, size, patch_size, RATIO, 0, outputs).train()
        masking = acceleration.ARMS[arm.masks].masking(RATIO, 0, 1, BETA)
        steps[name] = (arm, model, optimizer_of(model), masking, words)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, (arm, model, optimizer, masking, words) in steps.items():
            start = time.process_time()
            chance = torch.Generator().manual_seed(turn)
            set_rate(optimizer, 1e-4)
            batch_loss(model, arm, epoch, rows, masking, 0, chance, words).backward()
            optimizer.step()
            optimizer.zero_grad()
            if turn > 1:
                seconds[name].append(time.process_time() - start)
    return seconds


def cost_table(seconds: dict[str, list[float]], setting: str) -> dict[str, Any]:
    """Return the table of step times and of their ratios to pixels."""
    rows = []
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds[BASE], strict=True)]
        rows.append({
            "arm": name, "step_ms": 1e3 * statistics.median(values),
            "ratio": statistics.median(ratios),
        })  # fmt: skip
    columns = [
        {"key": "arm", "title": "target"},
        {"key": "step_ms", "title": "step, ms", "format": ".1f"},
        {"key": "ratio", "title": f"step ratio to {BASE}", "format": ".3f"},
    ]
    caption = (
        f"{setting} Medians of {len(seconds[BASE])} rounds, CPU time; all arms alternate in a "
        "round. Without crops, which all arms need, and without keypoints, which are detected "
        "once. Made by `python -m benchmarks.studies.pretraining.target_cost`."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS_DIR / "pretraining_targets_cost.json")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds on synthetic images")
    options = parser.parse_args()
    if options.smoke:
        pictures = pretraining_data.synthetic(32, pictures=32, train=3, test=3).pictures
        seconds = measure(SeedEpochs(pictures, 32, 8, 0), LEAST, 8, options.rounds)
    else:
        data = pretraining_data.cifar(size=64, pictures=256, train=10, test=10, split="validation")
        seconds = measure(SeedEpochs(data.pictures, 64, 8, 0), SMALL, 32, options.rounds)
    table = cost_table(seconds, "32 images of 64 pixels, small model.")
    write_text(options.out, json.dumps(table, indent=1) + "\n")
    for row in table["rows"]:
        print(f"{row['arm']:<40} {row['step_ms']:7.1f} ms  {row['ratio']:.3f}x")


if __name__ == "__main__":
    main()
