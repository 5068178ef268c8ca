"""`analyze`: from a model and pictures to an analysis."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..attention.sites import Layers, refuse
from ..images import Preprocessing
from .analysis import Analysis
from .reading import has_spare_cores, read_ahead, several
from .store import check_writable
from .study import Study


def analyze(
    model: nn.Module,
    images: Any,
    *,
    density: Any = "count",
    detector: Any = "sift",
    layers: Layers = None,
    draws: int | None = None,
    pool: int = 32,
    replicates: int = 200,
    batch_size: int = 4,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    partial: str | Path | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Analysis:
    """Weighted patch interrelation of one image, or of as many as there are.

    One forward pass an image, without gradients; memory does not grow with their number. In a
    sequence of images, those that cannot be read, and those without a keypoint, are left out and
    listed in `Analysis.skipped`; of a single image, the error is raised.

    Parameters
    ----------
    model : a vision transformer
    images : a picture in any form that `semattn.images.prepare` takes, a batch (B, C, H, W) as the
        model takes it, or a list or an iterable of pictures
    density, detector, preprocessing, seed : as for `semattn.explain.Explainer`
    layers : which self-attention layers; None is all
    draws : R of each null, for each image; None is 3, or 20 for a single image
    pool : how many images, the last ones before it, the null `other` of an image draws from; the
        first images draw from each other; under 3 there is none
    replicates : bootstrap samples of the images, for intervals
    batch_size : images in the model at once
    partial : a file to keep what is done in, every so often, and to go on from after an
        interruption, where the images begin with those that are in it, unchanged; removed at the
        end
    progress : called with the number of images done, and of all where it is known

    Raises
    ------
    UnsupportedModelError
        As `semattn.record` does.
    ImageError
        Of a single image; and where none of several is left.
    AnalysisFileError
        For a `partial` of another model or of other options; where `images` can be read only once,
        also for one of other images.

    Warns
    -----
    UserWarning
        Where images in `partial` changed or are gone: the analysis starts again.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> found = analyze(vit, torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)))
    >>> found.mean("alignment").shape  # layers, heads
    (6, 2)
    """
    many, total = several(images)
    if draws is None:
        draws = 20 if many is None else 3
    for name, value, least in (
        ("draws", draws, 2), ("pool", pool, 0), ("replicates", replicates, 0),
        ("batch_size", batch_size, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"{name}: expected {least} at least, got {value}")
    module = refuse(model, compiled=True)
    options = {
        "density": density, "detector": detector, "layers": layers, "draws": draws, "pool": pool,
        "replicates": replicates, "batch_size": batch_size, "seed": seed,
        "preprocessing": preprocessing,
    }  # fmt: skip
    study = Study(module, options)
    if partial is not None:
        check_writable(Path(partial))
        if isinstance(many, Sequence) or hasattr(many, "ndim"):
            _drop_changed(study, Path(partial), many)
    if many is None:
        loaded = study.reader.load(0, [images], strict=True)
        for note in loaded.images.notes if loaded.images else ():
            warnings.warn(note, stacklevel=2)
        study.take(loaded)
    else:
        study.take_all(
            read_ahead(study.reader.load, many, batch_size, has_spare_cores(module)),
            None if partial is None else Path(partial),
            lambda done: None if progress is None else progress(done, total),
        )
    return study.result()


def _drop_changed(study: Study, partial: Path, images: Any) -> None:
    """Start again where images that were analysed are not the first ones of the list any more."""
    if dropped := study.drop_changed(partial, images):
        warnings.warn(
            f"the analysis starts again: of the {dropped} images that an earlier run had analysed, "
            "some were edited, added, removed or moved",
            stacklevel=3,
        )
