"""Interfaces of other explanation libraries: Quantus, pytorch-grad-cam, PyTorch data loaders.

Each function or class makes an explainer by name and returns its maps in the form that the other
library takes. None of those libraries is imported.
"""

from .cam import CAM
from .dataloader import explain_batches
from .quantus import quantus_explain_func

__all__ = ["CAM", "explain_batches", "quantus_explain_func"]
