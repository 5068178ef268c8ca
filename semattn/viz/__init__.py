"""Pictures of explanations: a map on its picture, what one map is made of, many maps side by side.

The only package that draws. It uses matplotlib's figures without pyplot, so it changes no global
state, opens no window and works on any machine. It knows an `Explanation`, a `Comparison`, an
`Analysis`, `Steps`, a `Discovery` and the `Table` of a benchmark, and nothing of models.
"""

from .analysis_figure import analysis
from .benchmark_figure import benchmark
from .comparison_figure import comparison
from .explanation_figure import figure
from .overlay import Picture, overlay
from .reconstruction_figure import reconstruction
from .spurious_figure import spurious
from .strength_figure import steps

__all__ = [
    "Picture",
    "analysis",
    "benchmark",
    "comparison",
    "figure",
    "overlay",
    "reconstruction",
    "spurious",
    "steps",
]
