"""Methods on images with known objects: numbers, resuming, refusals, the table."""

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
from semattn.evaluation import (
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
)  # fmt: skip
from semattn.evaluation.lrp import put_back
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
SETTING = Setting(steps=4, draws=4)


@dataclass(frozen=True)
class Item:
    name: str
    image: Image.Image
    mask: np.ndarray | None
    label: int | None


class Data:
    """Five pictures, the third of which cannot be read."""

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
def found(model):
    return evaluate(model, Data(), ROWS, list(measures), setting=SETTING)


def test_every_number_is_that_of_the_metric_by_itself(model, found):
    data, own = Data(), Preprocessing.of(model)
    for row, index in enumerate((0, 1, 3, 4)):
        item = data[index]
        images = prepare(item.image, own)
        page = Image.fromarray(255 * item.mask.astype(np.uint8)).convert("RGB")
        mask = torch.from_numpy(np.asarray(own.fit(page).convert("L")) > 127)[None]
        target = int(model(images.inputs).argmax())
        made = explainers["attention-rollout"]().explain(model, images.inputs, target=target)
        column = dict(zip(found.metrics, found.values[row, 2], strict=True))
        ap = localization.average_precision(made.heat, mask)
        assert column["ap"] == pytest.approx(float(ap))
        curves = faithfulness.curves(
            model, images.inputs, made.patch_map, torch.tensor([target]), grid=made.grid, parts=4
        )
        wanted = float(faithfulness.insertion_deletion(curves))
        assert column["insertion-deletion"] == pytest.approx(wanted, abs=1e-9)
        assert column["target-sensitivity"] == 0  # rollout does not mind the class
    assert found.names == tuple(f"picture {i}" for i in (0, 1, 3, 4))
    assert found.skipped == (("image 2", "image: expected a picture, got none"),)
    assert np.isfinite(found.seconds).all() and np.isfinite(found.values).all()


def test_a_stopped_run_goes_on_and_gives_the_same(model, found, tmp_path):
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise StopError

    given = {
        "methods": ROWS,
        "metrics": list(measures),
        "setting": SETTING,
        "folder": tmp_path,
    }
    with pytest.raises(StopError):
        evaluate(model, Data(), **given, progress=stop)
    (tmp_path / "000003.part").write_text("half")
    data, seen = Data(), []
    again = evaluate(model, data, **given, progress=lambda *said: seen.append(said))
    np.testing.assert_array_equal(again.values, found.values)
    assert seen == [(i, 5) for i in range(1, 6)] and again.names == found.names
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    evaluate(model, Data(), **given)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")} == kept
    with pytest.raises(SemattnError, match="out: expected results of this run") as error:
        evaluate(model, data, **{**given, "setting": replace(SETTING, steps=5)})
    assert "\n" not in str(error.value)


def test_labels_are_explained_where_the_names_are_the_models(model):
    classes = [f"class {number}" for number in range(998)] + ["dog", "cat"]
    found = evaluate(model, Data(None), ["random"], ["gini"], classes=classes)
    assert found.right == (False,) * 5
    assert evaluate(model, Data(None), ["random"], ["gini"]).right == (None,) * 5


def test_without_masks_what_needs_them_is_not_told(model):
    found = evaluate(model, Data(None, masked=False), ROWS, ["ap", "insertion"], setting=SETTING)
    assert np.isnan(found.values[:, :, 0]).all() and np.isfinite(found.values[:, :, 1]).all()
    made = table(found)
    assert "–" in markdown(made)


def test_a_method_that_refuses_is_a_row_that_says_why(model):
    @peers.register("tests/refuses")
    def refuses(*_):
        from semattn.errors import UnsupportedModelError

        raise UnsupportedModelError("model: expected another, got this")

    try:
        found = evaluate(model, Data(), ["random", "tests/refuses"], ["gini"])
    finally:
        del peers["tests/refuses"]
    assert found.refused == {"tests/refuses": "model: expected another, got this"}
    assert table(found).methods == ("random",)


def test_a_peer_that_breaks_is_no_end_of_the_run(model):
    @peers.register("tests/breaks")
    def breaks(*_):
        raise KeyError("its own\nfault")

    try:
        found = evaluate(model, Data(), ["random", "tests/breaks"], ["gini"])
    finally:
        del peers["tests/breaks"]
    why = found.refused["tests/breaks"]
    assert "KeyError" in why and "\n" not in why and np.isfinite(found.values[:, 0]).all()


