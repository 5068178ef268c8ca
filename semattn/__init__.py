"""Explain the attention of vision transformers through the keypoints of the image.

>>> from semattn import SIFTPatchInterrelation

Names are imported at first use: `import semattn` does not import plotting, OpenCV or model code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .utils.lazy_names import lazy_names
from .version import __version__ as __version__

if TYPE_CHECKING:  # `as` marks the names as public for type checkers
    from . import (
        integrations as integrations,
        interrelation as interrelation,
        masking as masking,
        pretraining as pretraining,
        prompting as prompting,
        report as report,
        spurious as spurious,
        viz as viz,
        zoo as zoo,
    )
    from .attention import (
        AttentionRecord as AttentionRecord,
        record as record,
        steer as steer,
    )
    from .density import (
        densities as densities,
    )
    from .explain import (
        AttentionRollout as AttentionRollout,
        AttnLRP as AttnLRP,
        Center as Center,
        Explanation as Explanation,
        GenericRelevance as GenericRelevance,
        GradCAM as GradCAM,
        GradientRollout as GradientRollout,
        InputXGradient as InputXGradient,
        IntegratedGradients as IntegratedGradients,
        KeypointDensity as KeypointDensity,
        LeGrad as LeGrad,
        Occlusion as Occlusion,
        Random as Random,
        RawAttention as RawAttention,
        SIFTPatchInterrelation as SIFTPatchInterrelation,
        SmoothGrad as SmoothGrad,
        TransitionAttention as TransitionAttention,
        explainers as explainers,
    )
    from .explain.comparison import (
        Comparison as Comparison,
        compare as compare,
    )
    from .grid import (
        PatchGrid as PatchGrid,
    )
    from .images import (
        Images as Images,
        Preprocessing as Preprocessing,
        prepare as prepare,
    )
    from .interrelation import (
        Analysis as Analysis,
        analyze as analyze,
    )
    from .keypoints import (
        Keypoints as Keypoints,
        detectors as detectors,
    )
    from .masking import (
        GuidedMasking as GuidedMasking,
        Masks as Masks,
        mask_images as mask_images,
    )
    from .pretraining import (
        pretrain as pretrain,
    )
    from .prompting import (
        AttentionPrompter as AttentionPrompter,
    )
    from .spurious import (
        Discovery as Discovery,
        SpuriousCue as SpuriousCue,
        discover_spurious as discover_spurious,
        find_marks as find_marks,
    )
    from .zoo import (
        load as load,
    )

_NAMES = {
    "attention": (
        "AttentionRecord",
        "record",
        "steer",
    ),
    "density": ("densities",),
    "explain": (
        "AttentionRollout",
        "AttnLRP",
        "Center",
        "Explanation",
        "GenericRelevance",
        "GradCAM",
        "GradientRollout",
        "InputXGradient",
        "IntegratedGradients",
        "KeypointDensity",
        "LeGrad",
        "Occlusion",
        "Random",
        "RawAttention",
        "SIFTPatchInterrelation",
        "SmoothGrad",
        "TransitionAttention",
        "explainers",
    ),
    "explain.comparison": (
        "Comparison",
        "compare",
    ),
    "grid": ("PatchGrid",),
    "images": (
        "Images",
        "Preprocessing",
        "prepare",
    ),
    "interrelation": (
        "Analysis",
        "analyze",
    ),
    "keypoints": (
        "Keypoints",
        "detectors",
    ),
    "masking": (
        "GuidedMasking",
        "Masks",
        "mask_images",
    ),
    "pretraining": ("pretrain",),
    "prompting": ("AttentionPrompter",),
    "spurious": (
        "Discovery",
        "SpuriousCue",
        "discover_spurious",
        "find_marks",
    ),
    "zoo": ("load",),
}
"""Module to the public names that it defines, the same as above."""

_HOME = {name: module for module, names in _NAMES.items() for name in names}

# Subpackages that are used by name: semattn.report.write(…).
_PARTS = (
    "integrations", "interrelation", "masking", "pretraining", "prompting", "report", "spurious",
    "viz", "zoo",
)  # fmt: skip

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 — the keys are strings


if not TYPE_CHECKING:  # a type checker would accept every name
    __getattr__, _ = lazy_names(__name__, _HOME, _PARTS)


def __dir__() -> list[str]:
    """Return all public names, imported or not."""
    return sorted(__all__)
