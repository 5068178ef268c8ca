"""`analyze`: weighted patch interrelation of a model on images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..attention.sites import Layers, check_model
from ..data.loading import as_iterable, has_spare_cores, load_ahead
from ..images import Preprocessing
from ..utils.progress import Progress, ignore_progress
from .analysis import Analysis
from .analysis_files import check_writable
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
    progress: Progress | None = None,
) -> Analysis:
    """Analyse the weighted patch interrelation of one or more images.

    Each image needs one forward pass, without gradients. Memory does not grow with the number of
    images. Images that cannot be read, and images without a keypoint, are skipped and listed in
    `Analysis.skipped`; for a single image the error is raised.

    Parameters
    ----------
    model : a vision transformer
    images : an image in any form that `semattn.images.prepare` accepts, a batch (B, C, H, W) of
        model inputs, or a list or an iterable of images
    density, detector, preprocessing, seed : as for `semattn.explain.Explainer`
    layers : self-attention layers to analyse; None for all
    draws : R, number of draws of each null per image; None is 3, or 20 for a single image
    pool : number of preceding images that the null `other` draws from (the first images draw from
        each other); the null is left out if the pool has fewer than 3
    replicates : bootstrap samples of the images, for intervals
    batch_size : images per forward pass
    partial : file that saves intermediate results, and from which an interrupted run resumes if
        the images begin with those in the file, unchanged; removed at the end
    progress : called with the stage, the number of finished images and the total, if it is known

    Raises
    ------
    UnsupportedModelError
        As for `semattn.record`.
    ImageError
        If a single image is unusable, or no image of a list is usable.
    AnalysisFileError
        If `partial` has another model or other options, or has other images and `images` is an
        iterator.

    Warns
    -----
    UserWarning
        If images in `partial` were changed or removed: the analysis starts again.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> analysis = analyze(vit, torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)))
    >>> analysis.mean("alignment").shape  # layers, heads
    (6, 2)
    """
    image_list, total = as_iterable(images)
    if draws is None:
        draws = 20 if image_list is None else 3
    for name, value, minimum in (
        ("draws", draws, 2), ("pool", pool, 0), ("replicates", replicates, 0),
        ("batch_size", batch_size, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if value < minimum:
            raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    module = check_model(model, compiled=True)
    options = {
        "density": density, "detector": detector, "layers": layers, "draws": draws, "pool": pool,
        "replicates": replicates, "batch_size": batch_size, "seed": seed,
        "preprocessing": preprocessing,
    }  # fmt: skip
    study = Study(module, options)
    if partial is not None:
        check_writable(Path(partial))
        if isinstance(image_list, Sequence) or hasattr(image_list, "ndim"):
            _drop_changed(study, Path(partial), image_list)
    if image_list is None:
        loaded = study.image_loader.load(0, [images], strict=True)
        for note in loaded.images.notes if loaded.images else ():
            warnings.warn(note, stacklevel=2)
        study.take(loaded)
    else:
        study.take_all(
            load_ahead(study.image_loader.load, image_list, batch_size, has_spare_cores(module)),
            None if partial is None else Path(partial),
            progress or ignore_progress,
            total,
        )
    return study.result()


def _drop_changed(study: Study, partial: Path, images: Any) -> None:
    """Warn and start again if the analysed images are no longer the first ones of the list."""
    if n_dropped := study.drop_changed(partial, images):
        warnings.warn(
            f"the analysis starts again: of the {n_dropped} images of the interrupted run, "
            "some were edited, added, removed or moved",
            stacklevel=3,
        )
