"""semattn as other libraries' tools call an explainer, and over a whole data loader.

Thin shells: each makes an explainer by name and hands its maps over in the form that is wanted.
None of those libraries is imported.
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

_MOST = 2**31  # labels are held against the outputs of the model later, as targets
_QUANTUS = ("device", "method")  # what Quantus adds to a call by itself


def quantus_explain_func(
    method: Any = "sift-patch-interrelation", *, batch_size: int = 16, **options: Any
) -> Callable[..., np.ndarray]:
    """An explainer as the ``explain_func`` of Quantus.

    Parameters
    ----------
    method : name in `semattn.explain.explainers`, or such a class
    batch_size : images explained at a time
    options : of the method

    Returns
    -------
    A function ``(model, inputs, targets)`` of a model, images (B, C, H, W) and classes (B,), both
    arrays, that gives the maps (B, 1, H, W) float32. Give ``quantus.evaluate`` also
    ``explain_func_kwargs={}``. It runs where the model is: the ``device`` that Quantus sends along
    is the model's own.

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

    def explain_func(model: nn.Module, inputs: Any, targets: Any = None, **more: Any) -> np.ndarray:
        if unknown := sorted(more.keys() - set(_QUANTUS)):
            raise TypeError(
                f"explain_func: expected explain_func_kwargs={{}}, got {', '.join(unknown)} — "
                "give options to quantus_explain_func"
            )
        images = as_tensor(inputs)
        labels = None if targets is None else check_labels(targets, len(images), _MOST, "targets")
        parts = []
        for start in range(0, len(images), batch_size):
            one = slice(start, start + batch_size)
            target = None if labels is None else labels[one]
            parts.append(_heat(explainer.attribute(model, images[one], target=target)))
        return np.concatenate(parts)[:, None]

    explain_func.__name__ = f"semattn_{explainer.name}"
    return explain_func


class CAM:
    """An explainer as pytorch-grad-cam's classes are called.

    Needs no target layers and no reshape: it finds the attention, and its grid, by itself.

    Parameters
    ----------
    model : the model to explain
    method : name in `semattn.explain.explainers`, or such a class
    options : of the method

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
        """The maps (B, H, W) float32, each from 0 to 1, as ``show_cam_on_image`` takes them.

        Parameters
        ----------
        input_tensor : (B, C, H, W), or any picture
        targets : one an image, such as ``[ClassifierOutputTarget(3)]``: functions of that image's
            output; or what else an explainer takes; None is the predicted class
        """
        heat = _heat(self.explainer.attribute(self.model, input_tensor, target=targets))
        least, greatest = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
        return (heat - least) / np.maximum(greatest - least, np.finfo(np.float32).tiny)

    def __enter__(self) -> CAM:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left on a model between calls, so there is nothing to take away."""


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
    explainer : made with a model
    loader : batches: images, sequences that start with (images, labels), or mappings of
        "pixel_values", or "image", and "labels", or "label"
    target : "labels" explains each image's label; else as for `Explainer.attribute`
    progress : False shows no bar

    Yields
    ------
    The `Explanation` of each batch; the manifest is made once, so the model must stay as it is.

    Examples
    --------
    >>> import timm
    >>> from semattn import SIFTPatchInterrelation
    >>> explainer = SIFTPatchInterrelation(timm.create_model("test_vit", img_size=64))
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> loader = [(x, torch.tensor([0, 1]))] * 2
    >>> [made.target.tolist() for made in explain_batches(explainer, loader, target="labels")]
    [[0, 1], [0, 1]]
    """
    if isinstance(target, str) and target != "labels":
        raise ValueError(choices("target", target, ["labels"]))
    manifest = None
    with _bar(loader, shown=progress) as batches:
        for batch in batches:
            images, labels = _entries(batch)
            if target == "labels" and labels is None:
                raise ValueError(
                    "target: expected batches with labels, got images alone — "
                    "give a target, or None for the predicted classes"
                )
            wanted: Any = target
            if isinstance(target, str):
                wanted = check_labels(labels, len(images), _MOST)
            made = explainer.explain(images, target=wanted, manifest=manifest)
            manifest = made.manifest
            yield made


def _entries(batch: Any) -> tuple[Any, Any]:
    """The images of a batch and their labels, None where it has none."""
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
def _bar(loader: Iterable[Any], *, shown: bool) -> Iterator[Iterable[Any]]:
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


def _heat(attribution: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    """An attribution (B, C, H, W) as its map (B, H, W), a float32 array."""
    assert isinstance(attribution, Tensor)
    return attribution.detach().sum(dim=1).to("cpu", torch.float32).numpy()
