"""Functions that build, render and write a report: `build`, `html`, `write`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..attention import AttentionRecord, record
from ..attention.model_call import move_to_model
from ..errors import SemattnError, ShapeError
from ..explain import Explanation
from ..explain.comparison import Comparison
from ..prompting.strength_sweep import StrengthSweep
from ..spurious import Discovery, MarkDiscovery
from ..utils.atomic_files import write_text
from ..version import __version__
from ..viz import Picture
from .attention_rows import attention
from .dataset_content import about_analysis, about_discovery
from .image_content import (
    about_comparison,
    about_explanation,
    about_image,
    about_prompting,
    palettes,
    sweep_strengths,
)
from .marks_content import about_marks
from .render import as_json, render

if TYPE_CHECKING:
    from typing import Protocol

    class Summarised(Protocol):
        """Result with a summary, such as `semattn.interrelation.Analysis`."""

        def summary(self) -> dict[str, Any]:
            """Return the summary, ready for JSON."""


MEGABYTE = 1_000_000
HEIGHT = 900  # pixels of the frame in a notebook


@dataclass(frozen=True)
class Report:
    """Finished page: `html` is its text; a notebook displays it in a frame."""

    html: str
    title: str

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to the file `path`: completely, or not at all.

        Missing folders are created.

        Raises
        ------
        ValueError
            If `path` is a folder.
        """
        file = Path(path)
        if file.is_dir():
            raise ValueError(
                f"path: expected the name of a file, got the folder {file} — "
                f"use {file / 'report.html'}"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, self.html)
        return file

    def _repr_html_(self) -> str:
        return inline(self.html)


def build(
    explanation: Explanation | None = None,
    *,
    model: nn.Module | None = None,
    comparison: Comparison | None = None,
    analysis: Summarised | None = None,
    discovery: Discovery | None = None,
    marks: MarkDiscovery | None = None,
    index: int = 0,
    backdrop: Picture | None = None,
    additional_forward_args: Any = None,
    prompting: StrengthSweep | bool = True,
    max_mb: float = 15.0,
) -> Report:
    """Build a report with a part for each argument that is given.

    Parameters
    ----------
    explanation : result of an explainer's `explain`; by default, that of the comparison
    model : the explained model; it runs once to record attention, and once for each step of
        prompting
    comparison : result of `semattn.compare` for the same image
    analysis : result of `semattn.interrelation.analyze`; alone, it gives a page without an image
    discovery : result of `semattn.discover_spurious`; alone, it gives a page without an image
    marks : result of `semattn.find_marks`; alone, it gives a page without an image
    index : index of the image in the explanation
    backdrop : see `semattn.viz.overlay`
    additional_forward_args : additional inputs of the model, see `Explainer.attribute`
    prompting : finished steps of prompting; True computes steps towards the keypoints of the
        explanation, False leaves the part out
    max_mb : maximum size of the file in 10^6 bytes; if attention would exceed it, the page contains
        fewer rows and says so

    Raises
    ------
    ValueError, TypeError
        Without content, for a model other than the explained one, or if `max_mb` is too small.
    SemattnError
        If the attention of the model cannot be read.

    Examples
    --------
    >>> import timm
    >>> import torch
    >>> from semattn import SIFTPatchInterrelation
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> report = build(SIFTPatchInterrelation().explain(vit, x), model=vit)
    >>> report.title, report.html[:15]
    ('image 0 · semattn', '<!doctype html>')
    """
    _check(explanation, comparison, analysis, discovery, marks)
    if explanation is None and comparison is not None:
        explanation, index = comparison.explanation, 0
    content: dict[str, Any] = {"version": __version__, "palettes": palettes(), "missing": []}
    content |= (parts := _dataset_content(analysis, discovery, marks))
    name = next(iter(parts), "")
    if comparison is not None:
        content["comparison"] = about_comparison(comparison)
    attention_record = None
    if explanation is not None:
        content["image"] = about_image(explanation, index, backdrop)
        content["explanation"] = about_explanation(explanation, index)
        name = content["image"]["name"]
        if model is not None:
            attention_record = _record(model, explanation, index, additional_forward_args)
            if isinstance(prompting, StrengthSweep):
                content["prompting"] = about_prompting(prompting)
            elif prompting:
                _prompt(content, model, explanation, index, additional_forward_args)
    title = f"{name} · semattn"
    if attention_record is not None and explanation is not None:
        room = _room(title, content, max_mb)
        content["attention"] = attention(attention_record, explanation.grid, room)
        if content["attention"] is None:
            content["missing"].append(
                f"Attention: no row fits into {max_mb:g} MB, or the model has no patch queries."
            )
    _room(title, content, max_mb)
    return Report(render(title, content), title)


