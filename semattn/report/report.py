"""`of`, `html`, `write`: from what was found to the page that shows it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..attention import AttentionRecord, record
from ..attention.model_inputs import move_to_model
from ..errors import SemattnError, ShapeError
from ..explain import Explanation
from ..explain.comparison import Comparison
from ..prompting.strength_sweep import Steps
from ..spurious import Discovery
from ..version import __version__
from ..viz import Picture
from .cues import about_discovery
from .page import as_json, render
from .parts import about_comparison, about_explanation, about_image, about_prompting, palettes
from .prompted import content as steps_content, prompted
from .rows import attention
from .summary import about_analysis

if TYPE_CHECKING:
    from typing import Protocol

    class Summarised(Protocol):
        """What can tell of itself, as `semattn.interrelation.Analysis` does."""

        def summary(self) -> dict[str, Any]:
            """Ready for JSON."""


MEGABYTE = 1_000_000
HEIGHT = 900  # pixels of the frame in a notebook


@dataclass(frozen=True)
class Report:
    """A page that is made: `html` is all of it; a notebook shows it in a frame."""

    html: str
    title: str

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the page to `file`: complete, or not at all.

        Folders that are missing are made.

        Raises
        ------
        ValueError
            Where `file` is a folder.
        """
        path = Path(file)
        if path.is_dir():
            raise ValueError(
                f"file: expected the name of a file, got the folder {path} — "
                f"use {path / 'report.html'}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".semattn-", dir=path.parent))
        try:
            (stage / path.name).write_text(self.html, encoding="utf-8", newline="\n")
            (stage / path.name).replace(path)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return path

    def _repr_html_(self) -> str:
        return inline(self.html)


def of(
    explanation: Explanation | None = None,
    *,
    model: nn.Module | None = None,
    comparison: Comparison | None = None,
    analysis: Summarised | None = None,
    discovery: Discovery | None = None,
    index: int = 0,
    backdrop: Picture | None = None,
    additional_forward_args: Any = None,
    prompting: Steps | bool = True,
    max_mb: float = 15.0,
) -> Report:
    """A report of what is given; each part appears where there is something to show.

    Parameters
    ----------
    explanation : what an explainer's `explain` returned; None takes that of the comparison
    model : the model that was explained; runs once for its attention, and once more for each
        step of prompting
    comparison : what `semattn.compare` returned, of the same image
    analysis : what `semattn.interrelation.analyze` returned; alone, it makes a page of a folder
    discovery : what `semattn.discover_spurious` returned; alone, it makes a page of its cues
    index : which image of the explanation
    backdrop : as for `semattn.viz.overlay`
    additional_forward_args : as `Explainer.attribute` took them
    prompting : the steps of prompting, made already; True makes those toward the keypoints of
        the map, False leaves them out
    max_mb : the size that the file stays under, in 10^6 bytes; where attention would exceed it,
        fewer rows are kept, and the page says so

    Raises
    ------
    ValueError, TypeError
        For nothing to show, another model than the one explained, a `max_mb` too small.
    SemattnError
        For a model whose attention cannot be read.

    Examples
    --------
    >>> import timm
    >>> import torch
    >>> from semattn import SIFTPatchInterrelation
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> made = of(SIFTPatchInterrelation().explain(vit, x), model=vit)
    >>> made.title, made.html[:15]
    ('image 0 · semattn', '<!doctype html>')
    """
    _check(explanation, comparison, analysis, discovery)
    if explanation is None and comparison is not None:
        explanation, index = comparison.explanation, 0
    content: dict[str, Any] = {"version": __version__, "palettes": palettes(), "missing": []}
    content |= _of_folders(analysis, discovery)
    name = "spurious" if analysis is None else "analysis"
    if comparison is not None:
        content["comparison"] = about_comparison(comparison)
    taken = None
    if explanation is not None:
        content["image"] = about_image(explanation, index, backdrop)
        content["explanation"] = about_explanation(explanation, index)
        name = content["image"]["name"]
        if model is not None:
            taken = _record(model, explanation, index, additional_forward_args)
            if isinstance(prompting, Steps):
                content["prompting"] = about_prompting(steps_content(prompting))
            elif prompting:
                _prompt(content, model, explanation, index, additional_forward_args)
    title = f"{name} · semattn"
    if taken is not None and explanation is not None:
        room = _room(title, content, max_mb)
        content["attention"] = attention(taken, explanation.grid, room)
        if content["attention"] is None:
            content["missing"].append(
                f"Attention: not one row of it fits {max_mb:g} MB, or no patch of this model asks."
            )
    _room(title, content, max_mb)
    return Report(render(title, content), title)


def html(explanation: Explanation | None = None, **options: Any) -> str:
    """The page as a text; parameters as `of`."""
    return of(explanation, **options).html


def write(
    file: str | os.PathLike[str], explanation: Explanation | None = None, **options: Any
) -> Path:
    """Write a report to `file`: ``write("report.html", explanation, model=model)``.

    Further parameters as `of`; errors as there, and those of `Report.save`.
    """
    return of(explanation, **options).save(file)


def inline(page: str, height: int = HEIGHT) -> str:
    """The page in a frame of `height` pixels, for a notebook; shut off from the notebook itself.

    Examples
    --------
    >>> inline("<p>it's</p>")[:54]
    '<iframe title="semattn report" sandbox="allow-scripts"'
    """
    return (
        '<iframe title="semattn report" sandbox="allow-scripts" '
        f'style="width:100%;height:{int(height)}px;border:0" srcdoc="{escape(page)}"></iframe>'
    )


def _check(explanation: Any, comparison: Any, analysis: Any, discovery: Any) -> None:
    if all(one is None for one in (explanation, comparison, analysis, discovery)):
        raise ValueError(
            "report: expected an explanation, a comparison, an analysis or a discovery, got none — "
            "pass what explain, compare, analyze or discover_spurious returned"
        )
    for name, given, kind in (
        ("explanation", explanation, Explanation),
        ("comparison", comparison, Comparison),
        ("discovery", discovery, Discovery),
    ):
        if given is not None and not isinstance(given, kind):
            hint = " — use explainer.explain(…), not attribute" if name == "explanation" else ""
            raise TypeError(f"{name}: expected a {kind.__name__}, got {type(given).__name__}{hint}")
    if analysis is not None and not callable(getattr(analysis, "summary", None)):
        raise TypeError(
            f"analysis: expected one with a summary(), got {type(analysis).__name__} — "
            "pass what semattn.interrelation.analyze returned"
        )
    if explanation is None or comparison is None:
        return
    mine, other = explanation.images.inputs.shape[-2:], comparison.explanation.grid.image_size
    if tuple(mine) != tuple(other):
        raise ShapeError(
            f"comparison: expected one of the same image {tuple(mine)}, got one of {tuple(other)}"
        )


def _of_folders(analysis: Summarised | None, discovery: Discovery | None) -> dict[str, Any]:
    """The parts that are of many images."""
    made = {}
    if analysis is not None:
        made["analysis"] = about_analysis(analysis.summary())
    if discovery is not None:
        made["spurious"] = about_discovery(discovery)
    return made


def _record(model: nn.Module, explanation: Explanation, index: int, extra: Any) -> AttentionRecord:
    """All layers' attention, once it is sure that this model was explained."""
    images = explanation.images
    inputs = images.inputs[index : index + 1]
    inputs = move_to_model(model, inputs, prepared=images.prepared)
    taken = record(model, inputs, target=None, grad="last", additional_forward_args=extra)
    given = explanation.logits[index : index + 1].to(taken.logits)
    if given.shape == taken.logits.shape:
        scale = float(given.abs().amax().clamp(min=1e-6))
        if float((given - taken.logits).abs().amax()) <= 0.02 * scale:
            return taken
    raise ValueError(
        "model: expected the one that was explained, got one that answers otherwise to the same "
        "input — pass that model"
    )


def _prompt(
    content: dict[str, Any],
    model: nn.Module,
    explanation: Explanation,
    index: int,
    extra: Any,
) -> None:
    """The steps of prompting, or why there are none."""
    try:
        content["prompting"] = about_prompting(prompted(model, explanation, index, extra))
    except SemattnError as error:
        content["missing"].append(f"Prompting: {error}.")


def _room(title: str, content: dict[str, Any], max_mb: float) -> int:
    """Characters that are left of `max_mb`."""
    rest = {name: part for name, part in content.items() if name != "attention"}
    whole = len(render(title, {}).encode()) + len(as_json(rest))
    room = int(max_mb * MEGABYTE) - whole - 4096  # names of layers
    if room < 0:
        least = max_mb - room / MEGABYTE + 0.005  # rounded up
        raise ValueError(
            f"max_mb: expected {least:.2f} at least for this report, got {max_mb:g} — "
            "attention beyond that is left out by itself"
        )
    return room
