"""Measure the time and the peak memory of functions that use a model: shared by the benchmarks.

Functions are timed in turn, in one process. The peak memory of each is measured in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semattn.utils.atomic_files import write_text

PATCH, TARGET = 14, 1
SMALL = 65  # tokens of the warm-up call before memory is measured

# Functions of the images, by name.
Calls = dict[str, Callable[[Tensor], Any]]
MakeCalls = Callable[[nn.Module], Calls]


def load(tokens: int) -> tuple[nn.Module, Tensor]:
    """Return a ViT-S/14 with random weights and a photograph that gives this number of tokens."""
    import timm
    from skimage.data import astronaut
    from skimage.transform import resize

    side = round((tokens - 1) ** 0.5) * PATCH
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", img_size=side, num_classes=12).eval()
    picture = resize(astronaut(), (side, side), anti_aliasing=True).astype(np.float32)
    return model, torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()


def forward_and_backward(model: nn.Module) -> Calls:
    """Return two functions: a forward pass, and the gradient of one logit for the image."""

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    def backward(x: Tensor) -> Tensor:
        model.requires_grad_(False)
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)[:, TARGET].sum(), x)
        return gradient

    return {"forward": forward, "backward": backward}


def measure_times(
    tokens: int,
    repeats: int,
    make: MakeCalls,
    names: Sequence[str],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each function; the first round is a warm-up.

    `clock` may be `time.process_time`, which other processes on the machine do not lengthen.
    """
    model, x = load(tokens)
    calls = {name: call for name, call in make(model).items() if name in names}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call(x)
            if turn:
                seconds[name].append(clock() - start)
        print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_over_model(tokens: int, make: MakeCalls, name: str) -> float:
    """Return the MiB that one call needs at its peak, beyond the loaded model; Linux only."""
    model, x = load(tokens)
    small, tiny = load(SMALL)
    make(small)[name](tiny)  # libraries and thread pools are not the method's memory
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := now
    before = memory_status("VmRSS")
    make(model)[name](x)
    return memory_status("VmHWM") - before


def memory_status(field: str) -> float:
    """Return a value of the memory of this process, such as VmRSS, MiB; Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status: expected a line {field}")


def measure_memory(benchmark: str, tokens: int, name: str, processes: int) -> float:
    """Return the median peak that runs of `python -m benchmark --peak name` print."""
    command = [sys.executable, "-m", benchmark, "--peak", name, "--tokens", str(tokens)]
    # The allocator returns freed memory at once, so that the resident set is the memory in use.
    environment = os.environ | {
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    peaks = [
        float(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
        for _ in range(processes)
    ]
    return statistics.median(peaks)


def available_gib() -> float:
    """Return the memory that is available to a process, GiB."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 2**20
    return 0.0


def row(
    tokens: int, label: str, seconds: float | None, memory: float | None, base: tuple[float, float]
) -> dict[str, Any]:
    """Return one table row; ratios are relative to `base`, the seconds and MiB of a reference."""
    return {
        "tokens": tokens,
        "way": label,
        "seconds": seconds,
        "time_ratio": None if seconds is None else seconds / base[0],
        "mib": memory,
        "memory_ratio": None if memory is None else memory / base[1],
    }


def result(rows: list[dict[str, Any]], caption: str) -> dict[str, Any]:
    """Return a result as `render_tables` reads it, with a description of the machine."""
    return {
        "caption": caption,
        "columns": [
            {"key": "tokens", "title": "tokens", "format": ",d"},
            {"key": "way", "title": "what is computed"},
            {"key": "seconds", "title": "seconds", "format": ".3f"},
            {"key": "time_ratio", "title": "time ratio", "format": ".2f"},
            {"key": "mib", "title": "peak MiB", "format": ",.0f"},
            {"key": "memory_ratio", "title": "memory ratio", "format": ".2f"},
        ],
        "rows": rows,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Return a description of the machine and of the installed versions."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def versions() -> str:
    """Return the end of a caption: number of threads and version of PyTorch."""
    count = torch.get_num_threads()
    return f"{count} thread{'' if count == 1 else 's'}, torch {torch.__version__.split('+')[0]}."


def write(table: dict[str, Any], out: Path) -> None:
    """Write a result atomically and print its ratios."""
    write_text(out, json.dumps(table, indent=1))
    for row in table["rows"]:
        ratio = "-" if row["time_ratio"] is None else f"{row['time_ratio']:.2f}x"
        print(f"{row['tokens']:>6} {row['way']:<38} {ratio}")


def main(
    doc: str,
    run: Callable[[list[int], int], dict[str, Any]],
    make: MakeCalls,
    names: Sequence[str],
    out: Path,
    *,
    tokens: str,
    repeats: int,
) -> None:
    """Run a benchmark from its command line, or measure one peak.

    `tokens` and `repeats` are the defaults of the options.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument("--tokens", default=tokens, help="numbers of tokens, by commas")
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"rounds of timing ({repeats})"
    )
    parser.add_argument("--out", type=Path, default=out, help="where the result goes")
    parser.add_argument("--peak", choices=list(names), help="print one peak in MiB and stop")
    options = parser.parse_args()
    counts = [int(number) for number in options.tokens.split(",")]
    if options.peak:
        print(peak_over_model(counts[0], make, options.peak))
        return
    write(run(counts, options.repeats), options.out)
