"""Explanations of a whole data loader, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from typing import Any

from ..attention.target import TargetLike
from ..explain import Explainer, Explanation
from ..utils.processes import ignore_progress
from ..utils.validation import check_labels
from .progress import progress_bar
from .quantus import MAX_CLASSES


def explain_batches(
    explainer: Explainer,
    loader: Iterable[Any],
    *,
    target: TargetLike = None,
    progress: bool = True,
) -> Iterator[Explanation]:
    """Explain a data loader batch by batch, with a progress bar on a terminal or in a notebook.

    Parameters
    ----------
    explainer : an explainer that was created with a model
    loader : batches: images, sequences that start with (images, labels), or mappings of
        "pixel_values", or "image", and "labels", or "label"
    target : "labels" explains each image's label; else as for `Explainer.attribute`, so another
        text is a class name
    progress : whether to show a progress bar

    Yields
    ------
    The `Explanation` of each batch. The model must not change: the manifest is created once.

    Examples
    --------
    >>> import timm, torch
    >>> from semattn import SIFTPatchInterrelation
    >>> explainer = SIFTPatchInterrelation(timm.create_model("test_vit", img_size=64))
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> loader = [(x, torch.tensor([0, 1]))] * 2
    >>> [batch.target.tolist() for batch in explain_batches(explainer, loader, target="labels")]
    [[0, 1], [0, 1]]
    """
    explains_labels = isinstance(target, str) and target == "labels"
    manifest = None
    total = len(loader) if isinstance(loader, Sized) else None
    with progress_bar() if progress else nullcontext(ignore_progress) as show_progress:
        show_progress("explaining", 0, total)
        for number, batch in enumerate(loader):
            images, labels = _unpack_batch(batch)
            if explains_labels and labels is None:
                raise ValueError(
                    "target: expected batches with labels, got images alone — "
                    "give a target, or None for the predicted classes"
                )
            batch_target: Any = target
            if explains_labels:
                batch_target = check_labels(labels, len(images), MAX_CLASSES)
            explanation = explainer.explain(images, target=batch_target, manifest=manifest)
            manifest = explanation.manifest
            yield explanation
            show_progress("explaining", number + 1, total)


def _unpack_batch(batch: Any) -> tuple[Any, Any]:
    """Return the images and the labels of a batch; labels are None if it has none."""
    if isinstance(batch, Mapping):
        images = batch.get("pixel_values", batch.get("image"))
        if images is None:
            raise ValueError(
                f"loader: expected batches with 'pixel_values' or 'image', got {', '.join(batch)}"
            )
        return images, batch.get("labels", batch.get("label"))
    if isinstance(batch, list | tuple):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None
