"""Stored rows of a benchmark are used only for the image, mask and class that they came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semattn.data.masked import EvenSubset, open_masked
from semattn.errors import SemattnError
from semattn.evaluation import Setting, evaluate
from semattn.evaluation.row_store import sources_of
from semattn.evaluation.runner import _Study
from semattn.utils.input_identity import content_digests, identify_inputs
from semattn.utils.processes import LockedError
from tests import edited_data
from tests.edited_data import (
    EDITS,
    StoppedError,
    bench_case,
    draw_mask,
    make_data,
    run_bench,
    same_bench,
    tiny_model,
)

SILENT = ("nothing", "copy", "touch")


@pytest.fixture
def measured(monkeypatch):
    """Numbers of the images that are measured, in order."""
    numbers, measure = [], _Study.measure
    monkeypatch.setattr(
        _Study, "measure", lambda study, index: numbers.append(index) or measure(study, index)
    )
    return numbers


@pytest.mark.parametrize("kind", EDITS)
def test_a_run_after_an_edit_equals_one_from_scratch(tmp_path, kind):
    again, scratch, notes = bench_case(tmp_path, kind, seed=3)
    assert same_bench(again, scratch)
    notes = [note for note in notes if "kept" in note or "dropped" in note]
    assert len(notes) == (kind not in (*SILENT, "swap")) or (kind == "swap" and len(notes) <= 1)
    assert len(list((tmp_path / "kept").glob("0*.json"))) == len(again.names) + len(again.skipped)


@pytest.mark.parametrize("kind", ["mask", "add", "remove"])
@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_and_edited_run_equals_one_from_scratch(tmp_path, kind, stop):
    again, scratch, _ = bench_case(tmp_path, kind, seed=5, stop=stop)
    assert same_bench(again, scratch)


def test_another_data_set_with_the_same_names_gives_its_own_numbers(tmp_path, measured):
    first, second = make_data(tmp_path / "a", 1, 5), make_data(tmp_path / "b", 2, 4)
    old = run_bench(first, tmp_path / "kept")
    with pytest.warns(
        UserWarning, match="4 of 5 images .* were measured again: 4 whose"
    ) as warning_list:
        results = run_bench(second, tmp_path / "kept")
    assert len(warning_list) == 1 and "1 that are no longer in the data were dropped" in str(
        warning_list[0].message
    )
    assert same_bench(results, run_bench(second, None))
    assert not np.array_equal(results.values, old.values[:4])
    assert results.manifest["data"]["inputs_sha256"] != old.manifest["data"]["inputs_sha256"]
    assert len(measured) == 5 + 4 + 4


def test_a_changed_mask_affects_its_image_and_those_that_sample_it(tmp_path, measured):
    root = make_data(tmp_path / "data", 1)
    run_bench(root, tmp_path / "kept")
    draw_mask(root / "masks/dog/01.png", 99)
    with pytest.warns(UserWarning, match="4 of 4 .*: 1 whose image, mask or class changed, 3 comp"):
        results = run_bench(root, tmp_path / "kept")
    assert same_bench(results, run_bench(root, None))

    def ap(out):
        data = open_masked(f"masks:{root / 'images'},{root / 'masks'}")
        return evaluate(tiny_model(), data, ["random"], ["ap"], folder=out)

    ap(tmp_path / "ap")
    draw_mask(root / "masks/dog/01.png", 98)
    measured.clear()
    with pytest.warns(UserWarning, match="1 of 4 images .*: 1 whose image, mask or class changed$"):
        ap(tmp_path / "ap")
    assert measured == [2], "without shuffled-auroc the others do not depend on it"


def test_moved_data_is_not_measured_again(tmp_path, measured):
    root = make_data(tmp_path / "data", 1)
    run_bench(root, tmp_path / "kept")
    shutil.copytree(root, tmp_path / "other/place")
    measured.clear()
    run_bench(tmp_path / "other/place", tmp_path / "kept")
    run_bench(root, tmp_path / "kept")
    assert not measured


def test_rows_are_found_at_other_indices(tmp_path, measured):
    data = open_masked(f"folder:{make_data(tmp_path / 'data', 1, 9) / 'images'}")

    def run(count, out):
        return evaluate(tiny_model(), EvenSubset(data, count), ["random"], ["gini"], folder=out)

    run(5, tmp_path / "kept")  # 0, 2, 4, 6, 8
    measured.clear()
    assert same_bench(run(9, tmp_path / "kept"), run(9, None))
    assert len(measured) == 4 + 9


def test_a_picture_that_was_repaired_is_measured(tmp_path):
    root = make_data(tmp_path / "data", 1)
    file = root / "images/cat/02.png"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    results = run_bench(root, tmp_path / "kept")
    assert [name for name, _ in results.skipped] == ["cat/02.png"] and len(results.names) == 3
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="1 whose image"):
        results = run_bench(root, tmp_path / "kept")
    assert same_bench(results, run_bench(root, None)) and len(results.names) == 4


def test_items_in_memory_are_identified_by_their_values(tmp_path, measured):
    class Data:
        classes, about = (), {"name": "drawn"}

        def __init__(self, seed):
            self.seed = seed

        def __len__(self):
            return 3

        def __getitem__(self, index):
            from semattn.data.masked import MaskedImage

            rng = np.random.default_rng(self.seed if index == 1 else index)
            small = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
            picture = Image.fromarray(small.repeat(8, 0).repeat(8, 1))
            return MaskedImage(f"picture {index}", picture, None, None)

    for seed in (7, 8, 8):
        evaluate_quietly(Data(seed), tmp_path)
    assert measured == [0, 1, 2, 1]


def evaluate_quietly(data, out):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(tiny_model(), data, ["random"], ["gini"], folder=out)


def test_other_options_are_refused(tmp_path):
    root = make_data(tmp_path / "data", 1)
    run_bench(root, tmp_path / "kept")
    data = open_masked(f"masks:{root / 'images'},{root / 'masks'}")
    with pytest.raises(SemattnError, match="out: expected results of this run"):
        evaluate(tiny_model(), data, ["random"], ["ap"], folder=tmp_path / "kept",
                 setting=Setting(steps=3))  # fmt: skip


def test_two_runs_in_one_folder_are_refused(tmp_path):
    root = make_data(tmp_path / "data", 1)

    def second(stage, done, total):
        with pytest.raises(LockedError, match="is running — wait for it"):
            run_bench(root, tmp_path / "kept")
        raise StoppedError

    data = open_masked(f"masks:{root / 'images'},{root / 'masks'}")
    with pytest.raises(StoppedError):
        evaluate(tiny_model(), data, ["random"], ["ap"], folder=tmp_path / "kept", progress=second)


def test_coco_items_are_identified_by_picture_annotation_and_class_names(tmp_path):
    edited_data.draw(tmp_path / "a.png", 1)
    box = [10, 5, 24, 5, 24, 19, 10, 19]

    def lines(name, points):
        annotation_file = {
            "categories": [{"id": 1, "name": name}], "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [points]}],
        }  # fmt: skip
        (tmp_path / "told.json").write_text(json.dumps(annotation_file))
        data = EvenSubset(open_masked(f"coco:{tmp_path},{tmp_path / 'told.json'}"), 9)
        return content_digests(identify_inputs([source for _, source, _ in sources_of(data, 0)]))

    first = lines("cat", box)
    assert first == lines("cat", box)
    assert first[1] != lines("dog", box)[1] and first[1] != lines("cat", [*box[:-1], 30])[1]
    edited_data.draw(tmp_path / "a.png", 2)
    assert first[0] != lines("cat", box)[0]


def test_voc_items_are_identified_by_picture_and_mask(tmp_path):
    edited_data.draw(tmp_path / "JPEGImages/one.jpg", 1)
    edited_data.draw_mask(tmp_path / "SegmentationClass/one.png", 1)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("one\n")
    data = open_masked(f"voc:{tmp_path}")
    files = [source for _, source, _ in sources_of(data, 0)]
    assert [file.name for file in files] == ["one.jpg", "one.png"] and all(map(Path.is_file, files))


@pytest.mark.usefixtures("elsewhere")
def test_the_command_reports_changes_in_one_line(run, tmp_path):
    root = make_data(tmp_path / "data", 1)
    arguments = (
        "bench", "explain", "--data", f"masks:{root / 'images'},{root / 'masks'}", "--methods",
        "random", "--metrics", "ap", "--random-weights", "--out", "kept",
    )  # fmt: skip
    assert run(*arguments)[0] == 0
    before = json.loads((tmp_path / "kept/bench.json").read_text())
    draw_mask(root / "masks/dog/01.png", 99)
    status, out, err = run(*arguments)
    assert status == 0 and not err
    assert (
        out.count("note: 1 of 4 images that an earlier run kept were measured again: 1 whose") == 1
    )
    after = json.loads((tmp_path / "kept/bench.json").read_text())
    assert run(*arguments[:-1], "fresh")[0] == 0
    scratch = json.loads((tmp_path / "fresh/bench.json").read_text())
    means = [result["methods"][0]["metrics"]["ap"]["mean"] for result in (before, after, scratch)]
    assert means[0] != means[1] == means[2]
    other = make_data(tmp_path / "other", 2)
    arguments = [str(argument).replace(str(root), str(other)) for argument in arguments]
    assert run(*arguments)[0] == 0
    assert run(*arguments[:-1], "fresh2")[0] == 0
    resumed, scratch = (
        json.loads((tmp_path / folder / "bench.json").read_text()) for folder in ("kept", "fresh2")
    )
    assert resumed["methods"][0]["metrics"] == scratch["methods"][0]["metrics"]
