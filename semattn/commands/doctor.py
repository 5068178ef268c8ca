"""`semattn doctor`: the versions that are here, and what works."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import typer

from . import options
from .console import verbatim
from .json_output import Content, json_output
from .terminal import new_table, open_console, print_table

FINE, MISSING, BROKEN = "works", "not installed", "broken"
COLOURS = {FINE: "green", MISSING: "dim", BROKEN: "red"}
# What plugs in, and what it is for.
EXTRAS = {
    "transformers": "its models; pre-training",
    "accelerate": "pre-training",
    "open_clip_torch": "OpenCLIP's models",
    "quantus": "evaluation by Quantus",
    "grad-cam": "pytorch-grad-cam as a row of the benchmark",
    "h5py": "data sets in HDF5",
    "imagenet-w": "the watermark of ImageNet-W",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and what to say of it."""

    what: str
    status: str
    said: str = ""


def doctor(
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say which versions are here and what works; nothing is fetched.

    Tries keypoints, an explanation by each way that models attend, and the folder
    for weights. The exit status is 1 where anything that semattn needs is broken.
    """
    found = list(findings())
    _report(found, as_json=as_json)
    if any(one.status == BROKEN for one in found):
        raise typer.Exit(1)


@json_output
def _report(found: list[Finding], *, as_json: bool) -> Content:
    """Print the findings, and return them ready for JSON."""
    _show(found)
    broken = [finding.what for finding in found if finding.status == BROKEN]
    return {"findings": [asdict(finding) for finding in found], "broken": broken}


def findings() -> Iterator[Finding]:
    """All of them, one after the other."""
    yield Finding("python", FINE, f"{platform.python_version()}, {platform.platform(terse=True)}")
    yield from _packages()
    yield _tried("processor", _processor)
    yield _tried("accelerator", _accelerator)
    yield _tried("keypoints", _keypoints)
    yield _tried("fused attention", lambda: _explanation(fused=True))
    yield _tried("unfused attention", lambda: _explanation(fused=False))
    yield _tried("figures", _figures)
    yield _tried("embedded model", _weights)
    yield from _extras()


def _tried(what: str, look: Callable[[], str]) -> Finding:
    """What `look` says, or what it failed with."""
    try:
        return Finding(what, FINE, look())
    except Exception as error:  # noqa: BLE001 — whatever is wrong here is what was asked for
        return Finding(what, BROKEN, " ".join(f"{type(error).__name__}: {error}".split()))


def _packages() -> Iterator[Finding]:
    """What semattn needs, against the versions that it asks for."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requires("semattn") or ()]
    for one in asked:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        here = _version(one.name)
        if here is None and one.name == "opencv-python":
            here = _version("opencv-python-headless")
        if here is None:
            yield Finding(one.name, BROKEN, f"expected {one.specifier or 'any'}, got none")
        elif not one.specifier.contains(here, prereleases=True):
            yield Finding(one.name, BROKEN, f"expected {one.specifier}, got {here}")
        else:
            yield Finding(one.name, FINE, here)


def _extras() -> Iterator[Finding]:
    for name, use in EXTRAS.items():
        here = _version(name)
        if here is None:
            yield Finding(name, MISSING, use)
        else:
            yield Finding(name, FINE, f"{here} — {use}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    import torch

    from .reading import read_precision

    half = read_precision("auto", "cpu") == "bfloat16"
    return (
        f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; bfloat16 "
        f"{'by its own instructions' if half else 'slow: keep to float32'}"
    )


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        here = torch.cuda.get_device_properties(0)
        return f"{torch.cuda.device_count()} × {here.name}, {here.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        return "Apple GPU (--device mps)"
    return "none: all runs on the processor"


def _keypoints() -> str:
    import numpy as np

    from ..keypoints import detect

    squares = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    found = detect(np.kron(squares, np.ones((16, 16, 3), np.uint8))[None])[0]
    if not len(found):
        raise RuntimeError("expected SIFT to find keypoints in drawn squares, got none")
    return f"{len(found)} by SIFT in drawn squares"


def _explanation(fused: bool) -> str:
    import torch

    from ..explain import SIFTPatchInterrelation
    from ..zoo import load

    model = load("test_vit", pretrained=False)
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]
    chance = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 160, 160, generator=chance, device="cpu")
    made = SIFTPatchInterrelation().attribute(model, image)
    if not torch.isfinite(made).all():
        raise RuntimeError("expected finite values, got others")
    return f"a map of {made.shape[-2]} x {made.shape[-1]} of a small ViT"


def _figures() -> str:
    import io

    from ..viz.canvas import default_settings, new_figure

    with default_settings():
        drawn = new_figure(1, 1)
        drawn.text(0.1, 0.5, "patch")
    stream = io.BytesIO()
    drawn.savefig(stream, format="png")
    if not stream.getvalue().startswith(b"\x89PNG"):
        raise RuntimeError("expected a PNG picture, got other bytes")
    unused = [name for name in ("MPLBACKEND", "MATPLOTLIBRC") if os.environ.get(name)]
    ignored = "".join(f"; {name}={os.environ[name]} is not used" for name in unused)
    return f"drawn by matplotlib {version('matplotlib')} on its Agg canvas{ignored}"


def _weights() -> str:
    from ..zoo.weights import FILE_NAME, cache_dir

    path = cache_dir() / FILE_NAME
    folder = next(one for one in (path.parent, *path.parent.parents) if one.exists())
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {folder} — set SEMATTN_CACHE to another folder")
    if path.exists():
        return f"in {path.parent}"
    return "not here yet: pip fetches it at its first use (90 MB)"


def _show(found: list[Finding]) -> None:
    table = new_table(2, header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in found:
        table.add_row(one.what, f"[{COLOURS[one.status]}]{one.status}[/]", verbatim(one.said))
    console = open_console()
    print_table(console, table)
    broken = [one.what for one in found if one.status == BROKEN]
    told = (
        f"[red]broken:[/] {', '.join(broken)}" if broken else "[green]all that is needed works[/]"
    )
    console.print(f"\n{told}", soft_wrap=True)
