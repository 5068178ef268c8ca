"""Figures of explanations, comparisons, analyses, prompting, discoveries, marks and benchmarks.

This is the only package that draws. It uses matplotlib figures without pyplot: it changes no global
state, opens no window and needs no display. It must not import models or commands.
"""

from .analysis_figure import analysis
from .benchmark_figure import benchmark
from .explanation_figures import comparison, figure
from .marks_figure import marks
from .overlay import Picture, overlay
from .reconstruction_figure import reconstruction
from .spurious_figure import spurious
from .strength_figure import strength_sweep

__all__ = [
    "Picture",
    "analysis",
    "benchmark",
    "comparison",
    "figure",
    "marks",
    "overlay",
    "reconstruction",
    "spurious",
    "strength_sweep",
]
