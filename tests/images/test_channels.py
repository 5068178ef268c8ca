"""Inputs of any number of channels: every method, their stand-in picture, and the prompter."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import timm
import torch

from semattn.cli.image_writers import explanation_summary
from semattn.errors import ShapeError
from semattn.explain import explainers
from semattn.images import luma, pixels_of, prepare
from semattn.keypoints import detect
from semattn.prompting import AttentionPrompter, Box
from semattn.viz import figure

CHANNELS = (1, 2, 4, 6, 13)
PIXEL_METHODS = {"attn-lrp", "input-x-gradient", "integrated-gradients", "smooth-grad", "occlusion"}


@functools.cache
def model_of(channels):
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        model = timm.create_model("test_vit", img_size=64, in_chans=channels, num_classes=5)
        for weight in model.parameters():
            weight.data += 0.02 * torch.randn_like(weight)
    return model.eval()


def inputs_of(channels, batch=2):
    return torch.randn(batch, channels, 64, 64, generator=torch.manual_seed(channels))


def made_with(name, **options):
    needs = {"density": "uniform"} if explainers[name].uses_keypoints else {}
    return explainers[name](**needs | options)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", sorted(explainers))
def test_every_method_takes_any_number_of_channels(name, channels):
    model, x = model_of(channels), inputs_of(channels)
    attribution = made_with(name).attribute(model, x, target=1)
    assert attribution.shape == x.shape and bool(attribution.isfinite().all())
    patches = made_with(name).patch_map(model, x, target=1)
    explanation = made_with(name).explain(model, x, target=1)
    torch.testing.assert_close(explanation.patch_map, patches)
    torch.testing.assert_close(attribution.sum(dim=1), explanation.heat_map)
    if name not in PIXEL_METHODS:  # those tell the channels apart
        torch.testing.assert_close(attribution, attribution[:, :1].expand_as(attribution))
    note = f"The picture shows the mean of the {channels} channels."
    assert (note in explanation.notes) is (channels != 1)
    assert explanation.images.inputs.data_ptr() == x.data_ptr()  # the model gets what was given


def test_channels_in_another_order_give_the_same_map():
    """The grey picture and the number of channels change nothing of what the model says."""
    model, x = model_of(6), inputs_of(6)
    order = [5, 3, 1, 0, 2, 4]
    other = timm.create_model("test_vit", img_size=64, in_chans=6, num_classes=5).eval()
    state = dict(model.state_dict())
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, order]
    other.load_state_dict(state)
    method = made_with("sift-patch-interrelation")
    torch.testing.assert_close(
        method.patch_map(model, x, target=2), method.patch_map(other, x[:, order], target=2)
    )


def test_the_picture_is_the_mean_of_the_stretched_channels():
    x = inputs_of(4) * torch.tensor([1.0, 100.0, 0.01, 3.0])[:, None, None] + 7
    x[:, 3] = 5.0  # a constant channel is black
    images = prepare(x, any_channels=True)
    assert images.pixels_are_mean and images.pixels.dtype == np.uint8
    values = x.double().numpy()
    least, greatest = values.min(axis=(2, 3), keepdims=True), values.max(axis=(2, 3), keepdims=True)
    expected = ((values - least) / np.where(greatest > least, greatest - least, 1)).mean(
        axis=1
    ) * 255
    for channel in range(3):
        assert np.abs(images.pixels[..., channel] - expected).max() <= 0.51


def test_values_and_shapes_are_checked_as_for_colours():
    x = inputs_of(6)
    x[1, 5, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or inf in image 1"):
        prepare(x, any_channels=True)
    with pytest.raises(ShapeError, match="expected a non-empty"):
        prepare(torch.zeros(1, 0, 8, 8), any_channels=True)
    for channels in (2, 6):
        with pytest.raises(ShapeError, match="C of 1 or 3"):  # by default, as before
            pixels_of(inputs_of(channels))


def test_one_channel_is_a_picture_with_keypoints():
    x = inputs_of(1)
    explanation = explainers["sift-patch-interrelation"](model_of(1)).explain(x, target=0)
    assert len(explanation.keypoints[0]) > 0 and not explanation.images.pixels_are_mean


@pytest.mark.parametrize("name", ["sift-patch-interrelation", "keypoint-density"])
@pytest.mark.parametrize("density", ["count", "distinct", "shifted", lambda scene: None])
def test_keypoints_of_a_mean_of_channels_are_refused(name, density):
    method = explainers[name](density=density)
    for call in (method.attribute, method.patch_map, method.explain):
        with pytest.raises(ShapeError, match=r'got 6 — set density="uniform", which') as error:
            call(model_of(6), inputs_of(6), target=0)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("density", ["uniform", "random", "center", "sobel", "canny"])
def test_densities_without_keypoints_work(density):
    x = inputs_of(6)
    explanation = explainers["keypoint-density"](density=density).explain(model_of(6), x, target=0)
    assert explanation.patch_map.shape == (2, 4, 4)
    explainer = explainers["keypoint-density"](density=explanation.concentration)
    assert explainer.attribute(model_of(6), x, target=0).shape == x.shape


def test_keypoints_of_another_picture_may_be_given():
    x = inputs_of(6)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    method = explainers["sift-patch-interrelation"](density="count")
    points = detect(pictures)
    explanation = method.explain(model_of(6), x, target=0, keypoints=points)
    assert [len(keypoints) for keypoints in explanation.keypoints] == [
        len(keypoints) for keypoints in points
    ]
    assert explanation.concentration.std() > 0


def test_results_and_figures_of_many_channels():
    explanation = made_with("raw-attention").explain(model_of(13), inputs_of(13), target=0)
    result = explanation_summary(explanation)
    assert result["keypoints"] == {"detector": "none", "count": 0}
    assert "The picture shows the mean of the 13 channels." in result["notes"]
    figure(explanation)
    spread = explanation.images.pixels.astype(float)
    assert spread.std() > 0 and np.allclose(luma(explanation.images.pixels) * 255, spread[..., 0])


def test_a_model_of_other_channels_is_named_in_one_line():
    with pytest.raises(ShapeError, match="expected 4 channels, got 6") as e:
        made_with("raw-attention").attribute(model_of(4), inputs_of(6), target=0)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_prompter_takes_weights_regions_and_densities_without_keypoints(channels):
    model, x = model_of(channels), inputs_of(channels)
    weights = torch.zeros(16)
    weights[5] = 1
    with torch.no_grad():
        plain = model(x)
        for led in (weights, Box(8, 8, 30, 30), Box(8, 8, 30, 30, grow=None), "sobel", "random"):
            with AttentionPrompter(model, strength=1.0).steer(led):
                assert not torch.equal(model(x), plain)
        assert torch.equal(model(x), plain)
        if channels == 1:
            return
        with (
            pytest.raises(ShapeError, match=f"got {channels} — pass weights, one per patch, or"),
            AttentionPrompter(model).steer("count"),
        ):
            model(x)
