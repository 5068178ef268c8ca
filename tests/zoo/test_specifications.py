"""Models of other libraries by specification: the same numbers as their library, or one line."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import semattn
from semattn.attention.output_meaning import predict
from semattn.errors import SemattnError
from semattn.targets import OutputKind
from semattn.zoo import sources
from semattn.zoo.hub_cache import cached_folder, errors_only, hide_progress_bars
from semattn.zoo.specifications import split_specification
from tests.conftest import PHOTO

from . import saved_models
from .saved_models import CASES, CLASSES, LABELS, SIDE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the specification of a saved model, which is written once."""
    specifications: dict[str, str] = {}

    def specification(name: str) -> str:
        if name not in specifications:
            with hide_progress_bars(), errors_only("transformers"):
                specifications[name] = CASES[name](tmp_path_factory.mktemp(name))
        return specifications[name]

    hub = torch.hub.get_dir()
    yield specification
    torch.hub.set_dir(hub)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def connect(*_):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", connect)


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message and ": expected " in message and " — " in message, message
    return message


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "beit", "swin"])
def test_a_classifier_of_transformers_is_itself(saved, name):
    specification = saved(f"transformers-{name}")
    model = semattn.load(specification)
    folder = specification.removeprefix("hf:")
    expected = from_pretrained(folder)
    assert type(model) is type(expected) and not model.training
    assert torch.equal(model(pixels()).logits, expected(pixels()).logits)
    assert semattn.load(folder).config.id2label == dict(enumerate(CLASSES)), "a folder alone"
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    photo = semattn.images.read(PHOTO)
    inputs = semattn.prepare(photo, semattn.Preprocessing.of(model)).inputs
    reference = processor(images=photo, return_tensors="pt")["pixel_values"]
    assert (inputs - reference).abs().max() < 0.05


def from_pretrained(folder: str) -> torch.nn.Module:
    with hide_progress_bars():
        model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_a_model_of_transformers_has_the_image_processor_of_its_folder(saved, name):
    folder = saved(f"transformers-{name}").removeprefix("hf:")
    model, loaded = from_pretrained(folder), semattn.load(folder, device="cpu")
    preprocessing = semattn.Preprocessing.of(model)
    assert preprocessing == semattn.Preprocessing.of(loaded)
    assert preprocessing == semattn.Preprocessing.of(torch.nn.Sequential(model))
    explainer = semattn.SIFTPatchInterrelation()
    explanations = [explainer.explain(each, PHOTO, target=0) for each in (model, loaded)]
    assert torch.equal(explanations[0].heat_map, explanations[1].heat_map)
    sources = [each.manifest["preprocessing"]["source"] for each in explanations]
    assert sources[0] == sources[1] and sources[0].endswith(f"ImageProcessor in {folder}")
    manifest = explanations[0].manifest
    assert json.loads(json.dumps(manifest)) == manifest
    explainer = semattn.SIFTPatchInterrelation(preprocessing=preprocessing)
    given = explainer.explain(model, PHOTO).manifest["preprocessing"]["source"]
    assert given == f"given, {sources[0]}"


def test_a_folder_whose_image_processor_does_not_fit_is_refused(saved, tmp_path):
    shutil.copytree(saved("transformers-vit").removeprefix("hf:"), tmp_path / "m")
    model, file = from_pretrained(str(tmp_path / "m")), tmp_path / "m/preprocessor_config.json"
    model.config.num_channels = 1
    with pytest.raises(SemattnError, match="expected an image processor for 1 channels"):
        semattn.Preprocessing.of(model)
    file.write_text("{")
    with pytest.raises(SemattnError, match="save it again with save_pretrained") as error:
        semattn.Preprocessing.of(model)
    one_line(error)
    file.unlink()
    argument = r"LeGrad\(preprocessing=semattn\.Preprocessing\.of\(processor\)\)"
    message = rf"write {argument}, or save the processor there with processor\.save_pretrained"
    with pytest.raises(SemattnError, match=message) as error:
        semattn.explainers["legrad"]().explain(model, PHOTO)
    one_line(error)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("transformers-clip", OutputKind.CLASS_LOGITS),
        ("transformers-siglip", OutputKind.MULTI_LABEL_LOGITS),
    ],
)
def test_zero_shot_logits_are_those_of_the_dual_encoder(saved, name, kind):
    specification = saved(name)
    folder = specification.removeprefix("hf:")
    model = semattn.load(specification, labels=LABELS)
    with hide_progress_bars(), errors_only("transformers"):
        dual = transformers.AutoModel.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = True if "clip" in name else "max_length"
    texts = tokenizer(list(LABELS), padding=padding, return_tensors="pt")
    expected = dual(pixel_values=pixels(3), **texts).logits_per_image
    assert torch.allclose(model(pixels(3)), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01, "the labels differ"
    assert model.classes == LABELS
    assert predict(model, pixels())[1].kind is kind
    assert semattn.record(model, pixels(), target="A dog").prediction.target.tolist() == [1, 1]
    other = semattn.load(specification, labels=LABELS[::-1])
    assert torch.allclose(other(pixels(3)), expected.flip(1), rtol=1e-4, atol=1e-4)


def test_zero_shot_logits_of_open_clip(saved):
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    specification = saved("open-clip")
    folder = specification.removeprefix("open-clip:")
    model = semattn.load(specification, labels=LABELS)
    with errors_only("root"):
        dual = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(LABELS))
    images, texts, scale = dual(pixels(3), tokens)
    assert torch.allclose(model(pixels(3)), scale * images @ texts.T, rtol=1e-4, atol=1e-4)
    assert semattn.load(folder, labels=LABELS).classes == LABELS


