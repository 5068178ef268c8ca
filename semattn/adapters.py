"""Adapters for Quantus and pytorch-grad-cam, and explanation of a data loader.

Each adapter creates an explainer by name and returns its maps in the format of the other library.
These libraries are not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .attention.target import Target
from .checks import as_tensor, check_labels
from .explain import Explainer, Explanation, explainers
from .registry import choices

_MAX_CLASSES = 2**31  # the model's number of classes is checked later, with the target
_QUANTUS_KEYWORDS = ("device", "method")  # added to each call by Quantus


def quantus_explain_func(
    method: Any = "sift-patch-interrelation", *, batch_size: int = 16, **options: Any
) -> Callable[..., np.ndarray]:
    """Return an explainer as an ``explain_func`` of Quantus.

    Parameters
    ----------
    method : name in `semattn.explain.explainers`, or an explainer class
    batch_size : number of images explained at a time
    options : options of the explainer

    Returns
    -------
    A function ``(model, inputs, targets)`` with images (B, C, H, W) and classes (B,) as arrays,
    which returns maps (B, 1, H, W) float32. Pass ``explain_func_kwargs={}`` to
    ``quantus.evaluate``. The function runs on the device of the model and ignores ``device``.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = np.random.default_rng(0).random((2, 3, 64, 64))
    >>> quantus_explain_func()(model=vit, inputs=x, targets=np.array([1, 2])).shape
    (2, 1, 64, 64)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 at least, got {batch_size}")
    explainer = explainers.ensure(method)(**options)

    def explain_func(
        model: nn.Module, inputs: Any, targets: Any = None, **extra: Any
    ) -> np.ndarray:
        if unknown := sorted(extra.keys() - set(_QUANTUS_KEYWORDS)):
            raise TypeError(
                f"explain_func: expected explain_func_kwargs={{}}, got {', '.join(unknown)} — "
                "give options to quantus_explain_func"
            )
        images = as_tensor(inputs)
        labels = (
            None if targets is None else check_labels(targets, len(images), _MAX_CLASSES, "targets")
        )
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            target = None if labels is None else labels[rows]
            parts.append(_to_heat_map(explainer.attribute(model, images[rows], target=target)))
        return np.concatenate(parts)[:, None]

    explain_func.__name__ = f"semattn_{explainer.name}"
    return explain_func


class CAM:
    """Explainer with the interface of the classes of pytorch-grad-cam.

    Needs no target layers and no reshape transform.

    Parameters
    ----------
    model : the model to explain
    method : name in `semattn.explain.explainers`, or an explainer class
    options : options of the explainer

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> with CAM(vit) as cam:
    ...     cam(input_tensor=x, targets=None).shape
    (2, 64, 64)
    """

    def __init__(
        self, model: nn.Module, method: Any = "sift-patch-interrelation", **options: Any
    ) -> None:
        self.model = model
        self.explainer: Explainer = explainers.ensure(method)(**options)

    def __call__(self, input_tensor: Any, targets: Target = None) -> np.ndarray:
        """Return maps (B, H, W) float32 in [0, 1], as ``show_cam_on_image`` expects them.

        Parameters
        ----------
        input_tensor : (B, C, H, W), or any image input
        targets : one function of the output for each image, such as
            ``[ClassifierOutputTarget(3)]``; or any target of an explainer; None is the predicted
            class
        """
        heat_map = _to_heat_map(self.explainer.attribute(self.model, input_tensor, target=targets))
        least, greatest = heat_map.min((1, 2), keepdims=True), heat_map.max((1, 2), keepdims=True)
        return (heat_map - least) / np.maximum(greatest - least, np.finfo(np.float32).tiny)

    def __enter__(self) -> CAM:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no hooks stay on the model between calls."""


def explain_batches(
    explainer: Explainer,
    loader: Iterable[Any],
    *,
    target: Target | str = None,
    progress: bool = True,
) -> Iterator[Explanation]:
    """Explain a data loader batch by batch, with a progress bar on a terminal's standard error.

    Parameters
    ----------
    explainer : an explainer that was created with a model
    loader : batches: images, sequences that start with (images, labels), or mappings of
        "pixel_values", or "image", and "labels", or "label"
    target : "labels" explains each image's label; else as for `Explainer.attribute`
    progress : whether to show a progress bar

    Yields
    ------
    The `Explanation` of each batch. The model must not change: the manifest is created once.

    Examples
    --------
    >>> import timm
    >>> from semattn import SIFTPatchInterrelation
    >>> explainer = SIFTPatchInterrelation(timm.create_model("test_vit", img_size=64))
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> loader = [(x, torch.tensor([0, 1]))] * 2
    >>> [batch.target.tolist() for batch in explain_batches(explainer, loader, target="labels")]
    [[0, 1], [0, 1]]
    """
    if isinstance(target, str) and target != "labels":
        raise ValueError(choices("target", target, ["labels"]))
    manifest = None
    with _progress_bar(loader, shown=progress) as batches:
        for batch in batches:
            images, labels = _unpack_batch(batch)
            if target == "labels" and labels is None:
                raise ValueError(
                    "target: expected batches with labels, got images alone — "
                    "give a target, or None for the predicted classes"
                )
            batch_target: Any = target
            if isinstance(target, str):
                batch_target = check_labels(labels, len(images), _MAX_CLASSES)
            explanation = explainer.explain(images, target=batch_target, manifest=manifest)
            manifest = explanation.manifest
            yield explanation


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


@contextmanager
def _progress_bar(loader: Iterable[Any], *, shown: bool) -> Iterator[Iterable[Any]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    if not (shown and console.is_terminal):
        yield loader
        return
    bar = Progress(*columns, TimeRemainingColumn(), console=console)
    total = len(loader) if isinstance(loader, Sized) else None
    with bar:
        yield bar.track(loader, total=total, description="explaining")


def _to_heat_map(attribution: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    """Sum an attribution (B, C, H, W) over channels, and return a float32 array (B, H, W)."""
    assert isinstance(attribution, Tensor)
    return attribution.detach().sum(dim=1).to("cpu", torch.float32).numpy()
