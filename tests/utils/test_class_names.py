"""Class names: one resolver, by name, synonym or number, the same in every command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st
from PIL import Image
from timm.data import ImageNetInfo
from torch import nn

from semattn import SIFTPatchInterrelation, discover_spurious
from semattn.data import open_source
from semattn.data.labelled import match_class_folders, read_labelled
from semattn.errors import SemattnError, TargetError
from semattn.evaluation.runner import _wanted_classes
from semattn.utils.class_names import check_names, class_names, matches, resolve_class
from tests.conftest import PHOTO, refused
from tests.models import build, images

NAMES = ("tench, Tinca tinca", "crane", "Cup or pot", "crane", "great_white shark")
DIGITS = ("3", "1", "0", "2")  # names, in another order than their numbers


@pytest.mark.parametrize(
    ("given_", "number"),
    [
        ("tench, Tinca tinca", 0), ("TENCH", 0), (" tinca  tinca ", 0), ("cup", 2), ("pot", 2),
        ("Great White Shark", 4), ("great_white_shark", 4), ("1", 1), ("#3", 3), (3, 3), ("004", 4),
    ],
)  # fmt: skip
def test_a_name_a_synonym_or_a_number(given_: str | int, number: int) -> None:
    assert resolve_class(given_, NAMES) == number


@pytest.mark.parametrize(
    ("given_", "names", "message"),
    [
        ("crane", NAMES, "which may be #1 'crane' or #3 'crane'"),
        ("cran", NAMES, "unknown class 'cran' — did you mean 'crane'"),
        ("", NAMES, "unknown class ''"),
        ("5", NAMES, "expected a class number from 0 to 4, got 5"),
        ("#5", NAMES, "from 0 to 4, got 5"),
        (-1, NAMES, "from 0 to 4, got -1"),
        ("-1", NAMES, "unknown class '-1'"),
        ("²", NAMES, "unknown class '²'"),
        ("3", DIGITS, "got '3', which may be #0 '3' or #3 '2'"),
        ("cat", (), "the model has no class names"),
        ("bass", ("bass, fish", "bass, guitar"), "#0 'bass, fish' or #1 'bass, guitar'"),
    ],
)
def test_what_names_no_single_class_is_one_line(given_, names, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TargetError) as raised:
        resolve_class(given_, names)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_digits_that_are_name_and_number_of_one_class() -> None:
    assert resolve_class("1", DIGITS) == 1
    assert resolve_class("#3", DIGITS) == 3 and resolve_class("#0", DIGITS) == 0
    assert resolve_class("7", ("7", "8")) == 0  # no number of two classes, but a name
    assert resolve_class("12", None) == 12 and resolve_class("12", (), 20) == 12
    assert resolve_class("bass", ("bass", "bass, guitar")) == 0  # a whole name comes first


def test_the_cranes_of_imagenet() -> None:
    names = ImageNetInfo("imagenet-1k").label_descriptions()
    cranes = matches("crane", names)
    assert len(cranes) == 2
    with pytest.raises(TargetError, match=f"#{cranes[0]} .*or #{cranes[1]} "):
        resolve_class("crane", names)
    assert resolve_class("Tinca tinca", names) == 0


@given(st.lists(st.text("ab1 ,_", max_size=4), max_size=6), st.text("ab1 ,_#", max_size=4))
def test_a_resolved_name_belongs_to_its_class_alone(names: list[str], typed: str) -> None:
    try:
        number = resolve_class(typed, names)
    except TargetError:
        return
    text = typed.strip().removeprefix("#")
    if text.isdecimal() and int(text) == number:
        assert not names or number < len(names)
        assert typed.strip().startswith("#") or set(matches(typed, names)) <= {number}
    else:
        assert matches(typed, names) == [number]


def test_names_must_be_as_many_as_outputs() -> None:
    check_names(None, 6)
    check_names((), 6)
    check_names(["a"] * 6, 6)
    check_names(["no", "yes"], 1, binary=True)
    for names, outputs, binary in (
        (["a"] * 5, 6, False),
        (["a", "b"], 1, False),
        (["a"] * 3, 1, True),
    ):
        with pytest.raises(SemattnError, match=f"expected {outputs}, .*got {len(names)}"):
            check_names(names, outputs, binary=binary)


def test_where_a_model_has_its_names() -> None:
    def config(**names: object) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(id2label=names or {0: "cat", 1: "dog"}))

    assert class_names(config()) == ("cat", "dog")
    assert class_names(SimpleNamespace(classes=["a", "b"])) == ("a", "b")
    assert class_names(SimpleNamespace(classes=[1, 2])) is None
    placeholder = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert class_names(SimpleNamespace(config=placeholder)) is None
    assert class_names(nn.Identity()) is None


def test_an_explanation_refuses_names_of_other_outputs() -> None:
    model = build("class-token")
    model.classes = ["a", "b", "c", "d"]
    with pytest.raises(SemattnError, match="class names: expected 5, .*got 4"):
        SIFTPatchInterrelation(model).explain(images())
    del model.classes
    model.config = SimpleNamespace(id2label={0: "cat", 1: "dog"})
    explanation = SIFTPatchInterrelation(model).explain(images())
    assert explanation.classes is None and explanation.label(1) == "class 1"
    assert "Classes are shown by number: the model's config names 2, its head has 5 outputs." in (
        explanation.notes
    )


# --- folders, lists, data ---------------------------------------------------------------------


def test_folders_have_the_name_of_one_class() -> None:
    folders = ["crane", "great white shark", "tinca_tinca"]
    numbers, missing = match_class_folders(folders, NAMES, 5)
    assert numbers == {"great white shark": 4, "tinca_tinca": 0} and missing == ["crane"]
    assert match_class_folders(["0", "1", "2", "3"], DIGITS, 4)[0] == {
        "0": 2,
        "1": 1,
        "2": 3,
        "3": 0,
    }


def test_a_folder_that_names_several_classes_is_told(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for folder in ("crane", "tench"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.png").write_bytes(b"")
    data = read_labelled(tmp_path, NAMES, 5)
    assert data.labels == (None, 0)
    assert "crane is not a class of the model (crane: the name of more than one class)" in data.note


def test_folders_of_digits_without_names() -> None:
    few = [str(number) for number in range(10)]
    assert match_class_folders(few, (), 10)[0] == {name: int(name) for name in few}
    unpadded = sorted(str(number) for number in range(12))  # 0, 1, 10, 11, 2, …
    with pytest.raises(
        SemattnError, match="'10', which may be class 10 or, in order of .*, class 2"
    ):
        match_class_folders(unpadded, (), 12)
    padded = [f"{number:02d}" for number in range(12)]
    assert match_class_folders(padded, (), 12)[0] == {name: int(name) for name in padded}


def test_a_list_of_an_audit_asks_the_same_resolver(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def labels(*words: str, names: tuple[str, ...] = NAMES) -> tuple[int | None, ...]:
        file = tmp_path / "list.txt"
        for number in range(len(words)):
            Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
        file.write_text("".join(f"{i}.png\t{word}\n" for i, word in enumerate(words)))
        return open_source(file, names, len(names)).data.labels

    assert labels("tench", "1", "", "cup", "#3") == (0, 1, None, 2, 3)
    assert labels("1", "#3", names=DIGITS) == (1, 3)
    for words, names, message in (
        (["crane"], NAMES, "may be #1 'crane' or #3 'crane'"),
        (["3"], DIGITS, "may be #0 '3' or #3 '2'"),
        (["9"], NAMES, "from 0 to 4, got 9"),
        (["owl"], NAMES, "list.txt: expected a class of the model, got 'owl'"),
    ):
        with pytest.raises(SemattnError) as raised:
            labels(*words, names=names)
        assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_benchmark_refuses_two_classes_of_one_name() -> None:
    data = SimpleNamespace(classes=("crane", "owl"))
    assert _wanted_classes(data, ("owl", "crane")) == [1, 0]
    assert _wanted_classes(data, ("owl", "cat")) is None
    with pytest.raises(SemattnError, match="got 'crane' for 2 classes"):
        _wanted_classes(data, ("crane", "owl", "crane"))


def test_a_search_asks_the_same_resolver() -> None:
    model = build("class-token")
    pairs = [(picture, label % 2) for label, picture in enumerate(images(4))]
    for classes, message in (
        (["crane"], "may be #1 'crane' or #3 'crane'"),
        (["owl"], "unknown class 'owl'"),
        ([7], "from 0 to 4, got 7"),
    ):
        with pytest.raises(TargetError) as raised:
            discover_spurious(model, pairs, class_names=NAMES, classes=classes)
        assert message in str(raised.value)


# --- commands ---------------------------------------------------------------------------------


@pytest.fixture
def names_file(elsewhere):  # type: ignore[no-untyped-def]
    def write(*names: str) -> str:
        (elsewhere / "names.txt").write_text("\n".join(names))
        return "names.txt"

    return write


@pytest.mark.parametrize(
    "command",
    [
        ("explain", PHOTO, "--no-report", "--target"),
        ("compare", PHOTO, "--methods", "raw-attention,center", "--no-report", "--target"),
        ("prompt", PHOTO, "--strength", "0.5", "--no-report", "--target"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_means_the_same_class(command, run, names_file, elsewhere) -> None:  # type: ignore[no-untyped-def]
    file = names_file("crane", "3", "crane", "owl, hoot", "1")
    for typed in ("crane", "3", "1"):
        refused(run(*command, typed, "--class-names", file), "may be #", f"got {typed!r}")
    refused(run(*command, "heron", "--class-names", file), "unknown class 'heron'")
    for typed, number in (("hoot", 3), ("#2", 2), ("#1", 1), ("4", 4), ("0", 0)):
        status, _, err = run(*command, typed, "--class-names", file, "--out", f"out-{number}")
        assert status == 0, err
        (result,) = (elsewhere / f"out-{number}").glob("*.json")
        assert json.loads(result.read_text())["target"]["class"] == number


def test_five_names_for_six_outputs_are_refused(run, names_file) -> None:  # type: ignore[no-untyped-def]
    file = names_file("a", "b", "c", "d")
    for command in ("explain", "compare", "prompt"):
        refused(run(command, PHOTO, "--target", "a", "--class-names", file), "expected 5", "got 4")
