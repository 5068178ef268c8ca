"""Many users of one model at once: ``python -m benchmarks.reliability_threads [--calls 4000]``.

Threads and asyncio tasks explain, record, prompt and call a model as they please; each answer is
held, bit for bit, against the same call made alone. The result goes to
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

from semattn import AttentionPrompter, record
from semattn.explain import explainers
from semattn.utils.atomic_files import write_text

from . import measuring

RESULTS = Path(__file__).parent / "results" / "reliability_threads.json"
THREADS = (2, 4, 8, 16)
TASKS = 8
IMAGES = 4
FEW: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"n_steps": 4}, "smooth-grad": {"nt_samples": 2},
}  # fmt: skip

Call = Callable[[], Tensor]


def models() -> dict[str, nn.Module]:
    """A plain model, and one with windows and two grids."""
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
    """Everything that is asked of a model, by name: explainers, prompters, records, plain calls."""
    x = torch.rand(IMAGES, 1, 3, 64, 64, generator=torch.manual_seed(1))

    def explained(name: str, number: int) -> Tensor:
        made: Tensor = explainers[name](**FEW.get(name, {})).attribute(model, x[number], target=1)
        return made

    def prompted(strength: float, number: int) -> Tensor:
        with torch.no_grad():
            made: Tensor = AttentionPrompter(model, strength=strength)(x[number])
        return made

    def both(number: int) -> Tensor:
        with AttentionPrompter(model, density="count").steer():
            return explained("sift-patch-interrelation", number)

    def recorded(number: int) -> Tensor:
        return next(record(model, x[number], target=1).rows(slice(None)))[1]

    def plain(number: int) -> Tensor:
        answer: Tensor = model(x[number]).detach()
        return answer

    made: dict[str, Call] = {}
    for number in range(IMAGES):
        for name in explainers:
            made[f"{name} {number}"] = partial(explained, name, number)
        for strength in (0.5, 1.0, 2.0):
            made[f"prompted {strength} {number}"] = partial(prompted, strength, number)
        made[f"explained when prompted {number}"] = partial(both, number)
        made[f"record {number}"] = partial(recorded, number)
        made[f"plain {number}"] = partial(plain, number)
    return made


def alone(calls: dict[str, Call]) -> dict[str, Tensor]:
    """What each call gives when nothing else runs; those that the model does not take go."""
    kept = {}
    for name, call in calls.items():
        try:
            kept[name] = call()
        except ValueError as error:
            print(f"  left out: {name}: {error}", file=sys.stderr)
    return kept


def state(model: nn.Module) -> list[Any]:
    """All that could be left behind."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: list[Any] = [
        (name, one.training, sum(len(getattr(one, kind)) for kind in hooks), sorted(vars(one)))
        for name, one in model.named_modules()
    ]
    return found + [(name, one.requires_grad, one.grad) for name, one in model.named_parameters()]


def held(name: str, calls: dict[str, Call], wanted: dict[str, Tensor]) -> str:
    """How one call ended: as "same", "different", or "error"."""
    try:
        return "same" if torch.equal(calls[name](), wanted[name]) else "different"
    except Exception as error:  # noqa: BLE001 — every one is counted, and shown
        print(f"  {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "error"


def by_threads(count: int, names: Sequence[str], ask: Callable[[str], str]) -> list[str]:
    """What `ask` says of each name, by so many threads."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, names))


def by_tasks(model: nn.Module, names: Sequence[str], ask: Callable[[str], str]) -> list[str]:
    """The same by asyncio tasks of one thread; half hold a prompter open as the others ask."""

    async def work(number: int) -> list[str]:
        found = []
        for name in names[number::TASKS]:
            await asyncio.sleep(0)
            found.append(ask(name))
        return found

    async def beside(number: int) -> list[str]:
        with AttentionPrompter(model, strength=float(number)).steer():
            for _ in names[number::TASKS]:
                await asyncio.sleep(0)
        return []

    async def everyone() -> list[list[str]]:
        tasks = [one(number) for number in range(TASKS) for one in (work, beside)]
        return await asyncio.gather(*tasks)

    return [one for found in asyncio.run(everyone()) for one in found]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=4000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the threads are ours
    chance, rows = random.Random(options.seed), []
    for kind, model in models().items():
        calls, before = calls_of(model), state(model)
        wanted = alone(calls)
        ask = partial(held, calls=calls, wanted=wanted)
        ways: list[tuple[str, Callable[..., list[str]]]] = [
            (f"{count} threads", partial(by_threads, count)) for count in THREADS
        ]
        ways.append((f"{2 * TASKS} asyncio tasks of a thread", partial(by_tasks, model)))
        each = -(-options.calls // (2 * len(ways)))
        for way, run in ways:
            found = run(chance.choices(sorted(wanted), k=each), ask)
            rows.append(
                {
                    "model": kind, "way": way, "kinds": len(wanted), "calls": len(found),
                    "different": found.count("different"), "errors": found.count("error"),
                    "left": sum(map(lambda a, b: a != b, before, state(model))),
                }
            )  # fmt: skip
            print(rows[-1], file=sys.stderr)
    made = {
        "caption": f"{sum(row['calls'] for row in rows):,} calls, drawn from all explainers, "
        "prompters at three strengths, explanations in a prompted pass, records and plain calls, "
        f"of {IMAGES} images each; of the tasks, half hold a prompter open. Different: answers "
        "that are not those of the same call made alone, bit for bit. Left: modules and parameters "
        f"that are not as they were. {measuring.versions()} Made by "
        "`python -m benchmarks.reliability_threads`.",
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
    write_text(options.out, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
