"""Evaluation of methods on images with masks: values, resuming, refusals, and the table."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from semattn import SIFTPatchInterrelation
from semattn.errors import ImageError, SemattnError, UnsupportedModelError
from semattn.evaluation import (  # fmt: skip
    DEFAULT,
    Setting,
    evaluate,
    heading,
    markdown,
    measures,
    method,
    page,
    peers,
    table,
)
from semattn.evaluation.peer_methods import put_back
from semattn.evaluation.table import is_control
from semattn.explain import explainers
from semattn.explain.refine import refinements
from semattn.images import Preprocessing, prepare
from semattn.metrics import faithfulness, localization

ROWS = [
    "sift-patch-interrelation",
    "sift-patch-interrelation:uniform",
    "attention-rollout",
    "random",
]
SETTING = Setting(steps=4, n_samples=4)


@dataclass(frozen=True)
class Item:
    name: str
    image: Image.Image
    mask: np.ndarray | None
    label: int | None


class Data:
    """Five pictures, of which the third cannot be read."""

    classes = ("cat", "dog")

    def __init__(self, broken: int | None = 2, masked: bool = True) -> None:
        self.broken, self.masked, self.read = broken, masked, 0
        self.about = {"name": "tests"}

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Item:
        self.read += 1
        if index == self.broken:
            raise ImageError("image: expected a picture, got none")
        chance = np.random.default_rng(index)
        picture = chance.integers(0, 255, (12, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        mask = np.zeros((96, 160), bool)
        mask[20 : 60 + 5 * index, 30 + 10 * index : 90] = True
        image = Image.fromarray(picture)
        return Item(f"picture {index}", image, mask if self.masked else None, index % 2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=64).eval()


@pytest.fixture(scope="module")
def results(model):
    return evaluate(model, Data(), ROWS, list(measures), setting=SETTING)


def test_values_equal_those_of_the_metrics(model, results):
    data, preprocessing = Data(), Preprocessing.of(model)
    for row, index in enumerate((0, 1, 3, 4)):
        item = data[index]
        images = prepare(item.image, preprocessing)
        page = Image.fromarray(255 * item.mask.astype(np.uint8)).convert("RGB")
        mask = torch.from_numpy(np.asarray(preprocessing.fit(page).convert("L")) > 127)[None]
        target = int(model(images.inputs).argmax())
        explanation = explainers["attention-rollout"]().explain(model, images.inputs, target=target)
        column = dict(zip(results.metrics, results.values[row, 2], strict=True))
        ap = localization.average_precision(explanation.heat_map, mask)
        assert column["ap"] == pytest.approx(float(ap))
        curves = faithfulness.curves(
            model,
            images.inputs,
            explanation.patch_map,
            torch.tensor([target]),
            grid=explanation.grid,
            fractions=4,
        )
        expected = float(faithfulness.insertion_deletion(curves))
        assert column["insertion-deletion"] == pytest.approx(expected, abs=1e-9)
        assert column["target-sensitivity"] == 0  # rollout does not mind the class
    assert results.names == tuple(f"picture {i}" for i in (0, 1, 3, 4))
    assert results.skipped == (("image 2", "image: expected a picture, got none"),)
    conservation = list(results.metrics).index("conservation-error")
    assert np.isfinite(results.seconds).all()
    assert np.isfinite(np.delete(results.values, conservation, axis=2)).all()
    assert np.isnan(results.values[:, 2, conservation]).all()  # rollout distributes no score


def test_an_interrupted_run_resumes_with_equal_results(model, results, tmp_path):
    class StopError(Exception):
        pass

    def stop(stage: str, done: int, total: int | None) -> None:
        if done == 3:
            raise StopError

    options = {
        "methods": ROWS,
        "metrics": list(measures),
        "setting": SETTING,
        "folder": tmp_path,
    }
    with pytest.raises(StopError):
        evaluate(model, Data(), **options, progress=stop)
    (tmp_path / "000003.part").write_text("half")
    data, steps = Data(), []
    again = evaluate(model, data, **options, progress=lambda *step: steps.append(step))
    np.testing.assert_array_equal(again.values, results.values)
    assert steps == [("evaluating", i, 5) for i in range(1, 6)] and again.names == results.names
    times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    evaluate(model, Data(), **options)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")} == times
    with pytest.raises(SemattnError, match="out: expected results of this run") as error:
        evaluate(model, data, **{**options, "setting": replace(SETTING, steps=5)})
    assert "\n" not in str(error.value)


def test_labels_are_explained_if_the_model_has_the_class_names(model):
    classes = [f"class {number}" for number in range(998)] + ["dog", "cat"]
    results = evaluate(model, Data(None), ["random"], ["gini"], classes=classes)
    assert results.right == (False,) * 5
    assert evaluate(model, Data(None), ["random"], ["gini"]).right == (None,) * 5


def test_metrics_that_need_masks_are_nan_without_masks(model):
    results = evaluate(model, Data(None, masked=False), ROWS, ["ap", "insertion"], setting=SETTING)
    assert np.isnan(results.values[:, :, 0]).all() and np.isfinite(results.values[:, :, 1]).all()
    comparison = table(results)
    assert "–" in markdown(comparison)


def test_a_method_that_refuses_is_listed_with_its_reason(model):
    @peers.register("tests/refuses")
    def refuses(*_):
        from semattn.errors import UnsupportedModelError

        raise UnsupportedModelError("model: expected another, got this")

    try:
        results = evaluate(model, Data(), ["random", "tests/refuses"], ["gini"])
    finally:
        del peers["tests/refuses"]
    assert results.refused == {"tests/refuses": "model: expected another, got this"}
    assert table(results).methods == ("random",)


def test_a_failing_peer_does_not_end_the_run(model):
    @peers.register("tests/breaks")
    def breaks(*_):
        raise KeyError("its own\nfault")

    try:
        results = evaluate(model, Data(), ["random", "tests/breaks"], ["gini"])
    finally:
        del peers["tests/breaks"]
    why = results.refused["tests/breaks"]
    assert "KeyError" in why and "\n" not in why and np.isfinite(results.values[:, 0]).all()


def test_the_table_compares_in_pairs_and_puts_controls_last(results):
    comparison = table(results)
    assert comparison.methods[-1] != "attention-rollout" and comparison.controls == {
        "sift-patch-interrelation:uniform", "random",
    }  # fmt: skip
    assert comparison.baselines == ("attention-rollout", "sift-patch-interrelation:uniform")
    k = results.metrics.index("ap")
    paired = comparison.differences["random", "attention-rollout", "ap"]
    assert paired.mean == pytest.approx((results.values[:, 3, k] - results.values[:, 2, k]).mean())
    assert paired.corrected >= paired.p
    text = markdown(comparison)
    assert text.count("minus attention-rollout") == 1 and "random (control)" in text
    with pytest.raises(ValueError, match="baselines: expected some of"):
        table(results, ["grad-cam"])


def test_the_page_names_data_settings_and_directions(model, results):
    text = page(results, table(results))
    assert text.startswith(markdown(table(results)).rstrip("\n"))
    assert (
        "4 images" in text
        and "perturbed in 4 steps with baseline blur" in text
        and "in float32" in text
    )
    assert "target: the predicted class" in text or "target: the true class" in text
    assert (heading("ap"), heading("deletion")) == ("AP ↑", "deletion ↓")
    refused = replace(results, refused={"random": "model: expected another"})
    assert "Refused: random: model: expected another" in page(refused, table(refused))


def test_is_control():
    is_control_by_name = [
        is_control(name) for name in ("random", "grad-cam", "grad-cam:sobel", "legrad:size")
    ]
    assert is_control_by_name == [True, False, True, False]


@pytest.mark.parametrize("name", DEFAULT)
def test_default_methods_exist(name):
    assert callable(method(name))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"methods": ["atention-rollout"]},
            "method: unknown name 'atention-rollout' — did you mean",
        ),
        ({"methods": ["random:coutn"]}, "did you mean 'count'"),
        ({"methods": ["captum/Oclusion"]}, "did you mean 'captum/Occlusion'"),
        ({"metrics": ["app"]}, "metric: unknown name 'app' — did you mean"),
        ({"methods": ["random", "random"]}, "without repetition"),
    ],
)
def test_errors_for_unknown_names_suggest_the_nearest(model, changed, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluate(model, Data(), **({"methods": ["random"]} | changed))
    assert "\n" not in str(error.value)


def test_perturbed_images_in_another_precision(model, results):
    half = evaluate(
        model, Data(), ROWS, ["ap", "deletion"], setting=replace(SETTING, precision="bfloat16")
    )
    columns = [results.metrics.index(metric) for metric in half.metrics]
    assert np.array_equal(half.values[..., 0], results.values[..., columns[0]])
    low, high = half.values[..., 1], results.values[..., columns[1]]
    assert not np.array_equal(low, high)
    np.testing.assert_allclose(low, high, atol=0.02)
    with pytest.raises(ValueError, match="did you mean 'float16'"):
        Setting(precision="flaot16")


def test_data_without_a_readable_image_is_refused(model):
    class Unreadable(Data):
        def __getitem__(self, index):
            raise ImageError("image: expected a picture, got none")

    with pytest.raises(SemattnError, match="data: expected one image that can be read"):
        evaluate(model, Unreadable(), ["random"], ["gini"])


PACKAGES = {
    "captum": "captum",
    "fast-vit-rollout": "fast_vit_rollout",
    "hilrp": "hilrp.vit_lxt",
    "pytorch-grad-cam": "pytorch_grad_cam",
    "torchcam": "torchcam",
}


@pytest.mark.parametrize("name", sorted(peers))
def test_peers_run_as_rows(model, name):
    pytest.importorskip(PACKAGES[name.split("/")[0]], exc_type=ImportError)
    pre = Preprocessing.of(model)
    if name == "torchcam/LeGrad":
        from torchvision.models import VisionTransformer

        model = VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=5,
        ).eval()  # fmt: skip
        torch.nn.init.normal_(model.heads.head.weight)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pixels = prepare(Data()[0].image, pre)
    explanation = method(name)(model, pixels, 3)
    assert explanation.heat_map.shape == (1, 64, 64) and explanation.patches.shape == (
        1,
        explanation.grid.patches,
    )
    assert explanation.heat_map.isfinite().all() and float(explanation.heat_map.std()) > 0
    again = method(name)(model, pixels, 3)
    torch.testing.assert_close(again.heat_map, explanation.heat_map)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(module._forward_hooks for module in model.modules())
    json.dumps(explanation.grid.shape)


def test_a_peer_refuses_a_model_of_another_library(model):
    pytest.importorskip("torchcam")
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    with pytest.raises(UnsupportedModelError, match="expected a vision transformer of torchvision"):
        method("torchcam/LeGrad")(model, pixels, 3)


def test_patches_of_hilrp_on_torch_classes_are_undone(model):
    pytest.importorskip("hilrp.vit_lxt", exc_type=ImportError)
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    before = method("input-x-gradient")(model, pixels, 3).heat_map
    attributes_of = {owner: dict(vars(owner)) for owner in (torch.nn.GELU, torch.nn.LayerNorm)}
    method("hilrp/AttnLRP")(model, pixels, 3)
    assert all(dict(vars(owner)) == attributes for owner, attributes in attributes_of.items())
    torch.testing.assert_close(method("input-x-gradient")(model, pixels, 3).heat_map, before)
    with pytest.raises(UnsupportedModelError, match="expected a plain vision transformer of timm"):
        peers["hilrp/AttnLRP"](torch.nn.Linear(2, 2), pixels.inputs, 3, None)


def test_put_back_undoes_patches():
    class Patched:
        kept, replaced = 1, 2

    with put_back([Patched]):
        Patched.replaced, Patched.added = 3, 4
    assert (Patched.kept, Patched.replaced) == (1, 2) and not hasattr(Patched, "added")


def test_a_missing_peer_is_a_one_line_error(model, monkeypatch):
    for module in ("hilrp", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, module, None)
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    for name in ("hilrp/AttnLRP", "pytorch-grad-cam/GradCAM"):
        with pytest.raises(SemattnError, match="expected the packages? .*pip install") as error:
            method(name)(model, pixels, 3)
        assert "\n" not in str(error.value)


def test_a_row_with_options_equals_the_explainer_with_them(model):
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    row_map = method("sift-patch-interrelation:sobel:affinity=0:queries=all")(model, pixels, 3)
    explainer = SIFTPatchInterrelation(density="sobel", affinity=0, queries="all")
    expected = explainer.patch_map(model, pixels.inputs, target=3)
    assert torch.equal(row_map.patches, expected.flatten(1))
    with pytest.raises(ValueError, match="affinity: expected a number"):
        method("sift-patch-interrelation:affinity=2")


def test_affinity_refinement_of_a_row_equals_that_of_the_explainer(model):
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    ours = method("sift-patch-interrelation")(model, pixels, 3)
    plain = method("sift-patch-interrelation:affinity=0")(model, pixels, 3)
    refined = method("sift-patch-interrelation:affinity=0+refined")(model, pixels, 3)
    torch.testing.assert_close(refined.patches, ours.patches)
    torch.testing.assert_close(refined.heat_map, ours.heat_map)
    assert not torch.allclose(plain.patches, ours.patches, rtol=0.01)
    guided = method("sift-patch-interrelation:affinity=0+refined", refine="guided")
    shifted = refined.patches - refined.patches.min()
    smooth = refined.grid.upsample(shifted)
    expected = refinements["guided"](smooth, pixels.pixels, refined.grid)
    torch.testing.assert_close(guided(model, pixels, 3).heat_map, expected)
    with pytest.raises(ValueError, match="expected 'refined'|did you mean 'refined'"):
        method("random+refind")


@pytest.mark.parametrize(
    "change", [lambda logits: logits, torch.sigmoid], ids=["logit", "probability"]
)
def test_binary_models_are_measured_by_the_probability_of_their_answer(change):
    class Binary(torch.nn.Module):
        def __init__(self, sign: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.vit = timm.create_model("test_vit", img_size=64, num_classes=1).eval()
            torch.nn.init.normal_(self.vit.head.weight)
            self.vit.head.bias.data.zero_()
            self.sign = sign

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(self.sign * self.vit(x))

    preprocessing = Preprocessing.of(Binary(1).vit)
    options = {"setting": SETTING, "preprocessing": preprocessing, "classes": ("cat", "dog")}
    metrics = ["insertion", "deletion", "target-sensitivity"]
    rows = ["sift-patch-interrelation", "captum/IntegratedGradients"]
    positive, negative = (
        evaluate(Binary(sign), Data(None), rows, metrics, **options) for sign in (1, -1)
    )
    images = [prepare(Data(None)[i].image, preprocessing).inputs for i in range(5)]
    logits = torch.cat([Binary(1).vit(x) for x in images])[:, 0]
    assert positive.right == tuple(bool((z > 0) == (i % 2)) for i, z in enumerate(logits))
    assert negative.right == tuple(not right for right in positive.right)
    assert "expected a model with an output for each class" in positive.refused[rows[1]]
    # The label is explained. With the sign of the output, classes 0 and 1 change places.
    p = positive.values[:, 0, :2]
    q = negative.values[:, 0, :2]
    assert ((p > 0) & (p < 1)).all() and not np.allclose(p, q)


def test_a_model_without_classes_is_refused(model):
    torch.manual_seed(0)
    features = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    with pytest.raises(UnsupportedModelError, match="compare methods on a classifier"):
        evaluate(features, Data(), ["random"], ["gini"])
