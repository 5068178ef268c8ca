from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

from semattn.cli import image_writers as output
from semattn.cli.main import main
from semattn.density import densities
from semattn.explain import explainers
from semattn.explain.refine import refinements
from semattn.keypoints import detectors
from tests.conftest import PHOTO, ROOT, refused
from tests.result_files import names_in

pytestmark = pytest.mark.usefixtures("elsewhere")


FILES = output.EXPLANATION_FILES | {"report": "report.html"}


def test_explain_writes_everything_and_says_where(run, tmp_path):
    status, out, err = run("explain", PHOTO)
    assert status == 0, err
    assert not err
    folder = tmp_path / "semattn-flower"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["semattn-flower"]
    assert names_in(folder) == sorted(FILES.values())
    assert "in semattn-flower: overlay.png, figure.png, map.npy, result.json" in out
    assert len(re.findall(r"^ *\d+\.\d%", out, re.MULTILINE)) == 3
    assert out.count("← explained") == 1

    heat_map = np.load(folder / "map.npy")
    assert heat_map.dtype == np.float32
    assert heat_map.shape == (64, 64)
    with Image.open(folder / "overlay.png") as overlay:
        assert overlay.size == (896, 896)
    result = json.loads((folder / "result.json").read_text())
    assert len(result["predictions"]) == 5
    assert sum(prediction["probability"] for prediction in result["predictions"]) == pytest.approx(
        1
    )
    assert result["target"] == result["predictions"][0]
    assert result["image"] == "flower.jpg"
    assert result["patches"] == [4, 4]
    assert result["keypoints"]["count"] > 0
    assert result["files"] == FILES
    assert result["manifest"]["method"] == "sift-patch-interrelation"
    assert len(result["manifest"]["weights_sha256"]) == 64


@pytest.mark.parametrize("target", ["4", "Car, cars", "CARS", " car "])
def test_a_target_is_a_number_or_a_name(run, tmp_path, target):
    status, out, err = run("explain", PHOTO, "--target", target, "--out", "o", "--top", 5)
    assert status == 0, err
    assert re.search(r"Car, cars +← explained", out)
    assert json.loads((tmp_path / "o/result.json").read_text())["target"]["class"] == 4


def test_a_target_that_is_not_among_those_listed_is_named(run):
    _, out, _ = run("explain", PHOTO, "--top", 1)
    other = "dog" if "Cup or pot" in out else "POT"
    _, out, _ = run("explain", PHOTO, "--top", 1, "--target", other)
    assert f"explained: {'dog' if other == 'dog' else 'Cup or pot'}, not in the list" in out


def test_every_option_reaches_the_library(run, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n\nc\nd\ne\n")
    status, _, err = run(
        "explain", PHOTO, "--out", "deep/er", "--density", "sobel", "--detector", "sift-skimage",
        "--layers", "1,3-4", "--queries", "all", "--refine", "guided", "--class-names", "names.txt",
        "--device", "cpu", "--method", "sift-patch-interrelation", "--affinity", "0.25",
        "--gradient", "lrp",
    )  # fmt: skip
    assert status == 0, err
    result = json.loads((tmp_path / "deep/er/result.json").read_text())
    assert {prediction["name"] for prediction in result["predictions"]} == set("abcde")
    assert result["keypoints"]["detector"] == "sift-skimage"
    settings = result["manifest"]["parameters"]
    assert settings["density"] == "sobel"
    assert settings["layers"] == [1, 3, 4]
    assert settings["queries"] == "all"
    assert settings["affinity"] == 0.25
    assert settings["gradient"] == "lrp"
    assert settings["refine"] == "guided"


def test_results_replace_older_ones_and_leave_the_rest(run, tmp_path):
    folder = tmp_path / "o"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "map.npy").write_text("old")
    refused(run("explain", PHOTO, "--out", folder), "map.npy was not written by semattn", "--force")
    assert (folder / "map.npy").read_text() == "old"
    assert run("explain", PHOTO, "--out", folder, "--force")[0] == 0
    assert (folder / "mine.txt").read_text() == "mine"
    assert np.load(folder / "map.npy").shape == (64, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o"]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_photograph_is_never_overwritten(run, tmp_path, force):
    (tmp_path / "own").mkdir()
    photo = shutil.copy(PHOTO, tmp_path / "own/figure.png")
    before = Path(photo).read_bytes()
    refused(run("explain", "own/figure.png", "--out", "own", *force), "figure.png is the input")
    assert Path(photo).read_bytes() == before and names_in(tmp_path / "own") == ["figure.png"]


def test_two_photographs_of_one_name_have_two_folders(run, tmp_path):
    for animal, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / animal).mkdir()
        Image.new("RGB", (80, 80), colour).save(tmp_path / animal / "001.jpg")
    assert run("explain", "cat/001.jpg")[0] == 0
    assert run("explain", "dog/001.jpg", "--no-report")[0] == 0
    folders = sorted(tmp_path.glob("semattn-001*"))
    assert len(folders) == 2 and folders[0].name == "semattn-001"
    for folder, animal in zip(folders, ("cat", "dog"), strict=True):
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        file = tmp_path / animal / "001.jpg"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert content["inputs"] == [{"path": file.as_posix(), "sha256": digest}]
    assert (folders[0] / "report.html").exists() and not (folders[1] / "report.html").exists()
    assert run("explain", "dog/001.jpg", "--out", "semattn-001", "--no-report")[0] == 0
    assert not (folders[0] / "report.html").exists(), "the cat's report beside the dog's map"


def test_an_image_without_keypoints_is_explained_with_a_note(run, tmp_path):
    Image.new("RGB", (80, 80), "grey").save(tmp_path / "plain.png")
    status, out, err = run("explain", "plain.png", "--out", "o")
    assert status == 0, err
    assert "note: " in out
    assert "keypoint" in out
    assert not err