@pytest.mark.parametrize("name", ["torchvision-vit", "torchvision-swin"])
def test_weights_of_torchvision_come_from_the_cache(saved, name):
    model = semattn.load(saved(name))
    assert model.classes == CLASSES
    state = torch.load(
        next((saved_models.Path(torch.hub.get_dir()) / "checkpoints").iterdir()), weights_only=True
    )
    assert set(state) == set(model.state_dict())
    assert semattn.Preprocessing.of(model).size == (SIDE, SIDE)


def test_a_folder_of_timm(saved):
    specification = saved("timm-folder")
    model = semattn.load(specification)
    file = f"{specification.removeprefix('local-dir:')}/model.safetensors"
    assert torch.equal(model.head.weight, load_file(file)["head.weight"])
    assert model.classes == CLASSES
    assert semattn.Preprocessing.of(model).mean == (0.5,) * 3
    assert semattn.load(specification.removeprefix("local-dir:")).classes == CLASSES


def test_code_of_the_user(saved):
    specification = saved("python-file")
    model = semattn.load(specification)
    assert model.classes == CLASSES and semattn.Preprocessing.of(model).size == (SIDE, SIDE)
    assert model.specification == f"{specification} (local code)"
    entry = saved("torch-hub-folder")
    assert semattn.load(entry).specification == f"{entry} (local code)"
    assert semattn.load(entry, pretrained=False).classes == CLASSES


def test_a_hub_folder_without_preprocessing_says_what_it_assumes(tmp_path):
    code = "import torch\ndef net(): return torch.nn.Identity()\n"
    (tmp_path / "hubconf.py").write_text(code)
    with pytest.warns(UserWarning, match="ImageNet's mean and std"):
        model = semattn.load(f"torch-hub-dir:{tmp_path}:net")
    assert semattn.Preprocessing.of(model).size == (224, 224)


def test_models_in_the_cache_need_no_network(saved, tmp_path, monkeypatch):
    """The layout of the cache is that of huggingface_hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, prefix in (("transformers-vit", "hf"), ("timm-folder", "hf-hub")):
        repository = tmp_path / f"models--own--{prefix}"
        snapshot = repository / "snapshots" / "0123"
        shutil.copytree(saved(name).partition(":")[2], snapshot)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123")
        assert cached_folder(f"own/{prefix}") == snapshot
        model = semattn.load(f"{prefix}:own/{prefix}")
        assert semattn.utils.class_names.class_names(model) == CLASSES
    assert cached_folder("own/none") is None and cached_folder("no name!") is None


@pytest.mark.parametrize("specification", ["hf:own/none", "hf-hub:own/none"])
def test_a_missing_download_says_what_to_run(specification, monkeypatch):
    """The library of the hub tries five times; the test does not wait in between."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(SemattnError, match="run hf download own/none with a network") as error:
        semattn.load(specification)
    one_line(error)


def test_a_missing_file_of_torchvision_says_what_to_run(saved, tmp_path):
    specification = saved("torchvision-vit")
    hub = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        with pytest.raises(SemattnError, match=r"run curl -L .*tiny_vit-00000000\.pth") as error:
            semattn.load(specification)
    finally:
        torch.hub.set_dir(hub)
    one_line(error)


def test_incomplete_weights_are_refused(saved, tmp_path):
    """A model without a trained classifier would get a random one."""
    shutil.copytree(saved("transformers-vit").removeprefix("hf:"), tmp_path / "m")
    state = load_file(tmp_path / "m/model.safetensors")
    del state["classifier.weight"]
    save_file(state, tmp_path / "m/model.safetensors", {"format": "pt"})
    with pytest.raises(SemattnError, match=r"without 1 of them, such as 'classifier\.weight'") as e:
        semattn.load(f"hf:{tmp_path / 'm'}")
    one_line(e)


