"""Hostile inputs, drawn by a seed, and the judge of what semattn makes of one.

An area is a function of a folder that gives a function of chance: it draws one input, hands it to
semattn, and holds the answer to what it promises. A refusal is clear where semattn itself raised
it, as one line that says what was expected; all else is a crash, and so is a warning, and so is
whatever a call leaves behind.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import timm
import torch
from PIL import Image

import semattn
from semattn.errors import NoKeypointWarning, SemattnError

Chance = np.random.Generator
Try = Callable[[Chance], object]
T = TypeVar("T")

SECONDS = 30  # that one input may take
OURS, PILLOW, TIMM = (str(Path(one.__file__).parent) for one in (semattn, PIL, timm))
HERE = str(Path(__file__).parent)
ALLOWED = (SemattnError, ValueError, TypeError, ImportError)

# What people, file systems and attackers call things.
NAMES = (
    "photo", "a b", "..", ".", "", "-", "--help", "~", "*", "$(touch pwned)", "`id`", "a;b", "%s%n",
    "../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/null", "/proc/self/mem", "C:\\x", "a/b",
    "<b>x</b>", "<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</script><!--",
    "[red]x[/]", "[/]", "[bold", "[link=http://x]y[/link]", "x\\", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "bell\x07", "a\rb", "a\nb", "a\tb", "nul\0l", "\x7f", "\u202egnp.exe",
    "\u2028", "\ufeff", "é", "e\u0301", "图片", "🦉", "\udcff", "ａ", "²", "٣", "x" * 300,
    "x" * 5000,
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 14, 16, 255, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63),
    0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
NEITHER = (None, "", "x", True, False, [], (), {}, ..., b"", 1j, set(), range(3))


def pick(rng: Chance, some: Sequence[T]) -> T:
    """One of a sequence."""
    return some[int(rng.integers(len(some)))]


def number(rng: Chance) -> Any:
    """A number that someone might give, or no number at all."""
    kind = rng.random()
    if kind < 0.5:
        return pick(rng, NUMBERS)
    if kind < 0.7:
        return int(rng.integers(-5, 40))
    if kind < 0.9:
        return float(rng.normal() * 10.0 ** rng.integers(-3, 4))
    return pick(rng, NEITHER)


def mutated(data: bytes, rng: Chance, others: Sequence[bytes] = ()) -> bytes:
    """Bytes that were damaged, or made to be wrong, in one way or several."""
    made = bytearray(data)
    for _ in range(1 + int(rng.exponential(1.0))):
        if not made:
            break
        place = int(rng.integers(len(made) if rng.random() < 0.6 else min(len(made), 64)))
        pick(rng, DAMAGES)(made, place, rng, others or (data,))
    return bytes(made)


def flipped(made: bytearray, place: int, rng: Chance, others: Sequence[bytes]) -> None:
    """Some bits are others."""
    for at in rng.integers(0, len(made), 1 + int(rng.integers(8))):
        made[int(at)] ^= 1 << int(rng.integers(8))


def claimed(made: bytearray, place: int, rng: Chance, others: Sequence[bytes]) -> None:
    """Four bytes are a size that cannot be."""
    large = pick(rng, (0, 1, 2**16 - 1, 100_000, 2**31 - 1, 2**31, 2**32 - 1))
    made[place : place + 4] = struct.pack(pick(rng, (">I", "<I")), large)


def replaced(made: bytearray, place: int, rng: Chance, others: Sequence[bytes]) -> None:
    """A part is noise, or missing, or there twice."""
    end = place + int(rng.integers(1, 64))
    noise = rng.bytes(int(rng.integers(1, 32)))
    made[place:end] = pick(rng, (noise, b"", made[place:end] * 2))


def crossed(made: bytearray, place: int, rng: Chance, others: Sequence[bytes]) -> None:
    """It begins as another file does."""
    made[:place] = pick(rng, others)[:place]


def cut(made: bytearray, place: int, rng: Chance, others: Sequence[bytes]) -> None:
    """It ends too early, or too late."""
    if rng.random() < 0.7:
        del made[place:]
    else:
        made += rng.bytes(int(rng.integers(1, 64)))


NOTES = ("checkpoint: ", "source: ", "classes: ")  # on the form in which a file was read
DAMAGES = (flipped, flipped, claimed, replaced, replaced, crossed, cut)


def judge(attempt: Callable[[], object]) -> tuple[str, str]:
    """What became of a call: "answered", "refused" or "crashed", and what it said."""
    told: list[warnings.WarningMessage] = []
    try:
        with timely(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            attempt()
        verdict = "answered", ""
    except Refused as error:
        verdict = "refused", str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 — whatever it is, it is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        line = f"{type(error).__name__} at {place}: {error}"
        said = str(error)
        clear = isinstance(error, ALLOWED) and frames[-1].filename.startswith(OURS)
        clear = clear and said.isprintable() and (" expected " in said or " unknown " in said)
        if isinstance(error, Exception):
            clear = clear or foreign([one.filename for one in frames])
        verdict = "refused" if clear else "crashed", line
        error.__traceback__ = None  # or it would hold on to all that the call had in hand
    for one in told:
        if issubclass(one.category, NoKeypointWarning) or one.filename.startswith(PILLOW):
            continue
        text = str(one.message)
        if text.startswith(NOTES) and text.isprintable():
            continue
        verdict = (
            "crashed",
            f"{one.category.__name__} at {one.filename}:{one.lineno}: {one.message}",
        )
    return verdict


def foreign(files: Sequence[str]) -> bool:
    """Whether an error is of the model or function that was given, and handed on as it is."""
    own = files[-1].startswith(HERE) or files[-1].endswith("torch/nn/modules/module.py")
    through = any(one.startswith(OURS) for one in files)
    return (own and through) or any(one.startswith(TIMM) for one in files)


class Refused(Exception):  # noqa: N818 — no error
    """What a command said when it refused, and that was held to what it promises."""


class Overdue(BaseException):
    """An input that takes too long."""


@contextmanager
def timely() -> Iterator[None]:
    """`Overdue` after `SECONDS`."""

    def stop(number: int, frame: object) -> None:
        raise Overdue(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def state(there: Collection[threading.Thread]) -> dict[str, Any]:
    """All of a process that a call could leave changed; threads but those that were `there`."""
    return {
        "function modes": torch.overrides._len_torch_function_stack(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "threads": sorted(
            one.name for one in threading.enumerate() if not (one in there or ending(one))
        ),
        "folder": Path.cwd(),
        "Pillow's limit": Image.MAX_IMAGE_PIXELS,
        "temporary files": sorted(one.name for one in Path(tempfile.gettempdir()).iterdir()),
        "numpy": tuple(sorted(np.geterr().items())),
    }


def ending(thread: threading.Thread) -> bool:
    """Whether a thread has nothing left to do; it is waited for."""
    if thread is not threading.main_thread():
        thread.join(5)
    return not thread.is_alive()


def state_of(model: torch.nn.Module) -> list[Any]:
    """All of a model that a call could leave changed."""
    return [
        (
            name,
            module.training,
            len(module._forward_hooks) + len(module._forward_pre_hooks),
            len(module._backward_hooks) + len(module._backward_pre_hooks),
            getattr(module, "fused_attn", None),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ] + [(name, one.requires_grad, one.grad is None) for name, one in model.named_parameters()]


def resident() -> float:
    """The memory that this process has now, MiB, once all that is free was given back."""
    import ctypes

    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
