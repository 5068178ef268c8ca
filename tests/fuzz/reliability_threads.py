"""Concurrent use of one model: ``python -m tests.fuzz.reliability_threads [--calls 4000]``.

Threads and asyncio tasks explain, record, prompt and call a model concurrently. Each result is
compared bit for bit with that of the same call alone. The result is written to
benchmarks/results/reliability_threads.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from benchmarks.studies.cost import measuring
from semattn import AttentionPrompter, record
from semattn.explain import explainers
from semattn.utils.atomic_files import write_text

RESULTS = RESULTS_DIR / "reliability_threads.json"
THREADS = (2, 4, 8, 16)
TASKS = 8
IMAGES = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"n_steps": 4}, "smooth-grad": {"nt_samples": 2},
}  # fmt: skip

Call = Callable[[], Tensor]


def make_models() -> dict[str, nn.Module]:
    """Return a plain model, and a windowed one with two grids."""
    torch.manual_seed(0)
    plain = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=5
    )
    windows = SwinTransformer(
        img_size=64, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4,
        num_classes=5,
    )  # fmt: skip
    return {"plain": plain.eval(), "windows": windows.eval()}


def calls_of(model: nn.Module) -> dict[str, Call]:
    """Return the calls of a model by name: explainers, prompters, records, plain calls."""
    x = torch.rand(IMAGES, 1, 3, 64, 64, generator=torch.manual_seed(1))

    def explain(name: str, number: int) -> Tensor:
        attribution: Tensor = explainers[name](**OPTIONS.get(name, {})).attribute(
            model, x[number], target=1
        )
        return attribution

    def prompt(strength: float, number: int) -> Tensor:
        with torch.no_grad():
            logits: Tensor = AttentionPrompter(model, strength=strength)(x[number])
        return logits

    def explain_prompted(number: int) -> Tensor:
        with AttentionPrompter(model, density="count").steer():
            return explain("sift-patch-interrelation", number)

    def record_rows(number: int) -> Tensor:
        return next(record(model, x[number], target=1).rows(slice(None)))[1]

    def plain(number: int) -> Tensor:
        logits: Tensor = model(x[number]).detach()
        return logits

    calls: dict[str, Call] = {}
    for number in range(IMAGES):
        for name in explainers:
            calls[f"{name} {number}"] = partial(explain, name, number)
        for strength in (0.5, 1.0, 2.0):
            calls[f"prompted {strength} {number}"] = partial(prompt, strength, number)
        calls[f"explained when prompted {number}"] = partial(explain_prompted, number)
        calls[f"record {number}"] = partial(record_rows, number)
        calls[f"plain {number}"] = partial(plain, number)
    return calls


def sequential_results(calls: dict[str, Call]) -> dict[str, Tensor]:
    """Return the result of each call when nothing else runs; unsupported calls are left out."""
    results = {}
    for name, call in calls.items():
        try:
            results[name] = call()
        except ValueError as error:
            print(f"  left out: {name}: {error}", file=sys.stderr)
    return results


def model_state(model: nn.Module) -> list[Any]:
    """Return the state that a call could leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules: list[Any] = [
        (
            name,
            module.training,
            sum(len(getattr(module, kind)) for kind in hooks),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]
    return modules + [
        (name, parameter.requires_grad, parameter.grad)
        for name, parameter in model.named_parameters()
    ]


def compare(name: str, calls: dict[str, Call], expected: dict[str, Tensor]) -> str:
    """Run one call and return "same", "different" or "error"."""
    try:
        return "same" if torch.equal(calls[name](), expected[name]) else "different"
    except Exception as error:  # noqa: BLE001 — counted and printed
        print(f"  {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "error"


def run_in_threads(count: int, names: Sequence[str], check: Callable[[str], str]) -> list[str]:
    """Run the calls in several threads and return their outcomes."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(check, names))


def run_in_tasks(model: nn.Module, names: Sequence[str], check: Callable[[str], str]) -> list[str]:
    """Run the calls in asyncio tasks of one thread, while as many tasks hold a prompter open."""

    async def make_calls(number: int) -> list[str]:
        outcomes = []
        for name in names[number::TASKS]:
            await asyncio.sleep(0)
            outcomes.append(check(name))
        return outcomes

    async def hold_prompter(number: int) -> list[str]:
        with AttentionPrompter(model, strength=float(number)).steer():
            for _ in names[number::TASKS]:
                await asyncio.sleep(0)
        return []

    async def run_tasks() -> list[list[str]]:
        tasks = [task(number) for number in range(TASKS) for task in (make_calls, hold_prompter)]
        return await asyncio.gather(*tasks)

    return [outcome for outcomes in asyncio.run(run_tasks()) for outcome in outcomes]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=4000, help="total number of calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the benchmark starts its own threads
    rng, rows = random.Random(options.seed), []
    for kind, model in make_models().items():
        calls, before = calls_of(model), model_state(model)
        expected = sequential_results(calls)
        check = partial(compare, calls=calls, expected=expected)
        runners: list[tuple[str, Callable[..., list[str]]]] = [
            (f"{count} threads", partial(run_in_threads, count)) for count in THREADS
        ]
        runners.append((f"{2 * TASKS} asyncio tasks of a thread", partial(run_in_tasks, model)))
        calls_per_runner = -(-options.calls // (2 * len(runners)))
        for label, run in runners:
            outcomes = run(rng.choices(sorted(expected), k=calls_per_runner), check)
            rows.append(
                {
                    "model": kind, "way": label, "kinds": len(expected), "calls": len(outcomes),
                    "different": outcomes.count("different"), "errors": outcomes.count("error"),
                    "left": sum(map(lambda a, b: a != b, before, model_state(model))),
                }
            )  # fmt: skip
            print(rows[-1], file=sys.stderr)
    result = {
        "caption": f"{sum(row['calls'] for row in rows):,} calls, drawn from all explainers, "
        "prompters at three strengths, explanations in a prompted pass, records and plain calls, "
        f"of {IMAGES} images each; half of the tasks hold a prompter open. Different: results "
        "that are not bit-equal to those of the same call alone. Left: modules and parameters "
        f"that were changed. {measuring.versions()} Made by "
        "`python -m tests.fuzz.reliability_threads`.",
        "columns": [
            {"key": "model", "title": "model"},
            {"key": "way", "title": "at once"},
            {"key": "kinds", "title": "different calls", "format": ",d"},
            {"key": "calls", "title": "calls compared", "format": ",d"},
            {"key": "different", "title": "different", "format": ",d"},
            {"key": "errors", "title": "errors", "format": ",d"},
            {"key": "left", "title": "left behind", "format": ",d"},
        ],
        "rows": rows,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
