"""Tests of samples and labels in archives of all forms; ambiguous archives are refused."""

from __future__ import annotations

import warnings

import pytest

from semattn.data import open_source, read_archive
from semattn.errors import SemattnError
from semattn.images import read
from tests.archive_forms import (
    LABELS,
    NAMES,
    STEMS,
    debris,
    labelled,
    png,
    random_archive,
    write_archive,
)

CASES = 150  # random archives


def opened(spec, names=NAMES, outputs=3):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(spec, names, outputs)
    return source, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("stems", STEMS)
def test_every_picture_has_its_label(stems, labels, tmp_path):
    ending, write = LABELS[labels]
    names = [STEMS[stems](number) for number in range(6)]
    file = write_archive(tmp_path / "a.tar", labelled(names, [0, 1, 2, 2, 1, 0], ending, write))
    source, notes = opened(file)
    assert source.names == tuple(f"a.tar/{name}.png" for name in names)
    assert source.data.labels == (0, 1, 2, 2, 1, 0) and not source.data.note
    assert [read(picture).getpixel((0, 0))[0] for picture in source.data.sources] == list(range(6))
    has_dots = stems.startswith("dots")
    assert len(notes) == (has_dots or ending != "cls")
    if has_dots:
        assert "names in the archives have dots: sample names end at the last dot" in notes[0]
    if ending != "cls":
        assert f"classes are read from the members .{ending}" in notes[0]


def test_random_archives_give_every_picture_and_its_label(tmp_path):
    for seed in range(CASES):
        case = random_archive(seed, tmp_path)
        source, _ = opened(case.file)
        assert (source.names, source.data.labels) == (case.names, case.labels), (seed, case.form)
        case.file.unlink()


@pytest.mark.parametrize(
    "extensions", [("input.png", "target.png"), ("jpg", "png"), ("view1.png", "view2.png")]
)
@pytest.mark.parametrize("with_labels", [False, True])
def test_two_pictures_a_sample_are_refused_until_one_is_chosen(extensions, with_labels, tmp_path):
    content = []
    for number in range(5):
        content += [
            (f"{number}.{extension}", png(number + 100 * place))
            for place, extension in enumerate(extensions)
        ]
        content += [(f"{number}.cls", b"2")] * with_labels
    file = write_archive(tmp_path / "a.tar", content)
    with pytest.raises(
        SemattnError, match="expected one picture in a sample, got several"
    ) as error:
        open_source(file, NAMES, 3)
    assert f"with the extensions {extensions[0]}, {extensions[1]} " in str(error.value)
    assert f"a.tar#{extensions[0]}" in str(error.value) and "a.tar#*" in str(error.value)
    label = 2 if with_labels else None
    for place, extension in enumerate(extensions):
        for spec in (f"{file}#{extension}", f"{tmp_path}#{extension}"):
            source, notes = opened(spec)
            assert source.names == tuple(f"a.tar/{number}.{extension}" for number in range(5))
            assert read(source.data.sources[3]).getpixel((0, 0))[0] == 3 + 100 * place
            assert source.data.labels == (label,) * 5 and not notes
    assert len(opened(f"{file}#*")[0]) == 10


def test_an_extension_that_no_picture_has_lists_those_there_are(tmp_path):
    file = write_archive(tmp_path / "a.tar", [("0.input.png", png(0)), ("0.target.png", png(1))])
    with pytest.raises(SemattnError, match="'jpg', got input.png, target.png — choose one"):
        open_source(f"{file}#jpg", (), 3)


def test_a_range_of_archives_and_an_extension(tmp_path):
    for shard in range(2):
        write_archive(
            tmp_path / f"s-{shard}.tar",
            [(f"{n}.{e}.png", png(n)) for n in range(2) for e in ("input", "target")],
        )
    source, _ = opened(str(tmp_path / "s-{0..1}.tar#target.png"))
    assert source.names == tuple(f"s-{s}.tar/{n}.target.png" for s in range(2) for n in range(2))


