"""Time and peak memory of ways to compute something on a model, fairly: what the benchmarks share.

Ways take turns in one process to be timed; each has a process of its own for its peak of memory.
"""

from __future__ import annotations

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

# Named functions of the images, for a model.
Ways = dict[str, Callable[[Tensor], Any]]
MakeWays = Callable[[nn.Module], Ways]


def load(tokens: int) -> tuple[nn.Module, Tensor]:
    """A ViT-S/14 with random weights and a photograph at the size that makes so many tokens."""
    import timm
    from skimage.data import astronaut
    from skimage.transform import resize

    side = round((tokens - 1) ** 0.5) * PATCH
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", img_size=side, num_classes=12).eval()
    picture = resize(astronaut(), (side, side), anti_aliasing=True).astype(np.float32)
    return model, torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()


def forward_and_backward(model: nn.Module) -> Ways:
    """A forward pass, and the gradient of one logit with respect to the image."""

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
    tokens: int, repeats: int, make: MakeWays, chosen: Sequence[str]
) -> dict[str, float]:
    """Median seconds of each way; the ways take turns, after one round that does not count."""
    model, x = load(tokens)
    todo = {name: way for name, way in make(model).items() if name in chosen}
    taken: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(repeats + 1):
        for name, way in todo.items():
            start = time.perf_counter()
            way(x)
            if turn:
                taken[name].append(time.perf_counter() - start)
        print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in taken.items()}


def peak_over_model(tokens: int, make: MakeWays, name: str) -> float:
    """MiB over the loaded model that one call takes at its peak; in a process of its own."""
    model, x = load(tokens)
    small, tiny = load(SMALL)
    make(small)[name](tiny)  # libraries and thread pools are not the method's memory
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := now
    before = _status("VmRSS")
    make(model)[name](x)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status: expected a line {field}")


def measure_memory(benchmark: str, tokens: int, name: str, processes: int) -> float:
    """Median of the peaks that `python -m benchmark --peak name` prints, over processes."""
    command = [sys.executable, "-m", benchmark, "--peak", name, "--tokens", str(tokens)]
    # Freed memory goes back at once, so that the resident set is what is in use.
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
    """Memory that is free for a process now."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 2**20
    return 0.0


def row(
    tokens: int, way: str, seconds: float | None, memory: float | None, base: tuple[float, float]
) -> dict[str, Any]:
    """One line of a table; ratios are to forward + backward at the same number of tokens."""
    return {
        "tokens": tokens,
        "way": way,
        "seconds": seconds,
        "time_ratio": None if seconds is None else seconds / base[0],
        "mib": memory,
        "memory_ratio": None if memory is None else memory / base[1],
    }


def result(rows: list[dict[str, Any]], caption: str) -> dict[str, Any]:
    """Rows as `render_tables` reads them, with what they were measured on."""
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
    """What it was measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def versions() -> str:
    """The end of a caption: threads and the version of PyTorch."""
    count = torch.get_num_threads()
    return f"{count} thread{'' if count == 1 else 's'}, torch {torch.__version__.split('+')[0]}."


def write(made: dict[str, Any], out: Path) -> None:
    """Write a result, whole or not at all, and say its ratios."""
    write_text(out, json.dumps(made, indent=1))
    for line in made["rows"]:
        ratio = "-" if line["time_ratio"] is None else f"{line['time_ratio']:.2f}x"
        print(f"{line['tokens']:>6} {line['way']:<38} {ratio}")
