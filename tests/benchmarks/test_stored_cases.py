"""Cases of a study with a result file each."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.studies.spurious.stored_cases import arguments, folders, pending

CASES = [SimpleNamespace(file=f"{name}.json") for name in ("tag_1", "tag_2", "logo_1", "logo_2")]


def files(tmp_path, *options: str, again: bool = False) -> list[str]:
    parser = arguments("A study.", tmp_path / "results", "bench-test")
    parsed = parser.parse_args(["--work", str(tmp_path / "work"), *options])
    found = list(pending(CASES, parsed, again=again))
    assert all(path == tmp_path / "results" / case.file for case, path in found)
    return [case.file.removesuffix(".json") for case, _ in found]


def test_cases_without_a_result_are_pending(tmp_path):
    assert files(tmp_path) == ["tag_1", "tag_2", "logo_1", "logo_2"]
    assert (tmp_path / "work").is_dir()
    (tmp_path / "results" / "tag_2.json").write_text("{}")
    assert files(tmp_path) == ["tag_1", "logo_1", "logo_2"]
    assert files(tmp_path, again=True) == ["tag_1", "tag_2", "logo_1", "logo_2"]
    assert files(tmp_path, "--only", "^tag|_2") == ["tag_1", "logo_2"]


def test_parts_share_all_cases(tmp_path):
    parts = [files(tmp_path, "--part", f"{part}/3") for part in range(3)]
    assert parts == [["tag_1", "logo_2"], ["tag_2"], ["logo_1"]]


def test_a_study_without_stored_data_has_no_folder_for_it(tmp_path):
    assert vars(folders("A study.", tmp_path).parse_args([])) == {"results": tmp_path}
    options = arguments("A study.\n\nMore.", tmp_path)
    assert options.description == "A study."
    assert len(list(pending(CASES, options.parse_args([])))) == 4