def test_one_decision_for_all_archives(tmp_path):
    """The last shard has one sample, which is ambiguous by itself."""
    for shard, count in enumerate((9, 1)):
        names = [f"cat.{10 * shard + n}" for n in range(count)]
        write_archive(tmp_path / f"{shard}.tar", [(f"{name}.png", png(0)) for name in names])
    assert len(opened(tmp_path)[0]) == 10


def test_masks_are_left_out_and_counted(tmp_path):
    content = [(f"{n}.{end}", png(n)) for n in range(4) for end in ("seg.png", "png")]
    source, notes = opened(write_archive(tmp_path / "a.tar", content))
    assert source.names == tuple(f"a.tar/{n}.png" for n in range(4))
    assert notes == ["source: 4 pictures called seg.png are left out: they seem to be masks"]


def test_members_of_macos_are_left_out_and_counted(tmp_path):
    stems = [f"d/{number}" for number in range(3)]
    content = debris(stems) + labelled(stems, [0, 1, 2], "cls")
    source, notes = opened(write_archive(tmp_path / "a.tar", content))
    assert source.names == tuple(f"a.tar/{stem}.png" for stem in stems)
    assert source.data.labels == (0, 1, 2)
    assert notes == [
        "source: 5 hidden members of the archives (such as ._a.jpg) are left out"
    ]  # fmt: skip
    (tmp_path / "._a.tar").write_bytes(b"Mac OS X")
    assert opened(tmp_path)[0].data.broken == ()


WRONG_NUMBER = "1 of 3 members .cls give no class of the model (expected a class number from 0 to 2"
WRONG_NAME = "1 of 3 members .cls give no class of the model (expected a class of the model, got "


@pytest.mark.parametrize(
    ("words", "labels", "note"),
    [
        (["0", "5", "1"], [None] * 3, f"{WRONG_NUMBER}, got 5): no label is used"),
        (["1", "2", "3"], [None] * 3,
         f"{WRONG_NUMBER}, got 3), since they count from 1 to 3 and the model from 0: no label is"),
        (["dog", "wolf", "tiger cat"], [2, None, 1],
         f"{WRONG_NAME}'wolf'): those images have no label"),
        (["", "1", "2"], [None, 1, 2], ""),
    ],
)  # fmt: skip
def test_a_label_that_the_model_lacks_is_said(words, labels, note, tmp_path):
    content = []
    for number, word in enumerate(words):
        content += [(f"{number}.png", png(number)), (f"{number}.cls", word.encode())]
    source, notes = opened(write_archive(tmp_path / "a.tar", content))
    assert source.data.labels == tuple(labels)
    assert len(notes) == bool(note) and (not note or note in notes[0])


def test_captions_are_no_labels(tmp_path):
    content = []
    for number in range(3):
        content += [(f"{number}.png", png(number)), (f"{number}.txt", b"a dog on a lawn")]
    source, notes = opened(write_archive(tmp_path / "a.tar", content))
    assert source.data.labels == (None,) * 3 and "predicts" in source.data.note
    assert "they are taken for captions" in notes[0]


def test_a_label_that_is_no_text_is_counted(tmp_path):
    content = [("0.png", png(0)), ("0.cls", b"\x00\x01\x02"), ("1.png", png(1)), ("1.cls", b"1")]
    source, notes = opened(write_archive(tmp_path / "a.tar", content))
    assert source.data.labels == (None, 1)
    assert notes == ["source: 1 members of the archives hold no readable label"]


def test_members_of_one_archive_give_numbers_and_names(tmp_path):
    content = [("0.png", png(0)), ("0.cls", b"cat"), ("1.png", png(1)), ("1.cls", b"7\n")]
    archive = read_archive(write_archive(tmp_path / "a.tar", content))
    assert archive.labels == ("cat", 7)