def test_the_table_compares_in_pairs_and_puts_controls_last(found):
    made = table(found)
    assert made.methods[-1] != "attention-rollout" and made.controls == {
        "sift-patch-interrelation:uniform", "random",
    }  # fmt: skip
    assert made.baselines == ("attention-rollout", "sift-patch-interrelation:uniform")
    k = found.metrics.index("ap")
    one = made.differences["random", "attention-rollout", "ap"]
    assert one.mean == pytest.approx((found.values[:, 3, k] - found.values[:, 2, k]).mean())
    assert one.corrected >= one.p
    text = markdown(made)
    assert text.count("less attention-rollout") == 1 and "random (control)" in text
    with pytest.raises(ValueError, match="baselines: expected some of"):
        table(found, ["grad-cam"])


def test_a_page_says_what_was_measured_and_which_way_is_better(model, found):
    text = page(found, table(found))
    assert text.startswith(markdown(table(found)).rstrip("\n"))
    assert "4 images" in text and "perturbed in 4 steps, blur" in text and "in float32" in text
    assert "the predicted class explained" in text or "the true class explained" in text
    assert (heading("ap"), heading("deletion")) == ("AP ↑", "deletion ↓")
    refused = replace(found, refused={"random": "model: expected another"})
    assert "Refused: random: model: expected another" in page(refused, table(refused))


def test_names_tell_what_is_a_control():
    said = [is_control(name) for name in ("random", "grad-cam", "grad-cam:sobel", "legrad:size")]
    assert said == [True, False, True, False]


