"""Pictures of explanations: a map on its picture, what one map is made of, many maps side by side.

The only package that draws. It uses matplotlib's figures without pyplot, so it changes no global
state, opens no window and works on any machine. It knows an `Explanation`, a `Comparison`, an
`Analysis`, `Steps`, a `Discovery` and the `Table` of a benchmark, and nothing of models.
"""

from .analysis import analysis
from .benchmark import benchmark
from .comparison import comparison
from .figure import figure
from .overlay import Picture, overlay
from .reconstruction import reconstruction
from .spurious import spurious
from .steps import steps

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