def huge(path: Path) -> None:
    """A PNG whose header promises 100 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


BAD_IMAGES = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "no image": lambda path: path.write_text("hello\nworld"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(PHOTO.read_bytes()[:9000]),
    "1 pixel": lambda path: Image.new("RGB", (1, 1)).save(path),
    "100 megapixels": huge,
}


@pytest.mark.parametrize("make", [*BAD_IMAGES.values()], ids=[*BAD_IMAGES])
def test_a_bad_image_ends_in_one_line(run, tmp_path, make):
    path = tmp_path / "bad.png"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    line = refused(run("explain", path, "--out", "o"), "bad.png")
    assert "expected" in line or "no such file" in line.lower()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--target", "99"], ["target", "0 to 4", "99"]),
        (["--target", "-1"], ["target", "-1"]),
        (["--target", "--5"], ["target", "unknown class"]),
        (["--target", "²"], ["target", "unknown class"]),
        (["--target", "owls!"], ["unknown class 'owls!'", "did you mean 'owl, owls'"]),
        (["--model", "resnet18"], ["ResNet"]),
        (["--model", "coat_lite_tiny"], ["FactorAttnConvRelPosEnc"]),
        (["--density", "cuont"], ["did you mean 'count'"]),
        (["--detector", "orb"], ["detector"]),
        (["--method", "magic"], ["explainer"]),
        (["--refine", "guide"], ["did you mean 'guided'"]),
        (["--layers", "some"], ["layers", "some"]),
        (["--layers", "3-99"], ["layers"]),
        (["--layers", "5-3"], ["layers"]),
        (["--queries", "none"], ["queries"]),
        (["--affinity", "1"], ["affinity", "[0, 1)"]),
        (["--gradient", "none"], ["gradient", "plain, lrp"]),
        (["--method", "grad-cam", "--gradient", "lrp"], ["grad-cam", "gradient"]),
        (["--device", "toaster"], ["device", "toaster", "cpu"]),
        (["--device", "meta"], ["device", "meta", "cpu"]),
        (["--class-names", "none.txt"], ["class names", "none.txt"]),
        (["--top", "0"], ["top"]),
        (["--nonsense"], ["--nonsense"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_options_end_in_one_line(run, tmp_path, monkeypatch, arguments, parts):
    if "coat_lite_tiny" in arguments:
        coat = timm.create_model("coat_lite_tiny", serial_depths=(1, 1, 1, 1)).eval()
        monkeypatch.setattr(import_module("semattn.zoo"), "load", lambda *a, **k: coat)
    refused(run("explain", PHOTO, "--out", "o", *arguments), *parts)
    assert not list(tmp_path.iterdir())


def test_files_are_staged_inside_a_folder_that_stands_and_never_behind_a_dead_link(
    run, tmp_path, monkeypatch
):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    staged, make = [], tempfile.mkdtemp

    def watch(*args, **named):
        staged.append(named.get("dir"))
        return make(*args, **named)

    monkeypatch.setattr(tempfile, "mkdtemp", watch)
    assert run("explain", PHOTO, "--out", folder)[0] == 0
    assert folder in staged, "the folder may be a disk of its own"
    assert set(names_in(folder)) == {
        "mine.txt", *FILES.values()
    }  # fmt: skip
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    refused(run("explain", PHOTO, "--out", tmp_path / "gone"), "broken link")


def test_class_names_must_be_as_many_as_the_classes(run, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\n")
    refused(run("explain", PHOTO, "--class-names", "names.txt"), "class names: expected 5", "got 2")


def test_out_must_be_a_folder(run, tmp_path):
    (tmp_path / "o").write_text("mine")
    refused(run("explain", PHOTO, "--out", "o"), "expected a folder")
    assert (tmp_path / "o").read_text() == "mine"


def test_nothing_is_left_when_drawing_fails(run, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no\nink")

    monkeypatch.setattr("semattn.cli.image_writers.figure", broken)
    status, _, err = run("explain", PHOTO, "--out", "o")
    assert status == 1
    assert err == "error: RuntimeError: no ink — an internal error; --debug shows the traceback\n"
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="ink"):
        main(["explain", str(PHOTO), "--out", "o", "--debug"])
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_one_line(run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("semattn.cli.image_writers.overlay", interrupted)
    status, _, err = run("explain", PHOTO, "--out", "o")
    assert (status, err) == (130, "error: interrupted — no result was written\n")
    assert not list(tmp_path.iterdir())


def test_help_names_all_there_is(run):
    status, out, _ = run("explain", "--help")
    assert status == 0
    words = set(re.findall(r"[\w-]+", out))
    everything = {*densities, *detectors, *refinements, *explainers} - {"other"}
    assert everything <= words, "a registered name is missing from --help"


def test_bare_help_and_version(run):
    assert run() == run("--help")
    assert "explain" in run()[1]
    assert re.fullmatch(r"semattn \d+\.\d+\.\d+\S*\n", run("--version")[1])
    refused(run("explian", PHOTO), "explian", "--help")
    refused(run("explain"), "IMAGE")


def test_the_command_as_a_process(tmp_path):
    command = [sys.executable, "-m", "semattn", "explain", str(tmp_path / "none.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    refused((done.returncode, done.stdout, done.stderr), "none.png")


@pytest.mark.weights
def test_the_embedded_model_knows_the_flower(tmp_path):
    command = [sys.executable, "-m", "semattn", "explain", str(PHOTO), "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "o/result.json").read_text())
    assert result["target"]["name"] == "flower" and result["target"]["probability"] > 0.5
