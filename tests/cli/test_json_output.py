"""`--json`: one object on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from PIL import Image

from semattn.cli.json_output import emit, json_output
from semattn.cli.main import app
from semattn.utils.remote_path import RemotePath
from semattn.utils.text import to_json_value
from tests.conftest import PHOTO

pytestmark = pytest.mark.usefixtures("elsewhere", "quick_figures")

RESULTS = {
    "explain": ([PHOTO, "--no-report"], "result.json"),
    "compare": ([PHOTO, "--no-report", "--methods", "legrad,center"], "compare.json"),
    "prompt": ([PHOTO, "--no-report", "--density", "count", "--strength", "1"], "prompt.json"),
    "analyze": ([PHOTO, "--no-report"], "analysis.json"),
    "audit": (["photos", "--jobs", "explain", "--workers", "0"], "audit.json"),
    "bench explain": (
        ["--data", "folder:photos", "--methods", "center,random", "--metrics", "deletion",
         "--quick", "--precision", "float32"], "bench.json",
    ),
    "spurious": (["classes", "--no-report"], "spurious.json"),
    "marks": (["classes", "--no-report"], "marks.json"),
    "pretrain": (
        ["photos", "--model", "tiny", "--image-size", "64", "--epochs", "1", "--batch-size", "2",
         "--workers", "0", "--device", "cpu", "--precision", "float32"], "pretrain.json",
    ),
}  # fmt: skip


def read(answer) -> dict[str, object]:
    """The object that a command printed, which is all of standard output."""
    status, out, err = answer
    assert status == 0, err
    assert out.isascii() and out.startswith("{") and out.endswith("}\n")
    return json.loads(out, parse_constant=pytest.fail)


@pytest.fixture
def photos(tmp_path):
    with Image.open(PHOTO) as image:
        small = image.convert("RGB").resize((96, 80))
    (tmp_path / "photos").mkdir()
    small.save(tmp_path / "photos/é猫.png")
    small.rotate(180).save(tmp_path / "photos/b.png")
    (tmp_path / "photos/notes.txt").write_text("no picture")
    for name in ("Cat, cats", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(6):
            small.rotate(30 * number).save(tmp_path / "classes" / name / f"{number}.png")
    return tmp_path


def names(group: typer.Typer, before: str = "") -> list[str]:
    """The commands of an app, with those of its groups."""
    found_names = [f"{before}{command.callback.__name__}" for command in group.registered_commands]
    for subgroup in group.registered_groups:
        found_names += names(subgroup.typer_instance, f"{before}{subgroup.name} ")
    return found_names


def test_every_command_has_the_option(run):
    commands = names(app)
    assert set(commands) == {*RESULTS, "models", "demo", "doctor", "config", "check"}
    for command in commands:
        assert "--json" in run(*command.split(), "--help")[1], command


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("command", RESULTS)
def test_the_object_is_the_result_file_with_paths_notes_and_what_was_skipped(
    run, tmp_path, command
):
    arguments, result = RESULTS[command]
    status, out, err = run(*command.split(), *arguments, "--out", "o", "--json")
    content = read((status, out, err))
    assert "in o: " in err, "the text for people"
    file = json.loads((tmp_path / "o" / result).read_text(encoding="utf-8"))
    for name in set(file) - {"files", "skipped", "notes"}:
        assert content[name] == file[name], name
    assert Path("o") / result in map(Path, content["files"].values())
    assert all((tmp_path / path).exists() for path in content["files"].values())
    strays = [entry for entry in content["skipped"] if entry["name"].endswith("notes.txt")]
    assert len(strays) == (command in ("audit", "pretrain"))
    assert all(set(entry) == {"name", "reason"} for entry in content["skipped"])
    assert isinstance(content["notes"], list)


@pytest.mark.usefixtures("photos")
def test_several_images_are_a_list(run, tmp_path):
    content = read(run("explain", "photos", "--no-report", "--json"))
    assert [image["image"] for image in content["images"]] == ["b.png", "é猫.png"]
    for image in content["images"]:
        file = json.loads((tmp_path / image["files"]["result"]).read_text(encoding="utf-8"))
        assert image["predictions"] == file["predictions"]
    assert (tmp_path / content["index"]).is_file()
    assert [entry["name"] for entry in content["skipped"]] == ["photos/notes.txt"]


def test_models_and_doctor(run):
    everything = read(run("models", "--json"))
    assert len(everything["models"]) > 400 and everything["timm"]
    family = read(run("models", "swin_transformer", "--json"))["models"]
    assert family and {entry["family"] for entry in family} == {"swin_transformer"}
    assert set(family[0]) >= {"name", "status", "reason", "patches"}


def test_doctor_prints_an_object_and_fails_where_something_is_broken(run, monkeypatch):
    monkeypatch.setattr("semattn.keypoints.detect", lambda *a, **k: 1 / 0)
    status, out, err = run("doctor", "--json")
    assert status == 1 and json.loads(out)["broken"][0] == "keypoints"
    assert "broken: keypoints" in err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["explain", "none.png"], 2), (["explain"], 2), (["models", "qqq"], 2), (["explain", "x"], 2)],
)
def test_an_error_leaves_standard_output_empty(run, arguments, status):
    code, out, err = run(*arguments, "--json")
    assert (code, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1


def test_what_libraries_print_is_no_part_of_the_object(run, monkeypatch):
    zoo = import_module("semattn.zoo")
    load = zoo.load

    def talk(*args, **options):
        print("downloading")  # noqa: T201
        return load(*args, **options)

    monkeypatch.setattr(zoo, "load", talk)
    status, out, err = run("explain", PHOTO, "--no-report", "--json")
    assert read((status, out, err))["image"] == "flower.jpg"
    assert "downloading" in err and "← explained" in err


def test_without_the_option_nothing_changes(run):
    status, out, err = run("explain", PHOTO, "--no-report")
    assert (status, err) == (0, "") and "← explained" in out and "{" not in out


def test_numbers_that_json_lacks_are_null(capsys):
    emit({"a": [float("nan"), float("-inf"), 1.5], "é": Path("x/\udcff.png"), "b": {1: True}})
    out = capsys.readouterr().out
    assert out.isascii()
    content = json.loads(out, parse_constant=pytest.fail)
    assert content == {"a": [None, None, 1.5], "é": "x/\udcff.png", "b": {"1": True}}
    assert to_json_value((1, "x", None)) == [1, "x", None]
    assert to_json_value(RemotePath("s3://bucket/a.png")) == "s3://bucket/a.png"


def test_a_command_without_a_result_prints_nothing(capsys):
    @json_output
    def other_process(as_json: bool = False) -> None:
        sys.stdout.write("left to others\n")

    other_process(as_json=True)
    assert capsys.readouterr() == ("", "left to others\n")
