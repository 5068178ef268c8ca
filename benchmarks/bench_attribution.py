"""Time and memory of an attribution, beside what cannot be done without.

    python -m benchmarks.bench_attribution [--tokens 197,1370,5330] [--repeats 7]

For each number of tokens, in one run on one machine: a forward pass; forward and backward (the
gradient of one logit with respect to the image, parameters frozen: the least that any gradient
method pays); `SIFTPatchInterrelation` in row form and with all queries, SIFT included; and the same
map the N x N way (fused attention off, every matrix and its gradient kept, as hook-based tools do).

Times are medians of rounds in which the ways take turns, in one process. Memory is the peak of the
resident set over the loaded model, of one call after one smaller warm-up call, each way in a
process of its own. The result goes to benchmarks/results/attribution.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semattn import SIFTPatchInterrelation
from semattn.density import Scene, concentration, densities
from semattn.grid import PatchGrid
from semattn.images import pixels_of
from semattn.keypoints import detect

RESULTS = Path(__file__).parent / "results" / "attribution.json"
PATCH, TARGET = 14, 1
LONG = 5000  # tokens; from here on, fewer rounds
SMALL = 65  # tokens of the warm-up call before memory is measured
NAMES = {
    "forward": "forward",
    "backward": "forward + backward",
    "row": "SIFTPatchInterrelation, row form",
    "all": "SIFTPatchInterrelation, all queries",
    "dense": "the N x N way, class-token row",
}
ROOM = {197: 1, 1370: 4, 5330: 18}  # GiB that the N x N way is known to need, at most


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


def ways(model: nn.Module) -> dict[str, Callable[[Tensor], Any]]:
    """Each way, as a function of the images."""

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    def backward(x: Tensor) -> Tensor:
        model.requires_grad_(False)
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)[:, TARGET].sum(), x)
        return gradient

    def row(x: Tensor) -> Tensor:
        return SIFTPatchInterrelation(queries="class").attribute(model, x, target=TARGET)

    def every(x: Tensor) -> Tensor:
        return SIFTPatchInterrelation(queries="all").attribute(model, x, target=TARGET)

    return {
        "forward": forward,
        "backward": backward,
        "row": row,
        "all": every,
        "dense": lambda x: dense_way(model, x),
    }


def dense_way(model: nn.Module, x: Tensor) -> Tensor:
    """The row-form map by keeping every attention matrix and its gradient."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    switched = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    hooks = [module.attn_drop.register_forward_hook(keep) for module in switched]
    for module in switched:
        module.fused_attn = False
    try:
        model.requires_grad_(False)
        model(x.clone().requires_grad_())[:, TARGET].sum().backward()
    finally:
        for hook, module in zip(hooks, switched, strict=True):
            hook.remove()
            module.fused_attn = True
    side = x.shape[-1] // PATCH
    grid = PatchGrid((side, side), (x.shape[-2], x.shape[-1]), (PATCH, PATCH), prefix=1)
    pixels = pixels_of(x, None)
    p = concentration(densities["count"](Scene(pixels, detect(pixels), grid))).float()
    total = torch.zeros_like(p)
    for attention in kept[len(kept) // 2 :]:
        gradient = attention.grad
        assert gradient is not None
        seen = attention.detach()[:, :, 0, 1:]
        share = p.shape[1] * (seen * p[:, None]).sum(-1) / seen.sum(-1)
        total += (share[..., None] * (seen * gradient[:, :, 0, 1:]).relu()).sum(1)
    return grid.upsample(total)


def measure_times(tokens: int, repeats: int, chosen: list[str]) -> dict[str, float]:
    """Median seconds of each way; the ways take turns, after one round that does not count."""
    model, x = load(tokens)
    todo = {name: way for name, way in ways(model).items() if name in chosen}
    taken: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(repeats + 1):
        for name, way in todo.items():
            start = time.perf_counter()
            way(x)
            if turn:
                taken[name].append(time.perf_counter() - start)
        print(f"  {tokens} tokens, round {turn} of {repeats}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in taken.items()}


def peak_over_model(tokens: int, name: str) -> float:
    """MiB over the loaded model that one call takes at its peak; in a process of its own."""
    model, x = load(tokens)
    small, tiny = load(SMALL)
    ways(small)[name](tiny)  # libraries and thread pools are not the method's memory
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := now
    before = _status("VmRSS")
    ways(model)[name](x)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status: expected a line {field}")


def measure_memory(tokens: int, name: str, processes: int) -> float:
    """Median of `peak_over_model` over processes."""
    command = [sys.executable, "-m", __spec__.name, "--peak", name, "--tokens", str(tokens)]
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


def row(tokens: int, name: str, seconds: float | None, memory: float | None, base: Any) -> Any:
    """One line of the table; ratios are to forward + backward at the same number of tokens."""
    return {
        "tokens": tokens,
        "way": NAMES[name],
        "seconds": seconds,
        "time_ratio": None if seconds is None else seconds / base[0],
        "mib": memory,
        "memory_ratio": None if memory is None else memory / base[1],
    }


def run(all_tokens: list[int], repeats: int) -> dict[str, Any]:
    """The whole benchmark."""
    rows, skipped = [], []
    for tokens in all_tokens:
        chosen = list(NAMES)
        if available_gib() < ROOM.get(tokens, 18):
            chosen.remove("dense")
            skipped.append(tokens)
        rounds, processes = (repeats, 3) if tokens < LONG else (max(2, repeats // 2), 1)
        seconds = measure_times(tokens, rounds, chosen)
        memory = {}
        for name in chosen:
            memory[name] = measure_memory(tokens, name, processes)
            print(f"  {tokens} tokens, {name}: {memory[name]:.0f} MiB", file=sys.stderr)
        base = (seconds["backward"], memory["backward"])
        rows += [row(tokens, name, seconds.get(name), memory.get(name), base) for name in NAMES]
    caption = (
        "ViT-S/14, float32, batch 1, one photograph; SIFT included in every map. Median of "
        f"{repeats} rounds ({max(2, repeats // 2)} above {LONG:,} tokens); memory is the peak over "
        f"the loaded model, median of 3 processes (1 above {LONG:,}); ratios are to forward + "
        "backward. "
        f"{torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}. "
        "Made by `python -m benchmarks.bench_attribution`."
    )
    if skipped:
        caption += f" The N x N way at {skipped} tokens did not fit this machine's memory."
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
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    }


def main() -> None:
    """Run the benchmark, or measure one peak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", default="197,1370,5330", help="numbers of tokens, by commas")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of timing (7)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--peak", choices=list(NAMES), help="print one peak in MiB and stop")
    options = parser.parse_args()
    tokens = [int(number) for number in options.tokens.split(",")]
    if options.peak:
        print(peak_over_model(tokens[0], options.peak))
        return
    result = run(tokens, options.repeats)
    with tempfile.NamedTemporaryFile(
        "w", dir=options.out.parent, suffix=".part", delete=False, encoding="utf-8"
    ) as file:
        json.dump(result, file, indent=1)
    Path(file.name).replace(options.out)
    for line in result["rows"]:
        ratio = "-" if line["time_ratio"] is None else f"{line['time_ratio']:.2f}x"
        print(f"{line['tokens']:>6} {line['way']:<38} {ratio}")


if __name__ == "__main__":
    main()
