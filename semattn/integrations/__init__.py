"""Interfaces of other libraries, from Quantus and torchmetrics to trainers and FiftyOne.

Each adapter takes or returns what the other library works with. Names are imported at first use;
no other library is imported before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from .cam import CAM
    from .dataloader import explain_batches
    from .dataset_columns import explain_columns
    from .fiftyone_export import write_fiftyone
    from .map_logging import log_maps
    from .progress import progress_bar
    from .quantus import quantus_explain_func
    from .torch_metrics import map_metric

__all__ = [
    "CAM",
    "explain_batches",
    "explain_columns",
    "log_maps",
    "map_metric",
    "progress_bar",
    "quantus_explain_func",
    "write_fiftyone",
]

_MODULES = {
    "CAM": "cam",
    "explain_batches": "dataloader",
    "explain_columns": "dataset_columns",
    "log_maps": "map_logging",
    "map_metric": "torch_metrics",
    "progress_bar": "progress",
    "quantus_explain_func": "quantus",
    "write_fiftyone": "fiftyone_export",
}

if not TYPE_CHECKING:  # a type checker would accept every name
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
