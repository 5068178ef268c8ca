from __future__ import annotations

import json
import re
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from semattn.cli import image_writers as output
from semattn.cli.main import main
from semattn.errors import UnsupportedModelError
from semattn.explain import explainers
from semattn.zoo import model_status as known_models
from tests.conftest import PHOTO, refused
from tests.result_files import names_in

pytestmark = pytest.mark.usefixtures("elsewhere")

FILES = output.COMPARISON_FILES | {"report": "report.html"}
PAIR = ("--methods", "attention-rollout,sift-patch-interrelation")


def test_compare_writes_everything_and_says_where(run, tmp_path):
    status, out, err = run("compare", PHOTO, *PAIR)
    assert status == 0, err
    assert not err
    folder = tmp_path / "semattn-compare-flower"
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    assert names_in(folder) == sorted(FILES.values())
    assert out.endswith(
        "in semattn-compare-flower: compare.png, compare.json, maps.npz, report.html\n"
    )
    assert len(re.findall(r"^ *\d+\.\d%", out, re.MULTILINE)) == 3
    assert out.count("← explained") == 1
    table = re.findall(r"^(\S+-\S+) +(\d+\.\d\d) +(\d+|–) +(\d\.\d\d) *$", out, re.MULTILINE)
    assert [row[0] for row in table] == ["attention-rollout", "sift-patch-interrelation"]
    assert table[0][3] == "0.00" and float(table[1][3]) > 0

    with Image.open(folder / "compare.png") as picture:
        assert picture.width > 1600
    result = json.loads((folder / "compare.json").read_text(), parse_constant=pytest.fail)
    assert result["image"] == "flower.jpg"
    assert result["target"] == result["predictions"][0]
    assert result["other"]["class"] == result["predictions"][1]["class"]
    assert result["keypoints"]["count"] > 0
    assert result["files"] == FILES
    assert len(result["manifest"]["weights_sha256"]) == 64
    rollout, ours = result["methods"]
    assert rollout["sensitivity"] == 0 and 0 < ours["sensitivity"] <= 1
    assert ours["parameters"]["density"] == "count" and ours["parameters"]["queries"] == "auto"
    assert ours["patches"] == [4, 4] and ours["seconds"] > 0
    assert ours["refusal"] is None and ours["notes"] == []
    with np.load(folder / "maps.npz", allow_pickle=False) as maps:
        assert maps.files == ["attention-rollout", "sift-patch-interrelation"]
        assert {maps[name].dtype for name in maps.files} == {np.dtype(np.float32)}
        assert {maps[name].shape for name in maps.files} == {(64, 64)}


