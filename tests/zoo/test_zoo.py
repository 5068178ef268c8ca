"""Models by name and by file; the embedded weights' way into the cache."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import semattn
from semattn.errors import SemattnError
from semattn.zoo import DEFAULT, WeightsError, build, embedded_models, load, weights

TINY = "test_vit"
DATA = Path(semattn.__file__).parent / "zoo" / "assets"


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert " — " in message
    return message


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model(TINY, num_classes=5).state_dict()


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_checkpoint_saved_by_torch(tmp_path, state, wrap):
    path = tmp_path / "weights.pt"
    torch.save({wrap: state} if wrap else state, path)
    model = load(TINY, checkpoint=path)
    assert not model.training
    assert model.num_classes == 5
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def test_checkpoint_of_safetensors_and_of_a_wrapped_model(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, path)
    with pytest.warns(UserWarning, match="prefix 'module.' removed"):
        model = load(TINY, checkpoint=str(path))
    assert torch.equal(model.head.weight, state["head.weight"])


def test_checkpoint_without_a_head_gives_features(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    save_file({name: item for name, item in state.items() if not name.startswith("head")}, path)
    with pytest.warns(UserWarning, match="no classifier in the file: the model returns features"):
        assert load(TINY, checkpoint=path).num_classes == 0


def test_checkpoint_that_lacks_a_weight(tmp_path, state):
    del state["blocks.0.norm1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="lacks 'blocks.0.norm1.weight'") as error:
        load(TINY, checkpoint=tmp_path / "w.safetensors")
    one_line(error)


def test_checkpoint_with_a_weight_too_many(tmp_path, state):
    state["more"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="unknown 'more'"):
        load(TINY, checkpoint=tmp_path / "w.safetensors")


def test_checkpoint_of_another_shape(tmp_path, state):
    state["pos_embed"] = state["pos_embed"][:, :-1].contiguous()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="expected pos_embed") as error:
        load(TINY, checkpoint=tmp_path / "w.safetensors")
    one_line(error)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_checkpoint(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00" * 40)
    with pytest.raises(WeightsError, match="damaged") as error:
        load(TINY, checkpoint=tmp_path / name)
    one_line(error)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(WeightsError, match="expected a file"):
        load(TINY, checkpoint=tmp_path / "none.pt")


class Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda item, path: path.write_bytes(pickle.dumps(item, protocol=2))]
)
def test_code_in_a_checkpoint_is_not_run(tmp_path, save):
    path, run = tmp_path / "w.pt", tmp_path / "run"
    save({"a": Payload(str(run))}, path)
    with pytest.raises(WeightsError, match="safetensors"):
        load(TINY, checkpoint=path)
    assert not run.exists()


def test_unknown_tag_of_a_model_and_keys_that_are_no_names(tmp_path):
    with pytest.raises(ValueError, match="expected timm to build 'test_vit.nonsense'") as error:
        load("test_vit.nonsense", pretrained=False)
    assert "\n" not in str(error.value)
    torch.save({0: torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="expected a dict of tensors"):
        load("test_vit", checkpoint=tmp_path / "w.pt")


def test_checkpoint_of_something_else(tmp_path):
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="dict of tensors, got list"):
        load(TINY, checkpoint=tmp_path / "w.pt")


def test_checkpoint_needs_a_name_of_timms(tmp_path):
    for name in (None, DEFAULT):
        with pytest.raises(ValueError, match="architecture") as error:
            load(name, checkpoint=tmp_path / "w.pt")
        one_line(error)


def test_unknown_name_says_the_nearest():
    with pytest.raises(ValueError, match="did you mean vit_small_patch14_dinov2") as error:
        load("vit_smal_patch14_dinov2")
    assert DEFAULT in one_line(error)


def test_pretrained_models_of_imagenet_name_their_classes(monkeypatch):
    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: build(name))
    classes = load("vit_tiny_patch16_224").classes
    assert len(classes) == 1000 and classes[281].startswith("tabby, tabby cat")
    assert not hasattr(load("vit_tiny_patch16_224", pretrained=False), "classes")


def test_hub_out_of_reach(monkeypatch):
    def refuse(name, pretrained):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(build.timm, "create_model", refuse)
    with pytest.raises(WeightsError, match="pretrained=False") as error:
        load(TINY)
    assert "no route" in one_line(error)
    assert isinstance(error.value, (SemattnError, OSError))


def test_default_is_a_plain_timm_model_of_224_pixels():
    model = load(pretrained=False)
    assert type(model) is timm.models.VisionTransformer
    assert model.classes == tuple(json.loads((DATA / "classes.json").read_text()))
    assert model.head.out_features == len(model.classes) == model.num_classes
    assert model.patch_embed.img_size == (224, 224)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 224, 224)
    assert config["crop_pct"] == 1.0
    assert DEFAULT in embedded_models


def test_committed_weights_are_small_and_fit_the_model():
    path = DATA / f"{DEFAULT}.safetensors"
    assert sum(item.stat().st_size for item in DATA.iterdir()) < 1_000_000
    names = dict(load(pretrained=False).named_parameters())
    for name, change in load_file(path).items():
        weight, _, side = name.rpartition(".")
        if side == "up":
            assert change.shape[0] == names[weight].shape[0]
        elif side == "down":
            assert change.shape[1] == names[weight].shape[1]
        else:
            assert change.shape == names[name].shape


def test_merge_adds_low_ranks_and_replaces_the_rest():
    weight, up, down = torch.randn(3, 4), torch.randn(3, 2), torch.randn(2, 4)
    old = {"a": weight, "b": torch.zeros(2)}
    merged = build.merge(old, {"a.up": up, "a.down": down, "b": torch.ones(2), "c": torch.ones(1)})
    torch.testing.assert_close(merged["a"], weight + up @ down)
    assert merged["b"].tolist() == [1, 1]
    assert set(merged) == {"a", "b", "c"}
    assert torch.equal(old["a"], weight)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and a fetch of two small tensors that counts its calls."""
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.float16)}
    calls = []

    def fetch():
        calls.append(1)
        return dict(tensors)

    monkeypatch.setenv("SEMATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "DIGEST", weights.digest(tensors))
    monkeypatch.setattr(weights, "_fetch", fetch)
    return tmp_path / "cache" / weights.FILE_NAME, tensors, calls


def test_weights_are_fetched_once(cache):
    path, tensors, calls = cache
    for _ in range(2):
        backbone = weights.backbone()
        assert all(torch.equal(backbone[name], tensors[name]) for name in tensors)
    assert len(calls) == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["cut", "bit", "other", "empty"])
