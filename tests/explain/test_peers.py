"""Equality with other implementations; skipped if they are not installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semattn import GradCAM, LeGrad
from tests.models import build, images

TARGET = [1, 3]


@pytest.mark.parametrize(("name", "prefix"), [("class-token", 1), ("registers", 5), ("gap", 0)])
@pytest.mark.parametrize("layer", [None, "blocks.1"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_grad_cam_equals_pytorch_grad_cam(name: str, prefix: int, layer: str | None) -> None:
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = build(name), images()

    def reshape_transform(tokens: Tensor) -> Tensor:
        return tokens[:, prefix:].unflatten(1, (3, 4)).permute(0, 3, 1, 2)

    module = model.blocks[-1].norm1 if layer is None else model.get_submodule(layer)
    with peer.GradCAM(model, [module], reshape_transform=reshape_transform) as cam:
        reference = cam(x, [ClassifierOutputTarget(target) for target in TARGET])
    actual = GradCAM(layer=layer).patch_map(model, x, target=TARGET).numpy()
    scaled = scale_cam_image(scale_cam_image(actual, (64, 48)))
    assert reference.std() > 0.05
    np.testing.assert_allclose(scaled, reference, atol=1e-4)


@pytest.mark.parametrize("layers", [None, [1, 3]])
def test_legrad_equals_torchcam_on_torchvisions_vit(layers: list[int] | None) -> None:
    methods = pytest.importorskip("torchcam.methods")
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=64, patch_size=16, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(1))
    layers_of_model = [model.encoder.layers[number] for number in layers or range(4)]
    with methods.LeGrad(model, layers_of_model) as extractor:
        scores = model(x)
        (reference,) = extractor(TARGET, scores, retain_graph=True)
        (unnormalised,) = extractor.compute_cams(TARGET, scores, normalized=False)
    actual = LeGrad(layers=layers).patch_map(model, x, target=TARGET)
    torch.testing.assert_close(
        actual / unnormalised.max(), unnormalised / unnormalised.max(), atol=1e-4, rtol=0
    )
    low, high = actual.amin((1, 2), keepdim=True), actual.amax((1, 2), keepdim=True)
    torch.testing.assert_close((actual - low) / (high - low), reference, atol=1e-4, rtol=0)
