"""One list in every form gives the same paths and labels; what cannot be read is refused."""

from __future__ import annotations

import warnings

import pytest

from semattn.cli.parsing import read_classes
from semattn.data import open_source
from semattn.errors import SemattnError
from tests.audit.pictures import picture
from tests.conftest import refused
from tests.list_forms import (
    CLASS_FILES,
    ENCODINGS,
    FORMS,
    LINE_ENDS,
    NAMES,
    ODD,
    ODD_NAMES,
    SIMPLE_NAMES,
    pictures,
    random_list,
    write_classes,
    write_form,
)

CASES = 300  # random lists


def opened(file, names=NAMES, outputs=5):
    """The names, labels, files and notes of a source."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(file, names, outputs)
    return source, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_paths_and_labels(form, tmp_path):
    names = ODD_NAMES if form in ODD else SIMPLE_NAMES
    pictures(tmp_path, names)
    rows = [(f"in/{name}", number % 5) for number, name in enumerate(names)]
    source, notes = opened(write_form(form, tmp_path / "list.txt", rows))
    assert source.names == tuple(path for path, _ in rows)
    assert source.data.labels == tuple(label for _, label in rows)
    assert list(source.data.sources) == [tmp_path / path for path, _ in rows]
    assert bool(notes) == (form not in ("tabs", "tabs, names"))
    assert all(note.startswith("source: ") and "\n" not in note for note in notes)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_encodings_and_line_ends(encoding, line_end, tmp_path):
    pictures(tmp_path, ODD_NAMES)
    rows = [(f"in/{name}", number % 5) for number, name in enumerate(ODD_NAMES)]
    file = write_form("tabs", tmp_path / "list.txt", rows, encoding, line_end)
    source, notes = opened(file)
    assert source.names == tuple(path for path, _ in rows)
    assert source.data.labels == tuple(label for _, label in rows) and not notes


def test_random_lists_give_the_paths_and_labels(tmp_path):
    for seed in range(CASES):
        form, file, paths, labels = random_list(seed, tmp_path)
        source, _ = opened(file)
        assert (source.names, source.data.labels) == (paths, labels), (seed, form)


def test_western_bytes_are_read_and_said(tmp_path):
    pictures(tmp_path, ["Löwe.png", "x.png"])
    (tmp_path / "list.txt").write_bytes("in/Löwe.png\tLöwe\nin/x.png\tdog\n".encode("latin-1"))
    source, notes = opened(tmp_path / "list.txt")
    assert source.names == ("in/Löwe.png", "in/x.png") and source.data.labels == (3, 2)
    assert notes == ["source: bytes that are not UTF-8 are read as cp1252"]


def test_the_notes_say_what_was_assumed(tmp_path, monkeypatch):
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "lists" / "list.csv"
    file.write_text("# made by hand\nfile,class\nin\\a.png,3\nin\\b.png,\n")
    source, notes = opened(file)
    assert source.names == ("in/a.png", "in/b.png") and source.data.labels == (3, None)
    message = (
        "source: 1 line with # is a comment; its first line 'file,class' names the columns; "
        f"commas separate path and class; paths start at the working folder {tmp_path}; "
        "backslashes separate folders"
    )
    assert notes == [message]


def test_the_folder_of_the_list_comes_before_the_working_folder(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "lists"):
        pictures(folder, ["a.png"])
    (tmp_path / "lists" / "list.txt").write_text("in/a.png\n")
    monkeypatch.chdir(tmp_path)
    source, notes = opened(tmp_path / "lists" / "list.txt")
    assert source.data.sources[0] == tmp_path / "lists" / "in" / "a.png" and not notes


def test_a_path_that_looks_like_a_header_or_a_comment_is_a_path(tmp_path):
    pictures(tmp_path, ["label.png"])
    for name in ("path", "#a.png"):
        (tmp_path / "in" / "label.png").rename(tmp_path / name)
        (tmp_path / "list.txt").write_text(f"{name}\t1\n{name}\t2\n")
        source, notes = opened(tmp_path / "list.txt")
        assert source.names == (name, name) and source.data.labels == (1, 2) and not notes
        (tmp_path / name).rename(tmp_path / "in" / "label.png")


@pytest.mark.parametrize("separator", ["\t", ",", " ", ";"])
def test_a_missing_file_keeps_its_row(separator, tmp_path):
    pictures(tmp_path, ["a.png", "b.png"])
    lines = [f"in/{name}.png{separator}{number}" for number, name in enumerate("gabx")]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    source, _ = opened(tmp_path / "list.txt")
    assert source.names == ("in/g.png", "in/a.png", "in/b.png", "in/x.png")
    assert source.data.labels == (0, 1, 2, 3)


def test_a_list_of_no_file_names_the_first_and_the_folders(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "lists" / "list.txt"
    file.write_text("\n".join(f"in/{number}.png {number % 5}" for number in range(200)))
    with pytest.raises(SemattnError) as error:
        open_source(file, (), 5)
    assert "got 'in/0.png 0' in the first line, which is neither in " in str(error.value)
    assert f"{tmp_path / 'lists'} nor in {tmp_path}, and no line" in str(error.value)
    pictures(tmp_path / "lists", [f"{number}.png" for number in range(200)])  # the advice works
    assert opened(file)[0].data.labels == tuple(number % 5 for number in range(200))


def test_a_list_of_few_files_finds_them(tmp_path):
    """The lines that are checked first name no existing file."""
    pictures(tmp_path, ["7.png"])
    file = tmp_path / "list.txt"
    file.write_text("\n".join(f"in/{number}.png,{number % 5}" for number in range(200)))
    source, notes = opened(file)
    assert source.names[7] == "in/7.png" and source.data.labels[7] == 2 and len(source) == 200
    assert notes == ["source: commas separate path and class"]


@pytest.mark.parametrize("separator", [" ", ",", ";"])
def test_two_readings_are_refused(separator, tmp_path):
    pictures(tmp_path, ["a.png"])
    line = f"in/a.png{separator}1"
    (tmp_path / line).write_bytes((tmp_path / "in" / "a.png").read_bytes())
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(SemattnError, match=f"expected one reading of the line '{line}'"):
        open_source(tmp_path / "list.txt", (), 5)
    (tmp_path / "list.txt").write_text("in/a.png\t1\n")  # the advice
    assert opened(tmp_path / "list.txt")[0].data.labels == (1,)


@pytest.mark.parametrize(
    ("words", "line", "parts"),
    [
        (["0", "5", "1"], 2, ["expected a class number from 0 to 4, got 5", "write the number"]),
        (["1", "2", "3", "4", "5"], 5, ["got 5", "from 1 to 5, the model from 0: subtract 1"]),
        (["dog", "wolf"], 2, ["expected a class of the model, got 'wolf'", "leave it out"]),
        (["-1", "0"], 1, ["got '-1'"]),
    ],
)
@pytest.mark.parametrize("separator", ["\t", ",", " "])
def test_a_class_that_the_model_lacks_names_the_line(separator, words, line, parts, tmp_path):
    pictures(tmp_path, [f"{number}.png" for number in range(len(words))])
    lines = [f"in/{number}.png{separator}{word}" for number, word in enumerate(words)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    with pytest.raises(SemattnError, match=f"line {line} of ") as error:
        open_source(tmp_path / "list.txt", NAMES, 5)
    assert all(part in str(error.value) for part in parts), error.value


def test_two_columns_of_classes_are_refused(tmp_path):
    pictures(tmp_path, ["a.png"])
    (tmp_path / "list.csv").write_text("path,class_id,class_name\nin/a.png,2,dog\n")
    with pytest.raises(SemattnError, match="one column of classes, got 'class_id', 'class_name'"):
        open_source(tmp_path / "list.csv", NAMES, 5)


def test_names_without_a_model_that_has_them_are_numbered_and_that_is_said(tmp_path):
    pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "list.txt").write_text("in/a.png\tzebra\nin/b.png\tape\n")
    source, notes = opened(tmp_path / "list.txt", (), 2)
    assert source.data.labels == (1, 0)
    assert notes == ["source: its class names are numbered in alphabetical order"]


def test_the_command_says_what_was_assumed_and_ends_with_2_where_nothing_is_read(run, elsewhere):
    for number in range(2):
        picture(number).save(elsewhere / f"{number}.png")
    (elsewhere / "list.csv").write_text("path,label\n0.png,1\n1.png,2\n", encoding="utf-16")
    words = ("--jobs", "explain", "--workers", "0", "--batch-size", "2")
    status, out, err = run("audit", "list.csv", *words)
    assert status == 0, err
    assert "note: source: its first line 'path,label' names the columns; commas separate" in out
    (elsewhere / "list.csv").write_text("0.png,1\n1.png,9\n")
    refused(run("audit", "list.csv", *words, "--out", "b"), "from 0 to 4, got 9", "line 2 of list")
    for number in range(2):
        (elsewhere / f"{number}.png").write_text("no picture")
    (elsewhere / "list.csv").write_text("0.png,1\n1.png,2\n")
    message = refused(
        run("audit", "list.csv", *words, "--out", "c"), "none of 2 (2: image: expected"
    )
    assert "skipped.parquet lists them" in message


# --- files of class names -------------------------------------------------------------------------


def classes_of(file, count=5):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = read_classes(file, count)
    return names, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", CLASS_FILES)
def test_class_names_in_every_form(form, encoding, tmp_path):
    names, notes = classes_of(write_classes(form, tmp_path / "names", NAMES, encoding))
    assert names == NAMES
    assert len(notes) == (form not in ("lines", "blank lines"))
    assert all(note.startswith("class names: ") and "\n" not in note for note in notes)


@pytest.mark.parametrize(
    "names",
    [
        ("class 0", "class 1", "class 2"),
        ("0", "1", "2"),
        ("101 dalmatians", "7 eleven", "3 musketeers"),
        ("#1", "[a]", "{b}"),
        ("[a", "b", "c]"),
        ("cat, 3", "cat, 1", "cat, 2"),
        ("n01440764", "n01443537", "n01484850"),
    ],
)
def test_names_that_look_like_another_form_stay(names, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert classes_of(tmp_path / "names.txt", 3) == (names, [])


def test_class_names_with_two_readings_are_refused(tmp_path):
    (tmp_path / "names.txt").write_text("0 1\n1 2\n2 0\n")
    with pytest.raises(SemattnError, match="both columns may be the number — write one name"):
        read_classes(tmp_path / "names.txt", 3)


def test_western_class_names_are_read_and_said(tmp_path):
    (tmp_path / "names.txt").write_bytes("Löwe\nBär".encode("latin-1"))
    names, notes = classes_of(tmp_path / "names.txt", 2)
    assert names == ("Löwe", "Bär")
    assert notes == ["class names: bytes that are not UTF-8 are read as cp1252"]


@pytest.mark.parametrize("text", ['{"0": "a", "2": "b"}', '[["a", 1]]', "[1, 2]", '{"a": {}}'])
def test_json_without_names_is_refused(text, tmp_path):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(ValueError, match="expected a list of names, or a name for each number"):
        read_classes(tmp_path / "names.json", 2)