def test_damaged_cache_is_fetched_again(cache, damage):
    path, tensors, calls = cache
    weights.backbone()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-3])
    elif damage == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "other":
        save_file({"a": tensors["a"]}, path)
    else:
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="damaged — downloading it again"):
        backbone = weights.backbone()
    assert torch.equal(backbone["b"], tensors["b"])
    assert len(calls) == 2
    weights.backbone()
    assert len(calls) == 2


def test_nothing_half_written_is_left(cache, monkeypatch):
    path, _, _ = cache

    def stop(tensors, target):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        weights.backbone()
    assert not list(path.parent.iterdir())


def test_cache_that_cannot_be_written(cache):
    path, _, _ = cache
    path.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(WeightsError, match="SEMATTN_CACHE") as error:
        weights.backbone()
    one_line(error)


def test_cache_folder(monkeypatch):
    monkeypatch.delenv("SEMATTN_CACHE", raising=False)
    monkeypatch.setattr(weights.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert weights.cache_dir() == Path("/somewhere/semattn")


def test_linear_weights_are_found_through_their_bias():
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    layer = "backbone.encoder.layer.0."
    arrays = {
        f"{layer}attention.attention.{part}.bias": rng.random(2)
        for part in ("query", "key", "value")
    }
    arrays |= {f"onnx::MatMul_{i}": rng.random((3, 2)) for i in range(3)}
    arrays |= {
        "onnx::Concat_1": rng.random((1, 1, 384)),
        "onnx::Reshape_2": rng.random((1, 1369, 384)),
        f"{layer}layer_scale1.lambda1": rng.random(3),
        "decoder.bn1.bias": rng.random(3),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    nodes = []
    for i, part in enumerate(("query", "key", "value")):
        nodes.append(onnx.helper.make_node("MatMul", ["x", f"onnx::MatMul_{i}"], [f"product{i}"]))
        pair = [f"{layer}attention.attention.{part}.bias", f"product{i}"]
        nodes.append(onnx.helper.make_node("Add", pair[:: 1 if i else -1], [f"sum{i}"]))
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", [], [], initializers)
    state = weights._read_onnx(onnx.helper.make_model(graph).SerializeToString())
    assert set(state) == {
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.qkv.bias",
        "blocks.0.ls1.gamma",
        "pos_embed",
    }
    expected = np.concatenate([arrays[f"onnx::MatMul_{i}"].T for i in range(3)])
    np.testing.assert_array_equal(state["blocks.0.attn.qkv.weight"], expected)
    np.testing.assert_array_equal(state["pos_embed"][:, 0], arrays["onnx::Concat_1"][:, 0])
    assert state["pos_embed"].shape == (1, 1370, 384)


def test_conversion_that_went_wrong(monkeypatch):
    monkeypatch.setattr(weights, "download_onnx", lambda folder: b"")
    monkeypatch.setattr(weights, "_read_onnx", lambda content: {"a": torch.zeros(1)})
    with pytest.raises(WeightsError, match="expected tensors with digest") as error:
        weights._fetch()
    one_line(error)


@pytest.mark.weights
def test_default_knows_the_cat_for_a_mammal():
    import skimage
    from PIL import Image

    model = load()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        logits = model(transform(Image.fromarray(skimage.data.chelsea()))[None])
    assert model.classes[int(logits.argmax())] == "mammal"
    assert not model.training


@pytest.mark.weights
def test_default_is_the_backbone_outside_what_was_trained():
    model, changed = load(), load_file(DATA / f"{DEFAULT}.safetensors")
    touched = {name.removesuffix(".up").removesuffix(".down") for name in changed}
    backbone = weights.backbone()
    for name, tensor in model.state_dict().items():
        if name not in touched | {"pos_embed"}:
            assert torch.equal(tensor, backbone[name]), name