def test_code_in_weights_is_not_run(saved, tmp_path):
    from tests.zoo.test_zoo import Payload

    folder = tmp_path / "m"
    shutil.copytree(saved("transformers-vit").removeprefix("hf:"), folder)
    (folder / "model.safetensors").unlink()
    torch.save({"a": Payload(str(tmp_path / "run"))}, folder / "pytorch_model.bin")
    with pytest.raises(SemattnError) as error:
        semattn.load(str(folder))
    one_line(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["ViTMAEForPreTraining"]}, "got ViTMAEForPreTraining"),
        ({"architectures": ["BertModel"]}, "got BertModel"),
        ({"architectures": None}, "got ViTConfig"),
        ({"num_channels": 1}, "expected an image processor for 1 channels"),
    ],
)
def test_other_models_of_transformers_are_refused(saved, tmp_path, change, reason):
    shutil.copytree(saved("transformers-vit").removeprefix("hf:"), tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | change))
    with pytest.raises(SemattnError, match=reason) as error:
        semattn.load(f"hf:{tmp_path / 'm'}", pretrained=False)
    one_line(error)


def test_a_folder_without_an_image_processor_is_refused(saved, tmp_path):
    shutil.copytree(saved("transformers-vit").removeprefix("hf:"), tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").unlink()
    with pytest.raises(SemattnError, match="expected an image processor") as error:
        semattn.load(str(tmp_path / "m"))
    one_line(error)


@pytest.mark.parametrize(
    ("name", "labels", "reason"),
    [
        ("transformers-vit", LABELS, "which is not a zero-shot model"),
        ("timm-folder", LABELS, "which is not a zero-shot model"),
        ("transformers-clip", None, "expected the texts of the classes"),
        ("open-clip", None, "expected the texts of the classes"),
        ("transformers-clip", ["a cat"], "expected at least two different texts"),
        ("transformers-clip", ["a cat", "a cat"], "expected at least two different texts"),
        ("transformers-clip", "a cat,a dog", "expected a list of texts"),
    ],
)
def test_labels_that_do_not_fit_are_refused(saved, name, labels, reason):
    with pytest.raises((ValueError, TypeError), match=reason) as error:
        semattn.load(saved(name), labels=labels)
    one_line(error)


@pytest.mark.parametrize("name", ["transformers-vit", "timm-folder", "python-file"])
def test_a_checkpoint_beside_a_folder_is_refused(saved, tmp_path, name):
    with pytest.raises(ValueError, match="which has its own weights") as error:
        semattn.load(saved(name), checkpoint=tmp_path / "w.pt")
    one_line(error)


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("hf:", "expected an address after 'hf:'"),
        ("torchvision:vit_b_61", "did you mean 'vit_b_16'"),
        ("torchvision:vit_b_16:IMAGENET", "model weights: unknown name 'IMAGENET'"),
        ("google/vit-base", "hf:google/vit-base is the name of a model on the hub"),
        ("keras:vit", "unknown specification 'keras:vit'"),
        ("own.py", "expected FILE.py:function, got 'own.py', which does not exist"),
        ("{own}", "got no function"),
        ("{own}:none", "expected a function 'none'"),
        ("{own}:number", "got int"),
        ("{own}:broken", "fails with KeyError"),
        ("{own}:bare", "expected the preprocessing of the model"),
        ("torch-hub-dir:{empty}:net", "with hubconf.py in the folder"),
        ("{empty}", "expected a folder with the config.json of transformers or timm"),
        ("hf:{empty}", "expected a folder with the config.json of transformers"),
        ("local-dir:{empty}", "expected a folder with the config.json of timm"),
    ],
)
def test_wrong_specifications_are_one_line(saved, tmp_path, specification, reason):
    own = saved("python-file").removesuffix(":build")
    with pytest.raises((ValueError, SemattnError)) as error:
        semattn.load(specification.format(own=own, empty=tmp_path))
    assert reason in str(error.value) and "\n" not in str(error.value) and " — " in str(error.value)


def test_a_source_is_one_function_and_one_decorator():
    @sources.register("own")
    def load_own(request):
        return semattn.zoo.LoadedModel(torch.nn.Linear(int(request.address), 1))

    try:
        assert split_specification("own:3") == ("own", "3")
        model = semattn.load("own:3")
        assert model.in_features == 3 and model.specification == "own:3"
    finally:
        del sources["own"]