def test_the_options_of_explain_reach_every_method(run, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n\nc\nd\ne\n")
    status, _, err = run(
        "compare", PHOTO, "--methods", " legrad, center ,legrad", "--out", "deep/er",
        "--density", "sobel", "--detector", "sift-skimage", "--refine", "superpixels",
        "--class-names", "names.txt", "--target", "d", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    result = json.loads((tmp_path / "deep/er/compare.json").read_text())
    assert [row["method"] for row in result["methods"]] == ["legrad", "center"]
    assert result["target"]["class"] == 3 and result["target"]["name"] == "d"
    assert result["keypoints"]["detector"] == "sift-skimage"
    for row in result["methods"]:
        assert row["parameters"]["density"] == "sobel"
        assert row["parameters"]["refine"] == "superpixels"


def test_refusals_are_told_and_kept(run, tmp_path, monkeypatch):
    def refusing(self, run):
        raise UnsupportedModelError("model: expected [another], got this")

    monkeypatch.setattr(explainers["legrad"], "maps", refusing)
    status, out, err = run("compare", PHOTO, "--methods", "legrad,center", "--out", "o")
    assert status == 0, err
    assert re.search(r"^legrad +refused", out, re.MULTILINE)
    assert "refused: legrad: model: expected [another], got this\n" in out
    first, second = json.loads((tmp_path / "o/compare.json").read_text())["methods"]
    assert first["refusal"] == "model: expected [another], got this"
    assert first["seconds"] is first["sensitivity"] is first["peak_mib"] is None
    assert second["refusal"] is None
    with np.load(tmp_path / "o/maps.npz") as maps:
        assert maps.files == ["center"]
    refused(run("compare", PHOTO, "--methods", "legrad", "--out", "p"), "expected [another]")
    assert not (tmp_path / "p").exists()


def test_notes_are_said_once(run, tmp_path):
    Image.new("RGB", (80, 80), "grey").save(tmp_path / "plain.png")
    status, out, err = run("compare", "plain.png", *PAIR, "--out", "o")
    assert status == 0, err
    assert not err
    assert out.count("note: ") == 1
    assert "note: sift-patch-interrelation: plain.png: no keypoints were used" in out


def test_a_model_without_classes_is_compared(run, tmp_path, monkeypatch):
    import timm

    features = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    monkeypatch.setattr(import_module("semattn.zoo"), "load", lambda *a, **k: features)
    status, out, err = run("compare", PHOTO, *PAIR, "--out", "o")
    assert status == 0, err
    assert out.count("the model's own feature direction") == 1
    assert "sensitivity:" not in out
    result = json.loads((tmp_path / "o/compare.json").read_text())
    assert result["target"] is result["other"] is None
    assert result["predictions"] == []
    assert result["target_description"] == "the model's own feature direction"
    assert [row["sensitivity"] for row in result["methods"]] == [None, None]


def test_progress_names_each_method(run, monkeypatch):
    lines = []

    @contextmanager
    def busy(first):
        lines.append(first)
        yield lines.append

    for module in ("compare", "image_runs"):
        monkeypatch.setattr(f"semattn.cli.{module}.busy", busy)
    assert run("compare", PHOTO, *PAIR)[0] == 0
    assert lines[0] == "reading the picture" and lines[-1] == "drawing"
    assert lines[3:-1] == ["1 of 2: attention-rollout", "2 of 2: sift-patch-interrelation"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--methods", "legrad,raw-atention"], ["did you mean 'raw-attention'", "smooth-grad"]),
        (["--methods", " , "], ["methods", "one name at least"]),
        (["--density", "cuont"], ["did you mean 'count'"]),
        (["--detector", "orb"], ["detector"]),
        (["--refine", "guide"], ["did you mean 'guided'"]),
        (["--device", "toaster"], ["device", "toaster", "cpu"]),
        (["--layers", "all"], ["--layers"]),
    ],
    ids=" ".join,
)
def test_wrong_options_end_in_one_line_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, arguments, parts
):
    monkeypatch.setattr(import_module("semattn.zoo"), "load", lambda *a, **k: pytest.fail("loaded"))
    refused(run("compare", PHOTO, "--out", "o", *arguments), *parts)
    assert not list(tmp_path.iterdir())