@pytest.mark.parametrize("name", DEFAULT)
def test_the_usual_rows_exist(name):
    assert callable(method(name))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"methods": ["atention-rollout"]},
            "method: unknown name 'atention-rollout' — did you mean",
        ),
        ({"methods": ["random:coutn"]}, "did you mean 'count'"),
        ({"methods": ["captum/Oclusion"]}, "did you mean 'captum/Occlusion'"),
        ({"metrics": ["app"]}, "metric: unknown name 'app' — did you mean"),
        ({"methods": ["random", "random"]}, "expected each once"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(model, changed, said):
    with pytest.raises(ValueError, match=said) as error:
        evaluate(model, Data(), **({"methods": ["random"]} | changed))
    assert "\n" not in str(error.value)


def test_perturbed_images_in_another_precision(model, found):
    half = evaluate(
        model, Data(), ROWS, ["ap", "deletion"], setting=replace(SETTING, precision="bfloat16")
    )
    columns = [found.metrics.index(one) for one in half.metrics]
    assert np.array_equal(half.values[..., 0], found.values[..., columns[0]])
    low, high = half.values[..., 1], found.values[..., columns[1]]
    assert not np.array_equal(low, high)
    np.testing.assert_allclose(low, high, atol=0.02)
    with pytest.raises(ValueError, match="did you mean 'float16'"):
        Setting(precision="flaot16")


def test_nothing_readable_is_an_error(model):
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
    before = {key: one.clone() for key, one in model.state_dict().items()}
    pixels = prepare(Data()[0].image, pre)
    made = method(name)(model, pixels, 3)
    assert made.heat.shape == (1, 64, 64) and made.patches.shape == (1, made.grid.patches)
    assert made.heat.isfinite().all() and float(made.heat.std()) > 0
    again = method(name)(model, pixels, 3)
    torch.testing.assert_close(again.heat, made.heat)
    for key, one in model.state_dict().items():
        assert torch.equal(one, before[key])
    assert not any(module._forward_hooks for module in model.modules())
    json.dumps(made.grid.shape)


def test_a_peer_refuses_a_model_of_another_make(model):
    pytest.importorskip("torchcam")
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    with pytest.raises(UnsupportedModelError, match="expected a vision transformer of torchvision"):
        method("torchcam/LeGrad")(model, pixels, 3)


def test_hilrps_patches_of_torchs_classes_do_not_stay(model):
    pytest.importorskip("hilrp.vit_lxt", exc_type=ImportError)
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    before = method("input-x-gradient")(model, pixels, 3).heat
    kept = {one: dict(vars(one)) for one in (torch.nn.GELU, torch.nn.LayerNorm)}
    method("hilrp/AttnLRP")(model, pixels, 3)
    assert all(dict(vars(one)) == own for one, own in kept.items())
    torch.testing.assert_close(method("input-x-gradient")(model, pixels, 3).heat, before)
    with pytest.raises(UnsupportedModelError, match="expected a plain vision transformer of timm"):
        peers["hilrp/AttnLRP"](torch.nn.Linear(2, 2), pixels.inputs, 3, None)


def test_what_is_patched_is_put_back():
    class Patched:
        kept, replaced = 1, 2

    with put_back([Patched]):
        Patched.replaced, Patched.added = 3, 4
    assert (Patched.kept, Patched.replaced) == (1, 2) and not hasattr(Patched, "added")


def test_a_peer_that_is_not_there_is_told_in_one_line(model, monkeypatch):
    for module in ("hilrp", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, module, None)
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    for name in ("hilrp/AttnLRP", "pytorch-grad-cam/GradCAM"):
        with pytest.raises(SemattnError, match="expected the packages? .*pip install") as error:
            method(name)(model, pixels, 3)
        assert "\n" not in str(error.value)


def test_a_row_with_options_is_the_explainer_with_them(model):
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    made = method("sift-patch-interrelation:sobel:growth=0:queries=all")(model, pixels, 3)
    wanted = SIFTPatchInterrelation(density="sobel", growth=0, queries="all")
    found = wanted.patch_map(model, pixels.inputs, target=3)
    assert torch.equal(made.patches, found.flatten(1))
    with pytest.raises(ValueError, match="growth: expected a part"):
        method("sift-patch-interrelation:growth=2")


def test_a_grown_row_is_grown_as_ours_is(model):
    pixels = prepare(Data()[0].image, Preprocessing.of(model))
    ours = method("sift-patch-interrelation")(model, pixels, 3)
    plain = method("sift-patch-interrelation:growth=0")(model, pixels, 3)
    grown = method("sift-patch-interrelation:growth=0+grown")(model, pixels, 3)
    torch.testing.assert_close(grown.patches, ours.patches)
    torch.testing.assert_close(grown.heat, ours.heat)
    assert not torch.allclose(plain.patches, ours.patches, rtol=0.01)
    guided = method("sift-patch-interrelation:growth=0+grown", refine="guided")
    lifted = grown.patches - grown.patches.min()
    wanted = refinements["guided"](lifted, pixels.pixels, grown.grid)
    torch.testing.assert_close(guided(model, pixels, 3).heat, wanted)
    with pytest.raises(ValueError, match="expected 'grown'|did you mean 'grown'"):
        method("random+gron")


@pytest.mark.parametrize("change", [lambda one: one, torch.sigmoid], ids=["logit", "probability"])
def test_a_binary_model_is_measured_by_the_probability_of_its_answer(change):
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

    own = Preprocessing.of(Binary(1).vit)
    options = {"setting": SETTING, "preprocessing": own, "classes": ("cat", "dog")}
    metrics = ["insertion", "deletion", "target-sensitivity"]
    rows = ["sift-patch-interrelation", "captum/IntegratedGradients"]
    one, other = (evaluate(Binary(sign), Data(None), rows, metrics, **options) for sign in (1, -1))
    images = [prepare(Data(None)[i].image, own).inputs for i in range(5)]
    logits = torch.cat([Binary(1).vit(x) for x in images])[:, 0]
    assert one.right == tuple(bool((z > 0) == (i % 2)) for i, z in enumerate(logits))
    assert other.right == tuple(not right for right in one.right)
    assert "expected a model with an output for each class" in one.refused[rows[1]]
    # The label is explained. With the sign of the output, classes 0 and 1 change places.
    p = one.values[:, 0, :2]
    q = other.values[:, 0, :2]
    assert ((p > 0) & (p < 1)).all() and not np.allclose(p, q)


def test_a_model_without_classes_is_no_benchmark(model):
    torch.manual_seed(0)
    features = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    with pytest.raises(UnsupportedModelError, match="compare methods on a classifier"):
        evaluate(features, Data(), ["random"], ["gini"])
