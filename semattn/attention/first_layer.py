"""The layer at which the tokens of the image enter the transformer.

Its input has one feature vector for each patch. The layers before it, such as the patch embedding
or a convolutional stem, belong to the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .layer_features import FeatureLayout, capture, feature_layouts
from .model_call import ModelCall
from .model_layout import ModelLayout, known_layout
from .model_pass import KeepGradients, frozen
from .scope import isolated, model_running
from .target import output_tensor


def first_layer(model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None) -> str:
    """Return the name of the outermost module whose input is the tokens of the image.

    The first call for a model runs two extra passes; later calls read the name from the cache of
    the layout.

    Raises
    ------
    UnsupportedModelError
        If there is no such module, or if the output depends on the image by another path as well.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64).eval()
    >>> first_layer(vit, ModelCall.of(torch.zeros(1, 3, 64, 64)))
    'blocks'
    """
    with frozen(model):
        entry = known_layout(model, call, sites)
        if not entry.first_layer:
            entry.first_layer = _find(model, call.few(), entry.layout)
    return entry.first_layer


def _find(model: nn.Module, call: ModelCall, layout: ModelLayout) -> str:
    site = (layout.self_attention_sites or layout.sites)[0]
    parts = site.path.split(".")
    enclosing = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    layouts = feature_layouts(model, call, enclosing, attribute_to_layer_input=True)
    names = [
        name
        for name in enclosing
        if isinstance(entering := layouts.get(name), FeatureLayout)
        and entering.grid.shape == layout.grid.shape
    ]
    h, w = layout.grid.shape
    if not names:
        raise UnsupportedModelError(
            f"{site}: expected a module with the {h}x{w} patches as its input, got none — "
            "explain the pixels, or choose another model"
        )
    if not _is_only_path(model, call, names[0]):
        raise UnsupportedModelError(
            f"{names[0]}: expected a layer that the whole image passes through, got one of several "
            "paths from the image to the output — explain the pixels"
        )
    return names[0]


def _is_only_path(model: nn.Module, call: ModelCall, name: str) -> bool:
    """Return whether the output depends on the images through the input of `name` alone."""
    with isolated(), torch.inference_mode(False), torch.enable_grad():
        images = call.images.detach().clone().requires_grad_()
        module = model.get_submodule(name)
        with (
            KeepGradients(),  # paths through parts without gradients count as well
            capture(name, module, attribute_to_layer_input=True) as captured,
            model_running(),
        ):
            output = call.with_images(images).run(model)
        scores = output_tensor(output)
        if captured.tensor is None or not scores.requires_grad:
            return False
        ends = [captured.tensor, images]
        through_layer, past_layer = torch.autograd.grad(scores.sum(), ends, allow_unused=True)
    return through_layer is not None and past_layer is None
