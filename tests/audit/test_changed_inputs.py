"""Audits whose images changed: kept work is used for the images that it was computed from only."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from semattn.audit import audit, batch_size, partial_sums as sums, unit_store as kept
from semattn.audit.unit_computer import UnitComputer
from semattn.data import open_source
from semattn.utils import input_identity as identity
from semattn.utils.processes import LockedError
from tests import edited_trees as trees
from tests.conftest import refused
from tests.result_files import names_in

OLD = time.time() - 3600


@pytest.fixture(autouse=True)
def _small_units(monkeypatch):
    """Units of four images, sums of one unit each."""
    monkeypatch.setattr(batch_size, "BATCHES_PER_UNIT", 2)
    monkeypatch.setattr(sums, "LEAST_UNITS", 1)


@pytest.fixture
def root(tmp_path):
    """Twelve pictures: units of 4 cats, 4 dogs and 4 owls."""
    trees.make_tree(tmp_path / "photos", 1, 12)
    return tmp_path / "photos"


@pytest.fixture
def explained(monkeypatch):
    """Numbers of the images that are explained."""
    numbers: list[int] = []
    explain = UnitComputer.explanation

    def count(self, loaded):
        numbers.extend(loaded.numbers)
        return explain(self, loaded)

    monkeypatch.setattr(UnitComputer, "explanation", count)
    return numbers


def run(root, out, process=(0, 1), jobs=("explain",), **options):
    source = open_source(root, trees.CLASSES, len(trees.CLASSES))
    return audit(
        trees.model(), source, out, jobs=jobs, batch_size=2, workers=0, preprocessing=trees.OWN,
        process=process, **options,
    )  # fmt: skip


def files(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(out).parts)
    }


def scratch(root, folder, jobs=("explain",)):
    run(root, folder / "scratch", jobs=jobs)
    contents = files(folder / "scratch")
    shutil.rmtree(folder / "scratch")
    return contents


def note_of(root, out, **options) -> str:
    """Run again and return the single note on stored work that was not used."""
    with pytest.warns(UserWarning, match="kept unit") as warning_list:
        run(root, out, **options)
    assert len(warning_list) == 1
    return str(warning_list[0].message)


def test_another_folder_with_the_same_names_is_another_data_set(root, tmp_path):
    run(root, tmp_path / "out")
    other = tmp_path / "site2/photos"
    for number, file in enumerate(trees.pictures(root)):
        trees.draw(other / file.relative_to(root), 500 + number)
    note = note_of(other, tmp_path / "out")
    assert note == "3 of 3 kept units were not used, because 12 images changed"
    assert files(tmp_path / "out") == scratch(other, tmp_path)


@pytest.mark.parametrize("jobs", [("explain",), ("explain", "analyze")])
def test_a_picture_edited_in_place_is_done_again(root, tmp_path, explained, jobs):
    """Keep the size and the time of change of the picture."""
    run(root, tmp_path / "out", jobs=jobs)
    file = root / "dog/001.bmp"
    before = file.stat()
    trees.draw(file, 999)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    explained.clear()
    note = note_of(root, tmp_path / "out", jobs=jobs)
    assert note == "1 of 3 kept units was not used, because 1 image changed"
    assert explained == [4, 5, 6, 7]
    assert files(tmp_path / "out") == scratch(root, tmp_path, jobs)
    assert run(root, tmp_path / "out", jobs=jobs).images == 0, "and only once"


def test_the_sums_of_units_that_did_not_change_are_kept(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "LEAST_UNITS", 2)
    jobs = ("analyze",)
    run(root, tmp_path / "out", jobs=jobs)
    assert len(list((tmp_path / "out/.audit").glob("analysis-*.npz"))) == 2
    trees.draw(root / "owl/002.bmp", 999)  # alone in its file
    assert note_of(root, tmp_path / "out", jobs=jobs).startswith("1 of 3 kept units")
    trees.draw(root / "cat/000.bmp", 999)  # in a file with the dogs
    assert note_of(root, tmp_path / "out", jobs=jobs).startswith("2 of 3 kept units")
    again, fresh = (run(root, tmp_path / name, jobs=jobs) for name in ("out", "fresh"))
    again_sums, fresh_sums = again.analysis.tally.arrays(), fresh.analysis.tally.arrays()
    assert again_sums.keys() == fresh_sums.keys() and again.analysis.images == 12
    assert all((again_sums[name] == fresh_sums[name]).all() for name in again_sums)


@pytest.mark.parametrize("kind", ["touch", "copy", "move"])
def test_files_with_the_same_content_are_used(root, tmp_path, explained, kind):
    (root / "cat/000.bmp").write_bytes(trees.BROKEN)  # the reason has no path that could move
    run(root, tmp_path / "out", jobs=("explain", "analyze"))
    expected = files(tmp_path / "out")
    if kind == "touch":
        for file in trees.pictures(root):
            os.utime(file)
    elif kind == "copy":
        shutil.copytree(root, tmp_path / "elsewhere/copy", copy_function=shutil.copyfile)
        root = tmp_path / "elsewhere/copy"
    else:
        root = root.rename(tmp_path / "moved")
    explained.clear()
    assert run(root, tmp_path / "out", jobs=("explain", "analyze")).images == 0
    assert not explained
    assert files(tmp_path / "out") == expected == scratch(root, tmp_path, ("explain", "analyze"))


def test_files_that_did_not_change_are_not_read(root, tmp_path, monkeypatch):
    run(root, tmp_path / "out")
    monkeypatch.setattr(identity, "content_digest", lambda source: pytest.fail("read"))
    assert run(root, tmp_path / "out").images == 0


def test_a_repaired_picture_is_done_again(root, tmp_path):
    good = (root / "cat/003.bmp").read_bytes()
    (root / "cat/003.bmp").write_bytes(trees.BROKEN)
    assert run(root, tmp_path / "out").summary["skipped"] == 1
    (root / "cat/003.bmp").write_bytes(good)
    assert "1 image changed" in note_of(root, tmp_path / "out")
    assert files(tmp_path / "out") == scratch(root, tmp_path)


def test_a_unit_without_a_readable_picture_leaves_no_maps(root, tmp_path):
    run(root, tmp_path / "out")
    for file in (root / "dog").iterdir():
        file.write_bytes(trees.BROKEN)
    note_of(root, tmp_path / "out")
    assert files(tmp_path / "out") == scratch(root, tmp_path)
    assert not (tmp_path / "out/maps/000001.npz").exists()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"add": "ant/0.bmp"}, "3 of 3 kept units were not used, because 1 is new"),
        ({"remove": "cat/000.bmp"}, "3 of 3 kept units were not used, because 1 is gone"),
        ({"remove": "owl/002.bmp", "add": "owl/new.bmp", "edit": "owl/005.bmp"},
         "1 of 3 kept units was not used, because 1 image changed, 1 is new and 1 is gone"),
        ({"rename": "owl/011.bmp"},
         "1 of 3 kept units was not used, because 1 is new and 1 is gone"),
        ({"swap": "dog/001.bmp"}, "1 of 3 kept units was not used, because 2 images changed"),
    ],
)  # fmt: skip
def test_the_line_counts_what_changed(root, tmp_path, changes, note):
    run(root, tmp_path / "out")
    for kind, name in changes.items():
        if kind in ("add", "edit"):
            trees.draw(root / name, 777)
        elif kind == "remove":
            (root / name).unlink()
        elif kind == "rename":
            (root / name).rename(root / "owl/012.bmp")
        else:
            for old, new in ((name, "dog/x"), ("dog/004.bmp", name), ("dog/x", "dog/004.bmp")):
                (root / old).rename(root / new)
    assert note_of(root, tmp_path / "out") == note
    assert files(tmp_path / "out") == scratch(root, tmp_path)


def test_units_beyond_the_last_image_are_dropped(root, tmp_path, explained):
    jobs = ("explain", "analyze")
    run(root, tmp_path / "out", jobs=jobs)
    shutil.rmtree(root / "owl")
    explained.clear()
    note = note_of(root, tmp_path / "out", jobs=jobs)
    assert note == "1 of 3 kept units was not used, because 4 are gone" and not explained
    assert files(tmp_path / "out") == scratch(root, tmp_path, jobs)
    assert sorted(path.name for path in (tmp_path / "out/maps").iterdir()) == [
        "000000.npz", "000001.npz"
    ]  # fmt: skip
    assert run(root, tmp_path / "out", jobs=jobs).analysis.images == 8


def test_tables_of_removed_images_are_removed(root, tmp_path):
    run(root, tmp_path / "out")
    trees.draw(root / "dog/001.bmp", 999)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out", progress=stop)
    assert sorted(files(tmp_path / "out")) == ["maps/000000.npz", "maps/000002.npz"]
    run(root, tmp_path / "out")
    assert files(tmp_path / "out") == scratch(root, tmp_path)


def test_another_class_of_a_list_is_another_identity(root, tmp_path):
    lines = [f"photos/{file.relative_to(root)}\t{{}}" for file in trees.pictures(root)]
    (tmp_path / "list.txt").write_text("\n".join(lines).format(*[0] * 12))
    run(tmp_path / "list.txt", tmp_path / "out")
    (tmp_path / "list.txt").write_text("\n".join(lines).format(*[0] * 11, 2))
    assert "1 image changed" in note_of(tmp_path / "list.txt", tmp_path / "out")
    assert files(tmp_path / "out") == scratch(tmp_path / "list.txt", tmp_path)


@pytest.mark.parametrize("jobs", [("explain",), ("explain", "analyze")])
def test_changed_units_of_other_processes_count_as_missing(root, tmp_path, jobs):
    for place in (0, 1):
        last = run(root, tmp_path / "out", (place, 2), jobs)
    assert last.summary is not None
    trees.draw(root / "dog/001.bmp", 999)  # of the unit of process 1
    table = (tmp_path / "out/explain.parquet").read_bytes()
    again = run(root, tmp_path / "out", (0, 2), jobs)
    assert (again.summary, again.waiting, again.images) == (None, 1, 0)
    assert (tmp_path / "out/explain.parquet").read_bytes() == table
    with pytest.warns(UserWarning, match="because the images in the data set changed"):
        again = run(root, tmp_path / "out", (1, 2), jobs)
    assert again.waiting == 0 and files(tmp_path / "out") == scratch(root, tmp_path, jobs)


def test_the_sums_of_one_process_are_dropped_for_the_next_two(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "LEAST_UNITS", 16)
    jobs = ("explain", "analyze")
    run(root, tmp_path / "out", jobs=jobs)
    trees.draw(root / "dog/001.bmp", 999)
    for place in (0, 1):  # each does its units again
        with pytest.warns(UserWarning, match="kept units? w"):
            again = run(root, tmp_path / "out", (place, 2), jobs)
    assert again.summary is not None and again.analysis.images == 12
    assert files(tmp_path / "out") == scratch(root, tmp_path, jobs)


def test_a_unit_in_two_sums_is_not_counted_twice(root, tmp_path):
    run(root, tmp_path / "out", jobs=("analyze",))
    file = next((tmp_path / "out/.audit").glob("analysis-*.npz"))
    shutil.copy(file, file.with_name("analysis-0007-copy.npz"))
    with pytest.warns(UserWarning, match="1 of 3 kept units was not used"):
        again = run(root, tmp_path / "out", jobs=("analyze",))
    assert again.analysis.images == 12


def test_the_order_of_sums_does_not_change_the_analysis(root, tmp_path, monkeypatch):
    """The first unit has no null of other images, because it has a single picture."""
    for file in trees.pictures(root)[1:4]:
        file.write_bytes(trees.BROKEN)
    summaries = []
    for name, tokens in (("up", "abc"), ("down", "cba")):
        letters = iter(tokens)
        monkeypatch.setattr(sums.secrets, "token_hex", lambda _, letters=letters: next(letters))
        analysis = run(root, tmp_path / name, jobs=("analyze",)).analysis
        summaries.append(json.dumps(analysis.summary()))
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("process", "words"),
    [((0, 1), r"process \d+ of .* is running"), ((1, 2), r"expected one of 1, as process \d+ of")],
)
def test_a_second_audit_of_a_folder_is_refused_while_one_runs(root, tmp_path, process, words):
    refusals = []

    def progress(*_):
        with pytest.raises(LockedError, match=words) as error:
            run(root, tmp_path / "out", process)
        refusals.append(str(error.value))

    result = run(root, tmp_path / "out", progress=progress)
    assert refusals and result.summary["explained"] == 12
    assert f"process {os.getpid()} of" in refusals[0] and "wait for it" in refusals[0]
    assert run(root, tmp_path / "out").images == 0, "as the message advises"


def test_another_model_is_refused_while_one_runs(root, tmp_path):
    """Check this before the first result is stored."""
    from semattn.errors import SemattnError

    def progress(*_):
        with pytest.raises(SemattnError, match="results of another"):
            run(root, tmp_path / "out", jobs=("explain", "analyze"))

    assert run(root, tmp_path / "out", progress=progress).summary["explained"] == 12


def test_half_written_files_of_dead_processes_are_removed(root, tmp_path):
    run(root, tmp_path / "out")
    dead, live, late = (
        tmp_path / "out" / name
        for name in (
            ".audit/.unit-000000.npz.999999999.1", f".explain.parquet.{os.getpid()}.1",
            "maps/.000001.npz.999999999.1",
        )
    )  # fmt: skip
    for file in (dead, live, late):
        file.write_bytes(b"half")
        os.utime(file, (OLD, OLD))
    os.utime(late)  # of another machine, perhaps
    run(root, tmp_path / "out")
    assert [file.exists() for file in (dead, live, late)] == [False, True, True]


def test_results_in_the_audited_folder_are_not_images(run_command, tmp_path, monkeypatch):
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        for number in range(6):
            trees.draw(root / name / f"{number}.bmp", hash((name, number)) % 1000)
    monkeypatch.chdir(root)
    command = ("audit", ".", "--jobs", "explain,spurious", "--batch-size", 2, "--no-report")
    real, calls = UnitComputer.explanation, []

    def stop(self, loaded):
        calls.append(loaded.numbers)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, loaded)

    monkeypatch.setattr(UnitComputer, "explanation", stop)
    status, out, err = run_command(*command)
    folder = "semattn-audit-photos"
    assert (status, out) == (130, "")
    assert err == (
        f"error: interrupted — finished work is kept in {folder}; the same command resumes it\n"
    )
    monkeypatch.setattr(UnitComputer, "explanation", real)
    for _ in range(2):
        status, out, err = run_command(*command)
        assert status == 0, err
        assert "12 explained" in out and "kept unit" not in out
    assert names_in(root / folder)[:2] == [".audit", "audit.json"]
    assert {path.name for path in root.iterdir()} == {"cat", "dog", folder}


@pytest.fixture
def run_command(elsewhere, run):
    return run


def test_the_command_says_in_one_line_what_was_done_again(run_command, tmp_path):
    trees.make_tree(tmp_path / "photos", 1, 8, 1)
    command = ("audit", "photos", "--jobs", "explain", "--batch-size", 2)
    assert run_command(*command)[0] == 0
    trees.draw(tmp_path / "photos/cat/000.bmp", 99)
    status, out, _ = run_command(*command)
    assert status == 0
    assert out.count("note: 1 of 2 kept units was not used, because 1 image changed\n") == 1
    refused(run_command(*command, "--method", "legrad"), "expected results of this audit")


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_edits_gives_the_result_of_a_run_from_scratch(tmp_path, seed):
    assert trees.audit_case(tmp_path, 100 + seed) == []


def test_the_edits_are_those_that_they_are_called(tmp_path):
    """Each leaves a tree of pictures, and one that differs but for `touch` and `copy`."""
    for kind, edit in trees.EDITS.items():
        root = tmp_path / kind.replace(" ", "-") / "tree"
        trees.make_tree(root, 0, 6)
        (root / "cat/000.bmp").write_bytes(trees.BROKEN)
        before = {file.relative_to(root): file.read_bytes() for file in trees.pictures(root)}
        edit(root, random.Random(1))
        after = {file.relative_to(root): file.read_bytes() for file in trees.pictures(root)}
        assert (before == after) == (kind in ("touch", "copy")), kind
        assert all(re.fullmatch(r"(cat|dog|owl)/\w+\.bmp", file.as_posix()) for file in after)


def test_units_are_compared_once_by_each_process(root, tmp_path, monkeypatch):
    run(root, tmp_path / "out")
    compared = []
    real = kept.all_unchanged
    monkeypatch.setattr(
        kept,
        "all_unchanged",
        lambda lines, *rest: compared.append(len(lines)) or real(lines, *rest),
    )
    run(root, tmp_path / "out")
    assert compared == [4, 4, 4]