def html(explanation: Explanation | None = None, **options: Any) -> str:
    """Return the page as text; see `build` for the parameters."""
    return build(explanation, **options).html


def write(
    path: str | os.PathLike[str], explanation: Explanation | None = None, **options: Any
) -> Path:
    """Write a report to the file `path`: ``write("report.html", explanation, model=model)``.

    See `build` for further parameters and errors, and `Report.save` for more errors.
    """
    return build(explanation, **options).save(path)


def inline(page: str, height: int = HEIGHT) -> str:
    """Return the page in a sandboxed frame of `height` pixels, for a notebook.

    Examples
    --------
    >>> inline("<p>it's</p>")[:54]
    '<iframe title="semattn report" sandbox="allow-scripts"'
    """
    return (
        '<iframe title="semattn report" sandbox="allow-scripts" '
        f'style="width:100%;height:{int(height)}px;border:0" srcdoc="{escape(page)}"></iframe>'
    )


def _check(explanation: Any, comparison: Any, analysis: Any, discovery: Any, marks: Any) -> None:
    if all(part is None for part in (explanation, comparison, analysis, discovery, marks)):
        raise ValueError(
            "report: expected an explanation, a comparison, an analysis, a discovery or marks, got "
            "none — pass a result of explain, compare, analyze, discover_spurious or find_marks"
        )
    for name, value, kind in (
        ("explanation", explanation, Explanation),
        ("comparison", comparison, Comparison),
        ("discovery", discovery, Discovery),
        ("marks", marks, MarkDiscovery),
    ):
        if value is not None and not isinstance(value, kind):
            hint = " — use explainer.explain(…), not attribute" if name == "explanation" else ""
            raise TypeError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}{hint}")
    if analysis is not None and not callable(getattr(analysis, "summary", None)):
        raise TypeError(
            f"analysis: expected an object with summary(), got {type(analysis).__name__} — "
            "pass a result of semattn.interrelation.analyze"
        )
    if explanation is None or comparison is None:
        return
    image_size, other = explanation.images.inputs.shape[-2:], comparison.explanation.grid.image_size
    if tuple(image_size) != tuple(other):
        raise ShapeError(
            f"comparison: expected one of the same image {tuple(image_size)}, got one of "
            f"{tuple(other)}"
        )


def _dataset_content(
    analysis: Summarised | None, discovery: Discovery | None, marks: MarkDiscovery | None
) -> dict[str, Any]:
    """Return the parts about many images."""
    parts = {}
    if analysis is not None:
        parts["analysis"] = about_analysis(analysis.summary())
    if discovery is not None:
        parts["spurious"] = about_discovery(discovery)
    if marks is not None:
        parts["marks"] = about_marks(marks)
    return parts


def _record(model: nn.Module, explanation: Explanation, index: int, extra: Any) -> AttentionRecord:
    """Record attention of all layers, after checking that `model` is the explained one."""
    images = explanation.images
    inputs = images.inputs[index : index + 1]
    inputs = move_to_model(model, inputs, prepared=images.prepared)
    attention_record = record(
        model, inputs, target=None, grad="last", additional_forward_args=extra
    )
    expected_logits = explanation.logits[index : index + 1].to(attention_record.logits)
    if expected_logits.shape == attention_record.logits.shape:
        scale = float(expected_logits.abs().amax().clamp(min=1e-6))
        if float((expected_logits - attention_record.logits).abs().amax()) <= 0.02 * scale:
            return attention_record
    raise ValueError(
        "model: expected the explained model, got one with other outputs for the same input — "
        "pass the explained model"
    )


def _prompt(
    content: dict[str, Any],
    model: nn.Module,
    explanation: Explanation,
    index: int,
    extra: Any,
) -> None:
    """Add the steps of prompting to `content`, or the reason why they are missing."""
    try:
        content["prompting"] = about_prompting(sweep_strengths(model, explanation, index, extra))
    except SemattnError as error:
        content["missing"].append(f"Prompting: {error}.")


def _room(title: str, content: dict[str, Any], max_mb: float) -> int:
    """Return the number of characters that are left of `max_mb`."""
    rest = {name: part for name, part in content.items() if name != "attention"}
    page_size = len(render(title, {}).encode()) + len(as_json(rest))
    room = int(max_mb * MEGABYTE) - page_size - 4096  # reserve for names of layers
    if room < 0:
        least = max_mb - room / MEGABYTE + 0.005  # rounded up
        raise ValueError(
            f"max_mb: expected {least:.2f} at least for this report, got {max_mb:g} — "
            "attention that does not fit is left out automatically"
        )
    return room
