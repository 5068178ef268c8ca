"""Interfaces of other libraries: Quantus, pytorch-grad-cam, PyTorch data loaders, notebooks.

Each adapter makes an explainer by name and returns its maps in the form that the other
library takes. None of those libraries is imported.
"""

from .cam import CAM
from .dataloader import explain_batches
from .progress import progress_bar
from .quantus import quantus_explain_func

__all__ = ["CAM", "explain_batches", "progress_bar", "quantus_explain_func"]
