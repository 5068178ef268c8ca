"""Summary of how a model is read: its output, its tokens, its attention and its readout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..grid import PatchGrid
from ..utils.class_names import class_names
from .output_meaning import predict
from .record import record


@dataclass(frozen=True)
class ModelSummary:
    """How a model is read for images of one size.

    Parameters
    ----------
    grid : patches and prefix tokens
    in_order : whether each layer attends over all tokens in order, without windows or other grids
    layers : name, class and kind ("self" or "pool") of each attention site
    output_kind : kind of the output, see `semattn.targets.OutputKind`
    n_outputs : numbers that the model returns for an image
    classes : class names; () if they are unknown
    readout : share of the score that is read from each prefix token, and from all patches
    notes : what is left out, and what is assumed
    """

    grid: PatchGrid
    in_order: bool
    layers: tuple[tuple[str, str, str], ...]
    output_kind: str
    n_outputs: int
    classes: tuple[str, ...]
    readout: tuple[float, ...]
    notes: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """Return the summary ready for JSON."""
        return {
            "input": list(self.grid.image_size), "patches": list(self.grid.shape),
            "patch_size": list(self.grid.cell), "prefix_tokens": self.grid.prefix,
            "in_order": self.in_order, "output": self.output_kind, "outputs": self.n_outputs,
            "classes": list(self.classes), "notes": list(self.notes),
            "layers": [dict(zip(("name", "module", "kind"), row, strict=True))
                       for row in self.layers],
            "readout": {"prefix_tokens": list(self.readout[:-1]), "patches": self.readout[-1]},
        }  # fmt: skip


def summarize_model(model: nn.Module, inputs: Tensor) -> ModelSummary:
    """Record one pass and summarize how the model is read.

    Parameters
    ----------
    inputs : (B, C, H, W), preprocessed for the model

    Raises
    ------
    UnsupportedModelError
        For a model whose attention cannot be read correctly; the message names the module.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64).eval()
    >>> summary = summarize_model(vit, torch.rand(1, 3, 64, 64))
    >>> summary.grid.shape, summary.output_kind, len(summary.layers)
    ((4, 4), 'class logits', 6)
    """
    attention = record(model, inputs)
    _, meaning = predict(model, inputs)
    shares = attention.readout().mean(dim=0).tolist()
    prefix = attention.grid.prefix
    logits = attention.logits
    return ModelSummary(
        grid=attention.grid,
        in_order=attention.in_order,
        layers=tuple((row.site.name, row.site.module, row.site.kind) for row in attention.sites),
        output_kind=meaning.kind.value,
        n_outputs=logits[0].numel(),
        classes=(class_names(model) or ()) if meaning.has_answers else (),
        readout=(*shares[:prefix], sum(shares[prefix:])),
        notes=tuple(dict.fromkeys(filter(None, [*attention.notes, meaning.note]))),
    )
