"""What a command leaves on the disk: pictures, maps, and a record of how they came about.

A folder of results is complete or it is not there. Knows explanations, comparisons, analyses,
steps, benchmarks, searches for cues and how to draw them, and nothing of the command line.
"""

from ...utils.result_folder import OutputError, ResultFolder, default_folder, source_of
from .analysis import ANALYSIS_FILES, write_analysis
from .benchmark import BENCHMARK_FILES, write_benchmark
from .comparison import COMPARISON_FILES, write_comparison
from .explanation import FILES, predicted, summary, write
from .spurious import SPURIOUS_FILES, write_spurious
from .strength_sweep import STEPS_FILES, write_steps

__all__ = [
    "ANALYSIS_FILES",
    "BENCHMARK_FILES",
    "COMPARISON_FILES",
    "FILES",
    "SPURIOUS_FILES",
    "STEPS_FILES",
    "OutputError",
    "ResultFolder",
    "default_folder",
    "predicted",
    "source_of",
    "summary",
    "write",
    "write_analysis",
    "write_benchmark",
    "write_comparison",
    "write_spurious",
    "write_steps",
]
