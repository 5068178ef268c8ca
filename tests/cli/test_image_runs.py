"""IMAGE arguments: several files, patterns, folders, standard input and addresses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, strategies
from PIL import Image, ImageOps

from semattn.cli import image_runs
from semattn.cli.inputs import ImageInput, ImageInputs, read_images
from semattn.errors import UnsupportedModelError
from tests.conftest import PHOTO, ROOT, refused
from tests.result_files import contents_of, names_in

pytestmark = pytest.mark.usefixtures("elsewhere", "quick_figures")
QUICK = {
    "explain": ["--no-report"],
    "compare": ["--no-report", "--methods", "legrad,center"],
    "prompt": ["--no-report", "--density", "count", "--strength", "1"],
}
PICTURE = {"explain": "overlay.png", "compare": "compare.png", "prompt": "prompt.png"}
RESULT = {"explain": "result.json", "compare": "compare.json", "prompt": "prompt.json"}


def save(path: Path, turn=lambda image: image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(PHOTO) as image:
        turn(image.convert("RGB").resize((96, 80))).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three pictures, two of one name, with stray files beside them."""
    save(tmp_path / "photos/a b#c.png")
    save(tmp_path / "photos/cat/001.jpg", ImageOps.mirror)
    save(tmp_path / "photos/dog/001.jpg", ImageOps.flip)
    (tmp_path / "photos/Thumbs.db").write_bytes(b"\x00\x01")
    (tmp_path / "photos/dog/notes.txt").write_text("no picture")
    return tmp_path / "photos"


@pytest.fixture
def loads(monkeypatch) -> list[object]:
    """The models that were loaded."""
    zoo = import_module("semattn.zoo")
    load, loaded = zoo.load, []
    monkeypatch.setattr(zoo, "load", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[-1])
    return loaded


def give_stdin(monkeypatch, content: bytes, is_terminal: bool = False) -> None:
    stream = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: is_terminal)
    monkeypatch.setattr(sys, "stdin", stream)


