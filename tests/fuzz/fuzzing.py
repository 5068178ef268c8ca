"""Random hostile inputs and the judgement of semattn's response to one.

An area is a function of a folder that returns a function of a random generator. That function draws
one input, passes it to semattn, and checks the result. A refusal is clear if semattn itself raised
it, in one line that says what was expected. Anything else is a crash: other exceptions, warnings,
and state that a call leaves behind.
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

Generator = np.random.Generator
Attempt = Callable[[Generator], object]
T = TypeVar("T")

TIME_LIMIT = 30  # seconds for one input
OURS, PILLOW, TIMM = (str(Path(module.__file__).parent) for module in (semattn, PIL, timm))
BENCHMARKS = str(Path(__file__).parent)
ALLOWED = (SemattnError, ValueError, TypeError, ImportError)

# Difficult names of files, options and classes.
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
ODD_VALUES = (None, "", "x", True, False, [], (), {}, ..., b"", 1j, set(), range(3))


def pick(rng: Generator, values: Sequence[T]) -> T:
    """Return a random element of a sequence."""
    return values[int(rng.integers(len(values)))]


def random_number(rng: Generator) -> Any:
    """Return a number that a caller might pass, or a value that is not a number."""
    kind = rng.random()
    if kind < 0.5:
        return pick(rng, NUMBERS)
    if kind < 0.7:
        return int(rng.integers(-5, 40))
    if kind < 0.9:
        return float(rng.normal() * 10.0 ** rng.integers(-3, 4))
    return pick(rng, ODD_VALUES)


def mutate(data: bytes, rng: Generator, others: Sequence[bytes] = ()) -> bytes:
    """Return the bytes with one or several random damages."""
    damaged = bytearray(data)
    for _ in range(1 + int(rng.exponential(1.0))):
        if not damaged:
            break
        position = int(rng.integers(len(damaged) if rng.random() < 0.6 else min(len(damaged), 64)))
        pick(rng, DAMAGES)(damaged, position, rng, others or (data,))
    return bytes(damaged)


def flip_bits(data: bytearray, place: int, rng: Generator, others: Sequence[bytes]) -> None:
    """Flip some bits."""
    for position in rng.integers(0, len(data), 1 + int(rng.integers(8))):
        data[int(position)] ^= 1 << int(rng.integers(8))


def claim_size(data: bytearray, place: int, rng: Generator, others: Sequence[bytes]) -> None:
    """Replace four bytes by an impossible size."""
    large = pick(rng, (0, 1, 2**16 - 1, 100_000, 2**31 - 1, 2**31, 2**32 - 1))
    data[place : place + 4] = struct.pack(pick(rng, (">I", "<I")), large)


def replace_part(data: bytearray, place: int, rng: Generator, others: Sequence[bytes]) -> None:
    """Replace a part by noise, remove it, or repeat it."""
    end = place + int(rng.integers(1, 64))
    noise = rng.bytes(int(rng.integers(1, 32)))
    data[place:end] = pick(rng, (noise, b"", data[place:end] * 2))


def cross_over(data: bytearray, place: int, rng: Generator, others: Sequence[bytes]) -> None:
    """Replace the beginning by that of another file."""
    data[:place] = pick(rng, others)[:place]


def truncate(data: bytearray, place: int, rng: Generator, others: Sequence[bytes]) -> None:
    """Truncate the data, or append noise."""
    if rng.random() < 0.7:
        del data[place:]
    else:
        data += rng.bytes(int(rng.integers(1, 64)))


NOTES = ("checkpoint: ", "source: ", "classes: ")  # beginnings of notes, which are no faults
DAMAGES = (flip_bits, flip_bits, claim_size, replace_part, replace_part, cross_over, truncate)


def judge(attempt: Callable[[], object]) -> tuple[str, str]:
    """Return the outcome of a call ("answered", "refused" or "crashed") and its message."""
    caught: list[warnings.WarningMessage] = []
    try:
        with time_limit(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            attempt()
        verdict = "answered", ""
    except Refused as error:
        verdict = "refused", str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 — any exception is a result
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        line = f"{type(error).__name__} at {place}: {error}"
        message = str(error)
        is_clear = isinstance(error, ALLOWED) and frames[-1].filename.startswith(OURS)
        is_clear = (
            is_clear
            and message.isprintable()
            and (" expected " in message or " unknown " in message)
        )
        if isinstance(error, Exception):
            is_clear = is_clear or is_foreign([frame.filename for frame in frames])
        verdict = "refused" if is_clear else "crashed", line
        error.__traceback__ = None  # it would keep the objects of the call alive
    for warning in caught:
        if issubclass(warning.category, NoKeypointWarning) or warning.filename.startswith(PILLOW):
            continue
        text = str(warning.message)
        if text.startswith(NOTES) and text.isprintable():
            continue
        verdict = (
            "crashed",
            f"{warning.category.__name__} at {warning.filename}:{warning.lineno}: {text}",
        )
    return verdict


def is_foreign(files: Sequence[str]) -> bool:
    """Return whether an error comes from the given model or function and is passed on unchanged."""
    is_outside = files[-1].startswith(BENCHMARKS) or files[-1].endswith(
        "torch/nn/modules/module.py"
    )
    is_through = any(file.startswith(OURS) for file in files)
    return (is_outside and is_through) or any(file.startswith(TIMM) for file in files)


class Refused(Exception):  # noqa: N818 — an expected outcome
    """Refusal of a command that was checked: its message."""


class Overdue(BaseException):
    """Raised when an input exceeds the time limit."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `Overdue` after `TIME_LIMIT` seconds."""

    def raise_overdue(number: int, frame: object) -> None:
        raise Overdue(f"more than {TIME_LIMIT} s")

    previous_handler = signal.signal(signal.SIGALRM, raise_overdue)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)


def process_state(known_threads: Collection[threading.Thread]) -> dict[str, Any]:
    """Return the state of the process that a call could change; `known_threads` are left out."""
    return {
        "function modes": torch.overrides._len_torch_function_stack(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "threads": sorted(
            thread.name
            for thread in threading.enumerate()
            if not (thread in known_threads or has_ended(thread))
        ),
        "folder": Path.cwd(),
        "Pillow's limit": Image.MAX_IMAGE_PIXELS,
        "temporary files": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
        "numpy": tuple(sorted(np.geterr().items())),
    }


def has_ended(thread: threading.Thread) -> bool:
    """Return whether a thread has ended, after waiting for it."""
    if thread is not threading.main_thread():
        thread.join(5)
    return not thread.is_alive()


def model_state(model: torch.nn.Module) -> list[Any]:
    """Return the state of a model that a call could change."""
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
    ] + [
        (name, parameter.requires_grad, parameter.grad is None)
        for name, parameter in model.named_parameters()
    ]


def resident_mib() -> float:
    """Return the resident memory of this process in MiB, after freed memory is returned."""
    import ctypes

    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