def test_wrong_input_ends_in_one_line(run, tmp_path, monkeypatch):
    refused(run("compare", PHOTO, *PAIR, "--target", "99"), "0 to 4", "99")
    refused(run("compare", PHOTO, *PAIR, "--target", "cta"), "unknown class", "Cat")
    refused(run("compare", PHOTO, "--model", "resnet18"), "ResNet")
    monkeypatch.setattr(import_module("semattn.zoo"), "load", lambda *a, **k: pytest.fail("loaded"))
    refused(run("compare", "none.png"), "none.png")
    refused(run("compare"), "IMAGE")
    (tmp_path / "o").write_text("mine")
    refused(run("compare", PHOTO, "--out", "o"), "expected a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


@pytest.mark.parametrize("step", ["comparison", "write_json", "np.savez_compressed"])
def test_nothing_is_left_when_writing_fails(run, tmp_path, monkeypatch, step):
    def broken(*_, **__):
        raise RuntimeError("no\nink")

    monkeypatch.setattr(f"semattn.cli.image_writers.{step}", broken)
    status, _, err = run("compare", PHOTO, *PAIR, "--out", "o")
    assert status == 1
    assert err == "error: RuntimeError: no ink — an internal error; --debug shows the traceback\n"
    assert not list(tmp_path.iterdir())


def test_a_defect_of_a_method_is_not_taken_for_a_refusal(run, tmp_path, monkeypatch):
    monkeypatch.setattr(explainers["legrad"], "maps", lambda self, run: 1 / 0)
    assert run("compare", PHOTO, "--methods", "legrad,center", "--out", "o")[0] == 1
    with pytest.raises(ZeroDivisionError):
        main(["compare", str(PHOTO), "--methods", "legrad", "--out", "o", "--debug"])
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_one_line(run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(explainers["center"], "maps", interrupted)
    status, _, err = run("compare", PHOTO, "--methods", "legrad,center", "--out", "o")
    assert (status, err) == (130, "error: interrupted — no result was written\n")
    assert not list(tmp_path.iterdir())


def test_help_names_all_there_is(run):
    status, out, _ = run("compare", "--help")
    assert status == 0
    assert {*explainers} <= set(re.findall(r"[\w-]+", out)), "a method is missing from --help"
    assert {"explain", "compare", "models"} <= set(re.findall(r"\w+", run("--help")[1]))


def row(family: str, status: str, **more: object) -> dict[str, object]:
    return {"family": family, "status": status, **more}


SWEEP = {
    "timm": "9.9",
    "models": {
        "vit_b": row("vit", "works", patches=[14, 14], layers=2),
        "vit_small": row("vit", "works", patches=[16, 16]),
        "vit_xx": row("vit", "not tried", reason="too large: 9 GB"),
        "mixer_a": row("mixer", "refused", reason="stem [0]: expected attention, got none"),
        "mixer_b": row("mixer", "refused", reason="stem [0]: expected attention, got none"),
        "davit_t": row("davit", "works", patches=[7, 7], left_out=["ChannelAttention"]),
        "odd_a": row("odd", "wrong", reason="logits: differ"),
    },
}


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.setattr(known_models, "sweep", lambda: SWEEP)


@pytest.mark.usefixtures("sweep")
def test_models_lists_the_families_with_what_each_came_to(run):
    status, out, err = run("models")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    titles = ["family", "models", "works", "refused", "wrong", "not tried", "for example"]
    assert re.split(r" {2,}", out.splitlines()[0].strip()) == titles
    assert lines[1] == ["vit", "3", "2", "–", "–", "1", "vit_b"]
    assert lines[2] == ["mixer", "2", "–", "2", "–", "–", "–"]
    assert ["odd", "1", "–", "–", "1", "–", "–"] in lines
    assert "3 of 7 architectures of timm 9.9 work" in out


@pytest.mark.usefixtures("sweep")
def test_models_of_a_family_a_part_or_a_pattern(run):
    status, out, err = run("models", "vit")
    assert (status, err) == (0, "")
    assert re.search(r"^vit_b +14×14 +works *$", out, re.MULTILINE)
    assert re.search(r"^vit_xx +– +not tried *$", out, re.MULTILINE)
    assert "davit" not in out, "a family's name is taken before a part of a name"
    assert "not tried: vit_xx\n  too large: 9 GB" in out
    assert run("models", "VIT") == run("models", "vit")
    out = run("models", "mixer")[1]
    assert out.count("stem [0]: expected attention, got none") == 1
    assert "refused: all of them" in out
    assert "map is without ChannelAttention" in run("models", "davit_")[1]
    names = re.findall(r"^\w+(?= +\S+ +\w)", run("models", "*_[ab]")[1], re.MULTILINE)
    assert {"vit_b", "mixer_a", "mixer_b", "odd_a"} <= set(names)
    assert "vit_small" not in names


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize(("name", "nearest"), [("mixr", "mixer"), ("vti", "vit")])
def test_an_unknown_model_names_the_nearest(run, name, nearest):
    refused(run("models", name), f"did you mean '{nearest}'", "semattn models lists the families")
    refused(run("models", "qqq"), "unknown name 'qqq'")


def test_models_tells_what_the_sweep_found(run):
    everything = known_models.model_statuses()
    works = sum(model.status == "works" for model in everything.values())
    assert f"{works} of {len(everything)} architectures of timm" in run("models")[1]
    assert {model.status for model in everything.values()} <= set(known_models.STATUSES)
    family = next(iter(everything.values())).family
    names = {name for name, model in everything.items() if model.family == family}
    assert names <= set(re.findall(r"[\w.]+", run("models", family)[1]))


@pytest.mark.weights
@pytest.mark.slow
def test_the_embedded_model_is_explained_by_every_method(run, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    status, _, err = run("compare", PHOTO, "--out", tmp_path / "o")
    assert status == 0, err
    result = json.loads((tmp_path / "o/compare.json").read_text())
    assert [row["method"] for row in result["methods"] if row["refusal"]] == []
