"""semattn inside other libraries' tools, which really run, and maps in files."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import quantus
import torch
from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from semattn import Preprocessing, SIFTPatchInterrelation
from semattn.errors import ShapeError, TargetError
from semattn.explain import explainers, load_maps, save_maps
from semattn.explain.explanation import StoreError
from semattn.integrations import CAM, explain_batches, progress_bar, quantus_explain_func
from tests.models import SIZE, build, devices, images, state_of

# --- Quantus ----------------------------------------------------------------------------------


def test_the_explain_func_gives_the_map_of_each_image_in_chunks() -> None:
    model, x, target = build("class-token"), images(5), np.array([0, 1, 2, 3, 4])
    batch_sizes = []
    model.register_forward_pre_hook(lambda _, args: batch_sizes.append(len(args[0])))
    expected = SIFTPatchInterrelation(model).explain(x, target=target.tolist()).heat_map[:, None]
    batch_sizes.clear()
    maps = quantus_explain_func(batch_size=2)(model=model, inputs=x.numpy(), targets=target)
    assert isinstance(maps, np.ndarray) and maps.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(maps), expected.float())
    # A single image has a layout of its own, which takes one pass more.
    assert batch_sizes == [2, 2, 1, 1]
    assert maps.shape == (5, 1, *SIZE)


def test_options_of_the_explain_func_are_the_methods() -> None:
    model, x = build("class-token"), images()
    explain_func = quantus_explain_func("sift-patch-interrelation", density="size", queries="all")
    expected = SIFTPatchInterrelation(model, density="size", queries="all").explain(x, target=1)
    maps = explain_func(model, x.numpy().astype(np.float64), np.array([1, 1]))
    torch.testing.assert_close(torch.from_numpy(maps[:, 0]), expected.heat_map)
    predicted = explain_func(model, x.numpy())
    assert np.array_equal(predicted, explain_func(model, x.numpy(), model(x).argmax(1).numpy()))


@pytest.mark.parametrize("device", devices())
def test_the_explain_func_runs_where_the_model_is(device: str) -> None:
    model = build("class-token").to(device, torch.bfloat16)
    maps = quantus_explain_func()(model, images().numpy(), np.array([1, 2]), device="cpu")
    assert maps.dtype == np.float32 and maps.std() > 0


def test_what_the_explain_func_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="explain_func_kwargs={}, got density — give options to"):
        quantus_explain_func()(build("class-token"), images().numpy(), None, density="size")
    with pytest.raises(ValueError, match="batch_size: expected 1 at least, got 0"):
        quantus_explain_func(batch_size=0)


def test_quantus_evaluates_methods_of_ours() -> None:
    model, x = build("class-token"), images(3)
    quiet = {"disable_warnings": True, "display_progressbar": False}
    methods = ("sift-patch-interrelation", "attention-rollout")
    scores = quantus.evaluate(
        metrics={
            "sparse": quantus.Sparseness(**quiet),
            "faithful": quantus.FaithfulnessCorrelation(
                nr_runs=4, subset_size=64, return_aggregate=False, **quiet
            ),
            "stable": quantus.MaxSensitivity(nr_samples=2, **quiet),
            "specific": quantus.RandomLogit(num_classes=5, seed=0, **quiet),
        },
        xai_methods={name: quantus_explain_func(name) for name in methods},
        model=model,
        x_batch=x.numpy(),
        y_batch=model(x).argmax(1).numpy(),
        explain_func_kwargs={},
    )
    for name in methods:
        assert [len(values) for values in scores[name].values()] == [3] * 4
        assert np.isfinite([*scores[name].values()]).all()
    assert np.allclose(scores["attention-rollout"]["specific"], 1)
    assert max(scores["sift-patch-interrelation"]["specific"]) < 1


# --- pytorch-grad-cam -------------------------------------------------------------------------


def test_a_cam_is_called_as_theirs_are() -> None:
    model, x = build("class-token"), images()
    before = state_of(model)
    with CAM(model=model, density="size") as cam:
        maps = cam(input_tensor=x, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    assert state_of(model) == before
    assert maps.shape == (2, *SIZE) and maps.dtype == np.float32
    assert maps.min((1, 2)).tolist() == [0, 0] and maps.max((1, 2)).tolist() == [1, 1]
    heat_map = (
        SIFTPatchInterrelation(model, density="size").explain(x, target=[1, 3]).heat_map.numpy()
    )
    for scaled, raw in zip(maps, heat_map, strict=True):
        np.testing.assert_allclose(scaled, (raw - raw.min()) / np.ptp(raw), atol=1e-5)
    picture = show_cam_on_image(x[0].permute(1, 2, 0).numpy(), maps[0], use_rgb=True)
    assert picture.shape == (*SIZE, 3) and picture.dtype == np.uint8 and picture.std() > 0


def test_a_cam_without_targets_explains_the_predicted_classes() -> None:
    model, x = build("registers"), images()
    cam = CAM(model, "legrad")
    predicted = [ClassifierOutputTarget(number) for number in model(x).argmax(1).tolist()]
    np.testing.assert_array_equal(cam(x), cam(x, predicted))
    other = [ClassifierOutputTarget((target.category + 1) % 5) for target in predicted]
    assert not np.allclose(cam(x), cam(x, other))
    soft = [ClassifierOutputSoftmaxTarget(target.category) for target in predicted]
    assert not np.allclose(cam(x), cam(x, soft))


def test_a_cam_of_nothing_is_zero_not_nan() -> None:
    model = build("class-token")
    torch.nn.init.zeros_(model.head.weight)
    maps = CAM(model)(images(), [ClassifierOutputTarget(1)] * 2)
    assert (maps == 0).all()


def test_as_many_targets_as_images() -> None:
    with pytest.raises(TargetError, match="expected 2 functions, one per image, got 1"):
        CAM(build("class-token"))(images(), [ClassifierOutputTarget(1)])


# --- transformers -----------------------------------------------------------------------------


def test_a_transformers_pipeline_is_explained_as_it_sees_the_picture() -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

    torch.manual_seed(0)
    names = {0: "cup", 1: "flower", 2: "bird"}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=48, patch_size=16, id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    pipe = pipeline(
        "image-classification",
        model=model,
        image_processor=ViTImageProcessor(size={"height": 48, "width": 48}),
    )
    levels = np.random.default_rng(0).integers(0, 256, (8, 11, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((110, 80), Image.Resampling.BICUBIC)
    answers = pipe(picture)
    explainer = SIFTPatchInterrelation(preprocessing=Preprocessing.of(pipe))
    assert explainer.preprocessing == Preprocessing.of(pipe.image_processor)
    explanation = explainer.explain(pipe.model, picture)
    assert explanation.label(int(explanation.target[0])) == answers[0]["label"]
    assert explanation.logits.softmax(1).max().item() == pytest.approx(
        answers[0]["score"], abs=0.01
    )
    assert explanation.patch_map.shape == (1, 3, 3) and explanation.notes == ()
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert explainer.explain(model, picture).label(2) == "class 2"


def test_an_image_tower_of_transformers_is_explained_by_a_text() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=48, patch_size=16, projection_dim=8,
    )  # fmt: skip
    model, x = CLIPVisionModelWithProjection(config).eval(), images()[..., :48]
    texts = torch.randn(2, 8)

    def similarity(output: object) -> Tensor:
        return nn.functional.cosine_similarity(output.image_embeds, texts)

    explainer = SIFTPatchInterrelation(model)
    explanation = explainer.explain(x, target=similarity)
    assert (
        explanation.target_description == "similarity of the output" and explanation.target is None
    )
    assert explanation.heat_map.std() > 0
    feature_explanation = explainer.explain(x)
    assert (
        feature_explanation.target_description == "the model's own feature direction (image_embeds)"
    )
    assert (
        feature_explanation.notes[0]
        == f"Explained, in place of a class: {feature_explanation.target_description}."
    )


def test_a_whole_clip_of_open_clip_has_no_predicted_class() -> None:
    from open_clip.model import CLIP

    torch.manual_seed(0)
    vision = {"layers": 2, "width": 32, "head_width": 16, "image_size": 48, "patch_size": 16}
    text = {"context_length": 4, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
    model, x = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval(), images()[..., :48]
    with pytest.raises(TargetError, match="similarity to a text embedding"):
        SIFTPatchInterrelation(model).explain(x)
    tower = SIFTPatchInterrelation(model.visual).explain(x)
    assert tower.target_description == "the model's own feature direction"
    embedded = model.encode_text(torch.tensor([[1, 2, 3, 8]]))[0].detach()
    explanation = SIFTPatchInterrelation(model).explain(
        x, target=lambda output: output[0] @ embedded
    )
    assert explanation.heat_map.std() > 0


# --- data loaders -----------------------------------------------------------------------------


def test_a_loader_is_explained_batch_by_batch() -> None:
    model, x = build("class-token"), images(5)
    labels = torch.tensor([4, 3, 2, 1, 0])
    explainer = SIFTPatchInterrelation(model)
    loader = DataLoader(TensorDataset(x, labels), batch_size=2)
    explanations = [*explain_batches(explainer, loader, target="labels")]
    assert [len(batch) for batch in explanations] == [2, 2, 1]
    assert torch.cat([batch.target for batch in explanations]).tolist() == labels.tolist()
    together = explainer.explain(x, target=labels)
    torch.testing.assert_close(
        torch.cat([batch.heat_map for batch in explanations]), together.heat_map
    )
    assert explanations[2].manifest == together.manifest
    predicted = torch.cat([batch.target for batch in explain_batches(explainer, loader)])
    assert torch.equal(predicted, model(x).argmax(1))
    fixed = torch.cat([batch.target for batch in explain_batches(explainer, loader, target=2)])
    assert fixed.tolist() == [2] * 5


def test_the_weights_are_digested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from semattn.utils import provenance as manifest

    calls = []
    monkeypatch.setattr(manifest, "weights_digest", lambda model: calls.append(model) or "digest")
    explainer = SIFTPatchInterrelation(build("class-token"))
    explanations = [*explain_batches(explainer, [images(1)] * 3)]
    assert len(calls) == 1 and explanations[2].manifest["weights_sha256"] == "digest"


@pytest.mark.parametrize(
    ("images_key", "labels_key"), [("pixel_values", "labels"), ("image", "label")]
)
def test_batches_of_every_kind(images_key: str, labels_key: str) -> None:
    explainer, x = SIFTPatchInterrelation(build("class-token")), images()
    labels = torch.tensor([1, 3])
    kinds = [(x, labels), [x, labels, "more"], {images_key: x, labels_key: labels}]
    for explanation in explain_batches(explainer, iter(kinds), target="labels"):
        assert explanation.target.tolist() == [1, 3]
    for batch in (x, (x,), {images_key: x}):
        (alone,) = explain_batches(explainer, [batch])
        assert alone.target is not None
        with pytest.raises(ValueError, match="target: expected batches with labels, got images"):
            next(explain_batches(explainer, [batch], target="labels"))
    with pytest.raises(ValueError, match="loader: expected batches with .*, got pixels"):
        next(explain_batches(explainer, [{"pixels": x}]))
    with pytest.raises(ValueError, match="got 'label' — the model has no class names"):
        next(explain_batches(explainer, [x], target="label"))
    explainer.forward_func.classes = tuple("abcde")
    assert next(explain_batches(explainer, [x], target="d")).target.tolist() == [3, 3]


class Terminal(io.StringIO):
    """Stream that rich treats as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "shown"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)],
)
def test_a_bar_is_shown_where_somebody_looks(  # type: ignore[no-untyped-def]
    stream, progress, shown, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("sys.stderr", stream())
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    explainer = SIFTPatchInterrelation(build("class-token"))
    assert len([*explain_batches(explainer, [images(1)] * 3, progress=progress)]) == 3
    output = sys.stderr.getvalue()
    assert ("explaining" in output and "3/3" in output) if shown else output == ""
    assert capsys.readouterr().out == ""


def test_a_bar_is_shown_in_a_notebook_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []

    class Handle:
        def __init__(self, number: int) -> None:
            self.number = number

        def update(self, text: str) -> None:
            lines[self.number].append(text)

    def display(text: str, display_id: bool) -> Handle:
        lines.append([text])
        return Handle(len(lines) - 1)

    notebook = ModuleType("IPython.display")
    vars(notebook).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    explainer = SIFTPatchInterrelation(build("class-token"))
    assert len([*explain_batches(explainer, [images(1)] * 3)]) == 3
    assert lines[0][0] == '<progress value="0" max="3"></progress> explaining: 0 of 3'
    assert lines[0][-1].startswith('<progress value="3" max="3"></progress> explaining: 3 of 3, ')
    with progress_bar() as progress:
        progress("<reading>", 1, None)
        progress("<reading>", 2, None)  # at once: the notebook does not store it
        progress("finding", 1, 1)
    assert lines[1:] == [
        ["&lt;reading&gt;: 1, 0 s"],
        ['<progress value="1" max="1"></progress> finding: 1 of 1, 0 s'],
    ]
    assert len([*explain_batches(explainer, [images(1)], progress=False)]) == 1
    assert len(lines) == 3


# --- maps in a file ---------------------------------------------------------------------------


@pytest.fixture
def explanation():  # type: ignore[no-untyped-def]
    return SIFTPatchInterrelation(build("class-token")).explain(images(), target=[1, 3])


def test_maps_come_back_as_they_were(explanation, tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "new" / "maps.safetensors"
    assert save_maps(explanation, file) == file
    maps = load_maps(str(file))
    for name in ("heat_map", "patch_map", "concentration", "target"):
        assert torch.equal(getattr(maps, name), getattr(explanation, name)), name
        assert getattr(maps, name).dtype == getattr(explanation, name).dtype
    assert (
        len(maps) == 2
        and maps.names == explanation.images.names
        and maps.notes == explanation.notes
    )
    assert maps.manifest == json.loads(json.dumps(explanation.manifest))
    assert [path.name for path in file.parent.iterdir()] == ["maps.safetensors"]
    assert load_file(file).keys() == {"heat_map", "patch_map", "concentration", "target"}


def test_maps_of_no_class_have_no_target(tmp_path) -> None:  # type: ignore[no-untyped-def]
    explainer = SIFTPatchInterrelation(build("class-token"))
    explanation = explainer.explain(images(), target=lambda output: output[:, 1])
    maps = load_maps(save_maps(explanation, tmp_path / "maps"))
    assert maps.target is None and "<lambda>" in maps.notes[0]


def test_a_failed_write_leaves_what_was_there(explanation, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    file = save_maps(explanation, tmp_path / "maps")
    before = file.read_bytes()
    with file.open("rb") as opened:  # an open file keeps its content
        save_maps(replace(explanation, heat_map=explanation.heat_map * 2), file)
        assert opened.read() == before != file.read_bytes()
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr("semattn.explain.explanation.save_file", full)
    with pytest.raises(StoreError, match="no space left on the device. — save it elsewhere"):
        save_maps(explanation, file)
    assert file.read_bytes() == before and [*tmp_path.iterdir()] == [file]
    with pytest.raises(StoreError, match="got the folder .* — name a file in it"):
        save_maps(explanation, tmp_path)
    with pytest.raises(StoreError, match="expected a file that can be written"):
        save_maps(explanation, file / "below" / "a-file")


def test_broken_files_are_refused_in_one_line(explanation, tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = save_maps(explanation, tmp_path / "maps")
    complete = file.read_bytes()
    flipped = bytearray(complete)
    flipped[-3] ^= 1
    renamed = complete.replace(b"image 0", b"image 9")
    assert renamed != complete
    broken = {
        "cannot be read": [complete[:-7], complete[:20], b"", b"not maps at all, but some text"],
        "with modified content": [bytes(flipped), renamed],
    }
    for words, contents in broken.items():
        for content in contents:
            file.write_bytes(content)
            with pytest.raises(StoreError, match=words) as raised:
                load_maps(file)
            assert "\n" not in str(raised.value)
    save_file({"heat_map": torch.zeros(1)}, file)
    with pytest.raises(StoreError, match="got .* of None — give a file written by save_maps"):
        load_maps(file)
    for missing in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(StoreError, match="which is not a file"):
            load_maps(missing)


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(explainers))
def test_an_unknown_option_names_the_nearest_and_lists_all(name: str) -> None:
    for make in (explainers[name], lambda **options: CAM(build("gap"), name, **options)):
        with pytest.raises(TypeError, match="did you mean 'detector'. choose from") as raised:
            make(detectr="sift")
        message = str(raised.value)
        assert (
            message.startswith(f"option of {name}: unknown name 'detectr'") and "\n" not in message
        )
        listed = message.partition("choose from ")[2].split(", ")
        assert {"density", "detector", "preprocessing", "seed"} <= {*listed}
    assert "queries" in listed if name == "sift-patch-interrelation" else "queries" not in listed


def test_an_unknown_method_names_the_nearest_and_lists_all() -> None:
    for make in (quantus_explain_func, lambda name: CAM(build("gap"), name)):
        with pytest.raises(
            ValueError, match="did you mean 'attention-rollout'.*choose from .*grad-cam"
        ):
            make("atention-rollout")


def test_the_command_line_says_the_same() -> None:
    from semattn.cli.parsing import read_explainer

    with pytest.raises(ValueError, match="option of random: unknown name 'queries' — choose from"):
        read_explainer("random", queries="all", layers=None)


# --- noisy copies -----------------------------------------------------------------------------


def test_keypoints_of_noisy_copies_are_the_copies_own_or_the_clean_images() -> None:
    from captum.attr import NoiseTunnel

    from semattn.density import clean_density
    from semattn.explain import KeypointDensity

    model, x = build("class-token"), images()

    def smoothed(density: object) -> Tensor:
        torch.manual_seed(0)
        tunnel = NoiseTunnel(KeypointDensity(model, density=density))
        return tunnel.attribute(x, nt_samples=3, stdevs=0.3, target=1)

    clean = KeypointDensity(model).attribute(x, target=1)
    torch.testing.assert_close(smoothed(clean_density(x)), clean)
    assert not torch.allclose(smoothed("count"), clean, rtol=0.1)
    sizes = KeypointDensity(model, density="size").attribute(x, target=1)
    torch.testing.assert_close(smoothed(clean_density(x, "size")), sizes)
    assert not torch.allclose(sizes, clean, rtol=0.1)


def test_each_copy_has_the_density_of_its_own_image() -> None:
    from semattn.density import clean_density

    model, x = build("class-token"), images(3)
    expected = SIFTPatchInterrelation(model).explain(x, target=1).concentration
    explainer = SIFTPatchInterrelation(model, density=clean_density(x, "distinct"))
    assert explainer.parameters()["density"] == "clean distinct"
    distinct = SIFTPatchInterrelation(model, density="distinct").explain(x, target=1)
    assert torch.equal(explainer.explain(x, target=1).concentration, distinct.concentration)
    explainer = SIFTPatchInterrelation(model, density=clean_density(x))
    copies = torch.rand(6, *x.shape[1:])
    actual = explainer.explain(copies, target=1).concentration
    torch.testing.assert_close(actual, expected.repeat_interleave(2, dim=0))
    with pytest.raises(ShapeError, match="expected copies of 3 clean images, got a batch of 4"):
        explainer.attribute(copies[:4], target=1)
    with pytest.raises(ShapeError, match="pixels: expected"):
        SIFTPatchInterrelation(model, density=clean_density(x[..., :48])).attribute(x, target=1)
