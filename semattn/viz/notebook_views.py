"""Results as HTML, for notebooks: what was found, one figure, and what a reader must know."""

from __future__ import annotations

import base64
import html
from functools import singledispatch
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..explain import Explanation
from ..explain.comparison import Comparison
from ..interrelation import Analysis
from ..prompting.strength_sweep import StrengthSweep
from ..spurious import Discovery, MarkDiscovery
from .analysis_figure import analysis
from .explanation_figures import comparison, figure
from .marks_figure import marks
from .spurious_figure import spurious
from .strength_figure import strength_sweep
from .texts import count_text, headline, marks_outcome, search_outcome, selection_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_IMAGES = 3  # images of a batch that are drawn
RESOLUTION = 110  # pixels per inch


@singledispatch
def to_html(result: Any) -> str:
    """Return the HTML that a notebook displays for a result.

    Raises
    ------
    TypeError
        For an object that is not a result.
    """
    raise TypeError(f"result: expected a result of semattn, got {type(result).__name__}")


@to_html.register
def _explanation(explanation: Explanation) -> str:
    shown = range(min(len(explanation), MAX_IMAGES))
    parts = [
        _figure(figure(explanation, index), _answer(explanation, index, f"Image {index}: "))
        for index in shown
    ]
    if left := len(explanation) - len(shown):
        more = f"{count_text(left, 'more image')}: semattn.viz.figure(explanation, {len(shown)})"
        parts.append(f"<p>{html.escape(more)}</p>")
    return _page(parts, [], explanation.notes)


@to_html.register
def _comparison(compared: Comparison) -> str:
    answer = _answer(compared.explanation, 0, f"{count_text(len(compared.rows), 'method')}: ")
    return _page([_figure(comparison(compared), answer)], [], compared.notes)


@to_html.register
def _analysis(results: Analysis) -> str:
    findings = [finding.text for finding in results.findings()]
    return _page([_figure(analysis(results), "Patch interrelation by layer")], findings, ())


@to_html.register
def _strength_sweep(prompted: StrengthSweep) -> str:
    answer = _answer(prompted.explanation, 0, f"{prompted.prompt}: ")
    return _page([_figure(strength_sweep(prompted), answer)], [], prompted.explanation.notes)


@to_html.register
def _discovery(discovery: Discovery) -> str:
    outcome = search_outcome(discovery)
    return _page([_figure(spurious(discovery), outcome)], [outcome], discovery.notes)


@to_html.register
def _marks(discovery: MarkDiscovery) -> str:
    outcome = marks_outcome(discovery)
    return _page([_figure(marks(discovery), outcome)], [outcome], discovery.notes)


def _answer(explanation: Explanation, index: int, start: str) -> str:
    return f"{start}{headline(explanation, index)}, {selection_text(explanation, index)}"


def _figure(picture: Figure, description: str) -> str:
    """Return a figure as an image; the description is read aloud where pictures are not seen."""
    stream = BytesIO()
    picture.savefig(stream, format="png", dpi=RESOLUTION)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}" '
        'style="max-width: 100%">'
    )


def _page(figures: list[str], sentences: list[str], notes: tuple[str, ...]) -> str:
    """Return figures with sentences above them and notes below them."""
    above = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    below = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<div>{above}{''.join(figures)}{f'<ul>{below}</ul>' if below else ''}</div>"