class Addresses(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src")]


def index_files(folder: Path) -> set[str]:
    """The files that the index page shows or links, each of which exists."""
    links = [unquote(link) for link in Addresses(folder / "index.html").found if link != "data:,"]
    for link in links:
        assert (folder / link).is_file(), link
        assert not Path(link).is_absolute()
    return set(links)


@pytest.mark.parametrize("command", QUICK)
def test_a_folder_is_done_picture_by_picture_with_one_model_load(
    run, photos, tmp_path, loads, command
):
    status, out, err = run(command, "photos", *QUICK[command])
    assert (status, err) == (0, ""), err
    assert len(loads) == 1
    results = tmp_path / f"semattn-{command}-photos"
    assert [path.name for path in tmp_path.iterdir() if path != photos] == [results.name]
    assert names_in(results) == ["a b#c", "cat-001", "dog-001", "index.html"]
    expected = {f"{name}/{PICTURE[command]}" for name in ("a b#c", "cat-001", "dog-001")}
    assert expected <= index_files(results)
    lines = out.splitlines()
    assert lines[1].startswith("photos/a b#c.png ") and lines[2].startswith("photos/cat/001.jpg ")
    assert "skipped: 2" in out
    for stray in ("photos/Thumbs.db", "photos/dog/notes.txt"):
        assert f"  {stray}: image: expected a picture" in out
        assert f"<b>{stray}</b>" in (results / "index.html").read_text(encoding="utf-8")
    assert lines[-1] == f"3 images in {results.name}: index.html, and a folder for each image"
    for name, path in (("a b#c", "a b#c.png"), ("cat-001", "cat/001.jpg")):
        result = json.loads((results / name / RESULT[command]).read_text(encoding="utf-8"))
        digest = hashlib.sha256((photos / path).read_bytes()).hexdigest()
        assert result["inputs"] == [{"path": (photos / path).as_posix(), "sha256": digest}]
        status, _, err = run(command, photos / path, "--out", f"alone-{name}", *QUICK[command])
        assert status == 0, err
        alone, together = (
            contents_of(folder) for folder in (tmp_path / f"alone-{name}", results / name)
        )
        if command == "compare":  # which measures time
            alone, together = ({"maps.npz": contents["maps.npz"]} for contents in (alone, together))
        assert alone == together


def test_the_shell_and_semattn_expand_a_pattern_alike(run, photos, tmp_path):
    files = sorted(photos.glob("*/*.jpg"))
    assert run("explain", *files, "--out", "shell", "--no-report")[0] == 0
    assert run("explain", "photos/*/*.jpg", "--out", "own", "--no-report")[0] == 0
    assert run("explain", "photos/**/*.jpg", "--out", "deep", "--no-report")[0] == 0
    assert names_in(tmp_path / "own") == ["cat-001", "dog-001", "index.html"]
    shell, listed, deep = (contents_of(tmp_path / name) for name in ("shell", "own", "deep"))
    assert listed == deep
    del shell["index.html"], listed["index.html"]  # which show the path as it was typed
    assert shell == listed


def test_a_pattern_of_one_file_is_that_file_and_a_name_with_signs_is_itself(run, photos, tmp_path):
    assert run("explain", "photos/a*.png", "--no-report")[0] == 0
    assert "overlay.png" in names_in(tmp_path / "semattn-a b#c")
    save(tmp_path / "x[1].png")
    save(tmp_path / "x1.png", ImageOps.flip)
    assert run("explain", "x[1].png", "--no-report")[0] == 0
    result = json.loads((tmp_path / "semattn-x[1]/result.json").read_text())
    assert result["image"] == "x[1].png"
    refused(run("explain", "photos/*.gif"), "files that match the pattern photos/*.gif", "got none")


def test_patterns_and_folders_leave_out_results_of_semattn(run, photos, tmp_path):
    assert run("explain", "photos", "--out", "photos/maps", "--no-report")[0] == 0
    for arguments in (["photos"], ["photos/**/*.*"], ["photos/*"]):
        images = read_images(arguments, "explain").images
        pictures = [image.label for image in images if "001" in image.label or "#" in image.label]
        assert pictures == ["photos/a b#c.png", "photos/cat/001.jpg", "photos/dog/001.jpg"]
        assert len(images) == 5
    refused(run("explain", "photos/maps"), "got none in photos/maps, only results of semattn")


def test_a_file_that_is_named_again_is_done_once(run, photos, tmp_path):
    (tmp_path / "link.jpg").symlink_to(photos / "cat/001.jpg")
    status, out, err = run(
        "explain", "photos/cat", "photos/cat/001.jpg", photos / "cat/001.jpg", "link.jpg",
        "photos/dog/001.jpg", "--out", "o", "--no-report",
    )  # fmt: skip
    assert status == 0, err
    assert names_in(tmp_path / "o") == ["cat-001", "dog-001", "index.html"]
    assert "note: 3 of the files were named more than once; each is used once" in out


def test_what_cannot_be_read_is_skipped_and_the_rest_is_done(run, photos, tmp_path):
    (tmp_path / "half.jpg").write_bytes(PHOTO.read_bytes()[:9000])
    status, out, _ = run(
        "explain", "none.png", "half.jpg", photos / "cat/001.jpg", "--out", "o", "--no-report"
    )
    assert status == 0
    assert "skipped: 2" in out
    assert "  none.png: image: expected a file, got 'none.png', which does not exist" in out
    assert "  half.jpg: image: expected a complete picture" in out
    assert len(names_in(tmp_path / "o")) == 2


@pytest.mark.parametrize("command", [*QUICK, "analyze"])
def test_nothing_done_is_one_line_and_status_2_before_a_model_is_loaded(
    run, photos, tmp_path, loads, command
):
    before = sorted(tmp_path.rglob("*"))
    strays = (photos / "Thumbs.db", photos / "dog/notes.txt")
    line = refused(run(command, *strays), "images: expected one that can be", "got 2 that cannot")
    assert "Thumbs.db: image: expected a picture" in line and "notes.txt: image:" in line
    refused(run(command, "none.png"), "got 'none.png', which does not exist")
    assert not loads and sorted(tmp_path.rglob("*")) == before


def test_what_the_model_refuses_of_one_image_is_skipped_and_of_all_is_an_error(
    run, photos, tmp_path, monkeypatch
):
    from semattn.explain import SIFTPatchInterrelation

    explain = SIFTPatchInterrelation.explain

    def refuse(self, model, image, **options):
        calls.append(image)
        if len(calls) in refused_calls:
            raise UnsupportedModelError("model: refuses this")
        return explain(self, model, image, **options)

    monkeypatch.setattr(SIFTPatchInterrelation, "explain", refuse)
    calls, refused_calls = [], {3}  # in order: a b#c.png, cat/001.jpg, dog/001.jpg
    status, out, _ = run("explain", photos, "--no-report", "--out", "o")
    assert status == 0 and "dog/001.jpg: model: refuses this" in out and "skipped: 3" in out
    refused_calls = range(100)
    refused(run("explain", photos, "--out", "p"), "model: refuses this")
    assert not (tmp_path / "p").exists()


def test_target_holds_for_all_images_and_a_wrong_one_is_refused(run, photos, tmp_path):
    assert run("explain", photos, "--target", "dog", "--out", "o", "--no-report")[0] == 0
    for name in ("a b#c", "cat-001", "dog-001"):
        target = json.loads((tmp_path / "o" / name / "result.json").read_text())["target"]
        assert (target["class"], target["name"]) == (1, "dog")
    refused(run("explain", photos, "--target", "99", "--out", "p"), "0 to 4", "99")
    assert not (tmp_path / "p").exists()


def test_a_region_needs_one_image(run, photos):
    line = refused(run("prompt", photos, "--region", "1,1,40,40"), "region: expected one image")
    assert "name one image, or leave out --region" in line
    for follow in ([photos / "cat/001.jpg", "--region", "1,1,40,40"], [photos]):
        assert run("prompt", *follow, *QUICK["prompt"])[0] == 0


def test_standard_input_is_a_picture(run, photos, tmp_path, monkeypatch):
    content = PHOTO.read_bytes()
    give_stdin(monkeypatch, content)
    status, out, err = run("explain", "-", "--no-report")
    assert (status, err) == (0, "")
    assert "in semattn-stdin: overlay.png" in out
    result = json.loads((tmp_path / "semattn-stdin/result.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    assert result["inputs"] == [{"path": "-", "sha256": digest}]
    assert result["image"] == "standard input"
    assert run("explain", PHOTO, "--no-report")[0] == 0
    maps = [np.load(tmp_path / f"semattn-{name}/map.npy") for name in ("stdin", "flower")]
    assert np.array_equal(*maps)

    give_stdin(monkeypatch, content)
    assert run("explain", "-", "--no-report")[1].endswith("result.json\n")
    give_stdin(monkeypatch, (photos / "cat/001.jpg").read_bytes())
    assert run("explain", "-", "--no-report")[0] == 0
    folders = sorted(path.name for path in tmp_path.glob("semattn-stdin*"))
    assert len(folders) == 2, "another picture has another folder"

    give_stdin(monkeypatch, content)
    assert run("explain", "-", photos / "cat/001.jpg", "-", "--out", "o", "--no-report")[0] == 0
    assert names_in(tmp_path / "o") == ["001", "index.html", "stdin"]


@pytest.mark.parametrize("command", ["compare", "prompt", "analyze"])
def test_every_command_on_images_takes_standard_input(run, tmp_path, monkeypatch, command):
    give_stdin(monkeypatch, PHOTO.read_bytes())
    status, _, err = run(command, "-", *QUICK.get(command, ["--no-report"]))
    assert (status, err) == (0, "")
    folder = tmp_path / f"semattn-{command}-stdin"
    result = json.loads((folder / RESULT.get(command, "analysis.json")).read_text())
    digest = hashlib.sha256(PHOTO.read_bytes()).hexdigest()
    assert result["inputs"] == [{"path": "-", "sha256": digest}]


def test_standard_input_without_a_picture_is_refused(run, monkeypatch, tmp_path):
    give_stdin(monkeypatch, b"", is_terminal=True)
    refused(run("explain", "-"), "got a terminal — use semattn explain - < photo.jpg")
    give_stdin(monkeypatch, b"")
    refused(run("compare", "-"), "got nothing — use semattn compare - < photo.jpg")
    give_stdin(monkeypatch, b"no picture")
    refused(run("prompt", "-"), "expected a picture, got 10 bytes")
    monkeypatch.setattr("semattn.cli.inputs.MAX_STDIN", 5)
    give_stdin(monkeypatch, b"123456")
    refused(run("explain", "-"), "expected at most 5 bytes on standard input")
    assert not list(tmp_path.iterdir())


def test_analyze_takes_several_images_together(run, photos, tmp_path, monkeypatch):
    options = ["--no-report", "--batch-size", "1"]
    assert run("analyze", photos, "--out", "folder", *options)[0] == 0
    status, out, err = run("analyze", "photos/*.*", "photos/*/*", "--out", "files", *options)
    assert status == 0, err
    assert "skipped: 2" in out
    folder, files = (
        json.loads((tmp_path / name / "analysis.json").read_text()) for name in ("folder", "files")
    )
    assert files["images"] == folder["images"] == 3
    assert len(files["inputs"]) == 5
    for part in ("metrics", "lift", "findings"):
        assert files[part] == folder[part]
    status, out, _ = run("analyze", photos / "cat/001.jpg", *options)
    assert status == 0 and "semattn-analyze-001: " in out and "keypoints.png" in out


def test_an_input_is_never_replaced_by_the_results_of_another(run, tmp_path):
    first = save(tmp_path / "o/a/overlay.png")
    second = save(tmp_path / "o/a.jpg")
    before = first.read_bytes()
    line = refused(run("explain", first, second, "--out", "o", "--force"), "expected a folder")
    assert "choose another folder" in line
    assert first.read_bytes() == before
    assert run("explain", first, second, "--out", "other", "--no-report")[0] == 0


def test_files_of_others_stay(run, photos, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/index.html").write_text("mine")
    refused(run("explain", photos, "--out", "o"), "index.html was not written by semattn")
    (tmp_path / "p/cat-001").mkdir(parents=True)
    (tmp_path / "p/cat-001/map.npy").write_text("mine")
    refused(run("explain", photos, "--out", "p"), "map.npy was not written by semattn")
    assert contents_of(tmp_path / "p") == {"cat-001/map.npy": b"mine"}
    assert run("explain", photos, "--out", "p", "--force", "--no-report")[0] == 0
    (tmp_path / "o2").write_text("mine")
    refused(run("explain", photos, "--out", "o2"), "expected a folder, got the file o2")


def test_a_second_run_replaces_and_names_results_of_images_that_it_left_out(run, photos, tmp_path):
    assert run("explain", photos, "--no-report")[0] == 0
    first = contents_of(tmp_path / "semattn-explain-photos")
    assert run("explain", photos, "--no-report")[0] == 0
    assert contents_of(tmp_path / "semattn-explain-photos") == first
    (photos / "cat/001.jpg").unlink()
    status, out, _ = run("explain", photos, "--no-report")
    assert status == 0
    assert "the index leaves out results of earlier runs in the folder: cat-001" in out
    assert "cat-001/overlay.png" not in index_files(tmp_path / "semattn-explain-photos")
    assert run("explain", photos / "dog/001.jpg", "--out", "semattn-explain-photos")[0] == 0


def test_other_folders_of_one_name_have_other_default_folders(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "other/photos")
    assert run("explain", "photos", "--no-report")[0] == 0
    assert run("explain", "other/photos", "--no-report")[0] == 0
    assert len(list(tmp_path.glob("semattn-explain-photos*"))) == 2


def test_an_interrupted_run_leaves_an_index_of_what_is_finished(run, photos, tmp_path, monkeypatch):
    head, calls = image_runs.headline_of, []

    def interrupt(explanation):
        calls.append(explanation)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return head(explanation)

    monkeypatch.setattr("semattn.cli.explain.headline_of", interrupt)
    status, out, err = run("explain", photos, "--out", "o", "--no-report")
    assert (status, out) == (130, "")
    assert err == "error: interrupted — 2 of 5 images are finished, in o\n"
    expected = {"a b#c/overlay.png", "cat-001/overlay.png"}
    assert {name for name in index_files(tmp_path / "o") if name.endswith("y.png")} == expected
    calls.clear()
    monkeypatch.setattr("semattn.cli.explain.headline_of", lambda explanation: 1 / 0)
    status, _, err = run("explain", photos, "--out", "p", "--no-report")
    assert status == 1 and "ZeroDivisionError" in err
    assert not (tmp_path / "p/index.html").exists()


def test_the_index_shows_any_name_as_text(run, tmp_path):
    for name in ("<b>x&y.png", "a:b?c#d%41.png", "ä\u202e猫.png"):
        save(tmp_path / "odd" / name)
    status, _, err = run("explain", "odd", "--out", "o", "--no-report")
    assert status == 0, err
    page = (tmp_path / "o/index.html").read_text(encoding="utf-8")
    assert "<b>x" not in page and "\u202e" not in page
    assert len({link.split("/")[-2] for link in index_files(tmp_path / "o")}) == 3


names = strategies.text(
    strategies.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1,
    max_size=90,
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)  # fmt: skip


@given(strategies.lists(strategies.tuples(names, names), min_size=1, max_size=6, unique=True))
def test_folder_names_differ_and_fit_every_disk(parts):
    files = tuple(ImageInput(Path("/base") / folder / name) for folder, name in parts)
    folder_names = ImageInputs((), tuple(dict.fromkeys(files)), folder=Path("/base")).folder_names()
    assert len({name.casefold() for name in folder_names}) == len(folder_names)
    for name in folder_names:
        assert name and name == name.strip(". ") and "/" not in name
        assert name.casefold() != "index.html" and len(os.fsencode(name)) <= 255


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_an_address_is_refused_and_the_command_that_the_error_names_works(run, tmp_path):
    address = PHOTO.as_uri()
    line = refused(run("explain", address), "(semattn downloads nothing) — use curl -fL")
    refused(run("analyze", PHOTO, "https://x.org/a b.jpg"), "'https://x.org/a b.jpg' | semattn ana")
    advice = line.strip().partition(" — use ")[2]
    advice = advice.replace("| semattn", f"| {sys.executable} -m semattn")
    advice += " --model test_vit --random-weights --no-report"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        advice, shell=True, capture_output=True, text=True, env=environment, cwd=tmp_path,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "overlay.png" in names_in(tmp_path / "semattn-stdin")
