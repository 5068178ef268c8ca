"""Tests that the advice in errors of the command line works."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from semattn.zoo import specifications
from tests.conftest import CLASSES, PHOTO, refused

pytestmark = pytest.mark.usefixtures("elsewhere", "quick_figures")
EXPLAIN = ["explain", "photo.png", "--no-report"]
PROMPT = ["prompt", "photo.png", "--no-report", "--density", "count", "--strength", "1"]
AUDIT = ["--jobs", "explain", "--workers", "0", "--no-report"]
SPURIOUS = ["spurious", "classes", "--no-report"]
PRETRAIN = [
    "pretrain", "photos", "--model", "tiny", "--image-size", "64", "--workers", "0", "--device",
    "cpu",
]  # fmt: skip
TRAIN = [*PRETRAIN, "--epochs", "1", "--batch-size", "2", "--precision", "float32"]
BENCH = ["bench", "explain", "--methods", "center,random", "--quick", "--precision", "float32"]

# The call that is refused, what its error advises, and calls that follow the advice; {1} is what
# the parentheses in the advice match.
ADVICE = {
    "a missing file": (
        ["explain", "fhoto.png"], "does not exist — check the path", EXPLAIN,
    ),
    "no picture": (
        ["explain", "page.html"], "whose format is unknown — save it as PNG or JPEG", EXPLAIN,
    ),
    "too small": (
        ["explain", "small.png"], "give a larger picture", EXPLAIN,
    ),
    "an empty folder": (
        ["explain", "empty"], "got none in empty — give photographs",
        ["explain", "photos", "--no-report"],
    ),
    "only results": (
        ["analyze", "results"], "only results of semattn — give photographs",
        ["analyze", "photos", "--no-report"],
    ),
    "a pattern": (
        ["explain", "photos/*.jpg"], "check the folder and the ending",
        ["explain", "photos/*.png", "--no-report"],
    ),
    "no class": (
        [*EXPLAIN, "--target", "99"], "from 0 to (4)", [*EXPLAIN, "--target", "{1}"],
    ),
    "a class name": (
        [*EXPLAIN, "--target", "owls!"], "did you mean '(.+?)'", [*EXPLAIN, "--target", "{1}"],
    ),
    "two classes of a name": (
        [*EXPLAIN, "--target", "crane", "--class-names", "cranes.txt"],
        "give the number, such as (#[0-9]+)",
        [*EXPLAIN, "--target", "{1}", "--class-names", "cranes.txt"],
    ),
    "two names for five classes": (
        [*EXPLAIN, "--class-names", "two.txt"], "give a list of 5 names, or none",
        [*EXPLAIN, "--class-names", "cranes.txt"], EXPLAIN,
    ),
    "a density": (
        [*EXPLAIN, "--density", "cuont"], "did you mean '(.+?)'", [*EXPLAIN, "--density", "{1}"],
    ),
    "a method": (
        [*EXPLAIN, "--method", "legard"], "did you mean '(.+?)'", [*EXPLAIN, "--method", "{1}"],
    ),
    "a refinement": (
        [*EXPLAIN, "--refine", "guide"], "did you mean '(.+?)'", [*EXPLAIN, "--refine", "{1}"],
    ),
    "a device": (
        [*EXPLAIN, "--device", "toaster"], "(--device cpu) always works",
        [*EXPLAIN, "--device", "cpu"],
    ),
    "affinity": (
        [*EXPLAIN, "--affinity", "1"], r"\[0, 1\)", [*EXPLAIN, "--affinity", "0"],
        [*EXPLAIN, "--affinity", "0.99"],
    ),
    "files of others": (
        [*EXPLAIN, "--out", "foreign"], "choose another folder, or replace it with (--force)",
        [*EXPLAIN, "--out", "another"], [*EXPLAIN, "--out", "foreign", "{1}"],
    ),
    "files of others, several images": (
        ["explain", "photos", "--out", "foreign"],
        "choose another folder, or replace it with (--force)",
        ["explain", "photos", "--out", "another"], ["explain", "photos", "--out", "foreign", "{1}"],
    ),
    "the input": (
        ["explain", "foreign/overlay.png", "--out", "foreign", "--force"],
        "is the input itself — choose another folder",
        ["explain", "foreign/overlay.png", "--out", "another"],
    ),
    "a file in place of a folder": (
        [*EXPLAIN, "--out", "page.html"], "choose another name", [*EXPLAIN, "--out", "page"],
    ),
    "a misspelt option": (
        [*EXPLAIN, "--nonsense"], "see semattn explain --help", ["explain", "--help"], ["--help"],
    ),
    "a misspelt command": (["explian"], "see semattn --help", ["--help"]),
    "no methods": (
        ["compare", "photo.png", "--methods", ",", "--no-report"], "leave it out for all",
        ["compare", "photo.png", "--no-report"],
    ),
    "a region elsewhere": (
        [*PROMPT, "--region", "900,900,950,950"],
        "x counts from the left edge and y from the top edge, from 0",
        [*PROMPT, "--region", "0,0,40,40"],
    ),
    "a region in words": (
        [*PROMPT, "--region", "left"],
        "expected left,top,right,bottom, points=x,y;x,y, polygon=x,y;x,y;x,y or the file of a mask",
        [*PROMPT, "--region", "1,1,40,40"], [*PROMPT, "--region", "points=9,9;20,9"],
        [*PROMPT, "--region", "polygon=1,1;40,1;40,40"], [*PROMPT, "--region", "mask.png"],
    ),
    "a region for several": (
        ["prompt", "photos", "--region", "1,1,40,40"], "name one image, or leave out --region",
        [*PROMPT, "--region", "1,1,40,40"], ["prompt", "photos", *PROMPT[2:]],
    ),
    "strengths in words": (
        [*PROMPT[:-1], "much"], "expected numbers such as ([0-9.,]+), got", [*PROMPT[:-1], "{1}"],
    ),
    "a model of no family": (
        ["models", "qqq"], "(semattn models) lists the families", ["models"],
    ),
    "a process": (
        ["audit", "photos", *AUDIT, "--process", "3/3"], "(0/1) is one process",
        ["audit", "photos", *AUDIT, "--process", "{1}"],
    ),
    "no job": (
        ["audit", "photos", "--jobs", ",", *AUDIT[2:]], "choose from (explain)",
        ["audit", "photos", *AUDIT],
    ),
    "an empty list": (
        ["audit", "empty.txt", *AUDIT], "list image files", ["audit", "list.txt", *AUDIT],
    ),
    "a class in a list": (
        ["audit", "classes.txt", *AUDIT], "write the number of a class, or leave it out",
        ["audit", "list.txt", *AUDIT], ["audit", "numbers.txt", *AUDIT],
    ),
    "an alpha": (
        [*SPURIOUS, "--alpha", "5"], "([0-9.]+) is usual", [*SPURIOUS, "--alpha", "{1}"],
    ),
    "a minimum relative risk": (
        [*SPURIOUS, "--min-relative-risk", "0"], "([0-9.]+) is usual",
        [*SPURIOUS, "--min-relative-risk", "{1}"],
    ),
    "more photographs a step than there are": (
        [*TRAIN[:-4], "--batch-size", "64", "--precision", "float32"],
        "lower it or pass more pictures", TRAIN,
    ),
    "half precision on a CPU": (
        [*TRAIN[:-1], "float16"], "(bfloat16) runs on a CPU", [*TRAIN[:-1], "{1}"],
    ),
    "data without masks": (
        [*BENCH, "--data", "masks:photos"], "give each, with commas between",
        [*BENCH, "--data", "masks:photos,masks"],
    ),
    "a baseline": (
        [*BENCH, "--data", "masks:photos,masks", "--baselines", "legrad"],
        "add them to the methods",
        ["bench", "explain", "--methods", "center,legrad", *BENCH[4:], "--data",
         "masks:photos,masks", "--baselines", "legrad"],
    ),
    "a draw": (
        ["analyze", "photo.png", "--n-null", "1", "--no-report"],
        "greater than or equal to ([0-9]+)",
        ["analyze", "photo.png", "--n-null", "{1}", "--no-report"],
    ),
}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    with Image.open(PHOTO) as image:
        small = image.convert("RGB").resize((96, 80))
    for name in ("photos", "masks", "foreign", "empty", "results/.semattn"):
        (tmp_path / name).mkdir(parents=True)
    small.save(tmp_path / "photo.png")
    for name in ("a", "b", "c"):
        small.save(tmp_path / f"photos/{name}.png")
        mask = Image.new("L", small.size)
        mask.paste(255, (20, 20, 60, 60))
        mask.save(tmp_path / f"masks/{name}.png")
    mask.save(tmp_path / "mask.png")
    small.resize((8, 8)).save(tmp_path / "small.png")
    small.save(tmp_path / "foreign/overlay.png")
    (tmp_path / "foreign/a").mkdir()
    small.save(tmp_path / "foreign/a/overlay.png")
    small.save(tmp_path / "results/overlay.png")
    (tmp_path / "results/.semattn/files.json").write_text('{"files": {"overlay.png": {}}}')
    texts = {
        "page.html": "<p>no picture</p>", "two.txt": "a\nb\n", "empty.txt": "\n",
        "cranes.txt": "crane, bird\ncrane, machine\nowl\ncup\ncar\n",
        "list.txt": "photos/a.png\n", "classes.txt": "photos/a.png\tzebra crossing\n",
        "numbers.txt": "photos/a.png\t1\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name in CLASSES[:2]:
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(6):
            small.rotate(30 * number).save(tmp_path / "classes" / name / f"{number}.png")
    return tmp_path


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("case", ADVICE)
def test_advice_works(run, case):
    wrong, advice, *follow = ADVICE[case]
    line = refused(run(*wrong))
    # Signs of a pattern count as such only where a part of it is used.
    pattern = advice if "(" in advice or "\\" in advice else re.escape(advice)
    match = re.search(pattern, line)
    assert match, line
    assert follow
    for arguments in follow:
        words = [match[1] if word == "{1}" else word for word in arguments]
        status, _, err = run(*words)
        assert status == 0, f"{' '.join(map(str, words))}: {err}"


@pytest.mark.usefixtures("files")
def test_another_run_in_a_folder_of_a_run(run):
    assert run(*TRAIN)[0] == 0
    advice = "choose another folder, or resume with the same settings"
    refused(run(*TRAIN, "--beta", "1"), advice)
    assert run(*TRAIN, "--beta", "1", "--out", "other")[0] == 0
    assert run(*TRAIN)[0] == 0


@pytest.mark.usefixtures("files")
def test_the_name_of_a_model(run, monkeypatch):
    monkeypatch.setattr(import_module("semattn.zoo"), "load", specifications.load)
    wrong = [*EXPLAIN, "--random-weights", "--model"]
    line = refused(run(*wrong, "test_vitt"))
    match = re.search(r"did you mean (\w+)", line)
    assert match and run(*wrong, match[1])[0] == 0


def test_no_advice_is_left_in_a_circle():
    """The advice of issue 24: files of a folder were asked for, and refused."""
    source = Path(specifications.__file__).parents[1] / "cli"
    assert not [file for file in source.glob("*.py") if "give the files in it" in file.read_text()]
