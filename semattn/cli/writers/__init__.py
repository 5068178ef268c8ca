"""Writers of the result files of the commands: figures, maps, tables and JSON.

A result folder is written completely or not at all. The package must not import the command line.
"""

from ...utils.result_folder import OutputError, ResultFolder, default_folder, source_of
from .analysis import ANALYSIS_FILES, write_analysis
from .benchmark import BENCHMARK_FILES, write_benchmark
from .comparison import COMPARISON_FILES, write_comparison
from .explanation import FILES, predicted, summary, write
from .spurious import SPURIOUS_FILES, write_spurious
from .strength_sweep import STRENGTH_SWEEP_FILES, write_strength_sweep

__all__ = [
    "ANALYSIS_FILES",
    "BENCHMARK_FILES",
    "COMPARISON_FILES",
    "FILES",
    "SPURIOUS_FILES",
    "STRENGTH_SWEEP_FILES",
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
    "write_strength_sweep",
]
