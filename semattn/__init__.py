"""Explain the attention of vision transformers through the keypoints of the image.

>>> from semattn import SIFTPatchInterrelation

Names are imported at first use: `import semattn` does not import plotting, OpenCV or model code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from . import (  # noqa: F401 — the _PARTS below
        integrations,
        interrelation,
        masking,
        pretraining,
        prompting,
        report,
        spurious,
        viz,
        zoo,
    )
    from .attention import AttentionRecord, record, steer
    from .density import densities
    from .explain import (
        AttentionRollout,
        Center,
        Explanation,
        GenericRelevance,
        GradCAM,
        GradientRollout,
        InputXGradient,
        IntegratedGradients,
        KeypointDensity,
        LeGrad,
        Occlusion,
        Random,
        RawAttention,
        SIFTPatchInterrelation,
        SmoothGrad,
        TransitionAttention,
        explainers,
    )
    from .explain.comparison import Comparison, compare
    from .grid import PatchGrid
    from .images import Images, Preprocessing, prepare
    from .interrelation import Analysis, analyze
    from .keypoints import Keypoints, detectors
    from .masking import GuidedMasking, Masks, mask_images
    from .pretraining import pretrain
    from .prompting import AttentionPrompter
    from .spurious import Discovery, SpuriousCue, discover_spurious
    from .zoo import load

_HOME = {
    "Analysis": "interrelation",
    "AttentionPrompter": "prompting",
    "AttentionRecord": "attention",
    "AttentionRollout": "explain",
    "Center": "explain",
    "Comparison": "explain.comparison",
    "Discovery": "spurious",
    "Explanation": "explain",
    "GenericRelevance": "explain",
    "GradCAM": "explain",
    "GradientRollout": "explain",
    "GuidedMasking": "masking",
    "Images": "images",
    "InputXGradient": "explain",
    "IntegratedGradients": "explain",
    "KeypointDensity": "explain",
    "Keypoints": "keypoints",
    "LeGrad": "explain",
    "Masks": "masking",
    "Occlusion": "explain",
    "PatchGrid": "grid",
    "Preprocessing": "images",
    "Random": "explain",
    "RawAttention": "explain",
    "SIFTPatchInterrelation": "explain",
    "SmoothGrad": "explain",
    "SpuriousCue": "spurious",
    "TransitionAttention": "explain",
    "analyze": "interrelation",
    "compare": "explain.comparison",
    "densities": "density",
    "detectors": "keypoints",
    "discover_spurious": "spurious",
    "explainers": "explain",
    "load": "zoo",
    "mask_images": "masking",
    "prepare": "images",
    "pretrain": "pretraining",
    "record": "attention",
    "steer": "attention",
}

# Subpackages that are used by name: semattn.report.write(…).
_PARTS = (
    "integrations", "interrelation", "masking", "pretraining", "prompting", "report", "spurious",
    "viz", "zoo",
)  # fmt: skip

__all__ = [
    "Analysis",
    "AttentionPrompter",
    "AttentionRecord",
    "AttentionRollout",
    "Center",
    "Comparison",
    "Discovery",
    "Explanation",
    "GenericRelevance",
    "GradCAM",
    "GradientRollout",
    "GuidedMasking",
    "Images",
    "InputXGradient",
    "IntegratedGradients",
    "KeypointDensity",
    "Keypoints",
    "LeGrad",
    "Masks",
    "Occlusion",
    "PatchGrid",
    "Preprocessing",
    "Random",
    "RawAttention",
    "SIFTPatchInterrelation",
    "SmoothGrad",
    "SpuriousCue",
    "TransitionAttention",
    "__version__",
    "analyze",
    "compare",
    "densities",
    "detectors",
    "discover_spurious",
    "explainers",
    "load",
    "mask_images",
    "prepare",
    "pretrain",
    "record",
    "steer",
]


if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Import `name` from the module that defines it (PEP 562)."""
        if name in _PARTS:
            return import_module(f".{name}", __name__)
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return all public names, imported or not."""
    return sorted(__all__)
