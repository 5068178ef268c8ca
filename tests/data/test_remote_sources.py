"""Sources on object stores, and data sets of the Hugging Face library."""

from __future__ import annotations

import json
import sys
import types
import warnings

import numpy as np
import pyarrow as pa
import pytest

from semattn import find_marks
from semattn.audit import audit as run_audit
from semattn.data import list_images, open_source, prefetching, read_dataset
from semattn.errors import ImageError, MissingPackageError, SemattnError
from semattn.images import display_name, read
from semattn.utils.input_identity import identity_of, is_unchanged, stamp_of
from semattn.utils.remote_path import RemotePath, fetch, to_path
from tests.audit.pictures import archive, folder, picture, results, tiny
from tests.stores import ObjectStore, bucket, objects, upload

__all__ = ["bucket", "objects"]


def audit(model, source, out, **options):
    return run_audit(model, source, out, jobs=["explain"], batch_size=2, **options)


def opened(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_source(*arguments)


def test_a_remote_folder_is_listed_like_its_local_copy(tmp_path, bucket):
    local = folder(tmp_path / "in", 4, classes=2)
    picture(9).save(local / "top.png")
    (local / "c0" / "z").mkdir()
    picture(8).save(local / "c0" / "z" / "a.png")
    (local / ".hidden").mkdir()
    (local / ".hidden" / "x.png").write_bytes(b"")
    results_dir = local / "c1" / "out"
    (results_dir / ".semattn").mkdir(parents=True)
    (results_dir / "map.png").write_bytes(b"")
    (results_dir / ".semattn" / "files.json").write_text(json.dumps({"files": {"map.png": {}}}))
    remote = upload(local, bucket / "in")
    names = [path.relative_to(local).as_posix() for path in list_images(local)]
    assert [path.relative_to(remote).as_posix() for path in list_images(remote)] == names
    assert "c1/out/map.png" not in names and "c0/z/a.png" in names
    first, second = opened(local, ("c1", "c0"), 2), opened(str(remote), ("c1", "c0"), 2)
    assert first.names == second.names and first.data.labels == second.data.labels
    assert np.array_equal(read(second.data.sources[0]), read(first.data.sources[0]))
    assert display_name(second.data.sources[0]).startswith(f"{remote}/")


def test_a_list_and_archives_on_a_store_are_those_of_the_disk(tmp_path, bucket):
    folder(tmp_path / "in", 3)
    (tmp_path / "list.txt").write_text(f"in/002.png\tdog\nin/000.png\t1\n{bucket}/in/001.png\n")
    archive(tmp_path / "a-00.tar", 3)
    archive(tmp_path / "a-01.tar", 2, first=3)
    upload(tmp_path, bucket)
    listed = opened(bucket / "list.txt", ("cat", "dog"), 2)
    assert listed.names == ("in/002.png", "in/000.png", f"{bucket}/in/001.png")
    assert listed.data.labels == (1, 1, None)
    assert np.array_equal(read(listed.data.sources[2]), picture(1))
    local_list = opened(tmp_path / "list.txt", ("cat", "dog"), 2)  # with an address in it
    assert np.array_equal(read(local_list.data.sources[2]), picture(1))
    for address in (f"{bucket}/a-{{00..01}}.tar", f"{bucket}/a-00.tar#png"):
        source = opened(address, (), 10)
        expected = opened(address.replace(str(bucket), str(tmp_path)), (), 10)
        assert source.names == expected.names and source.data.labels == expected.data.labels
        assert np.array_equal(read(source.data.sources[-1]), read(expected.data.sources[-1]))


def test_an_audit_of_a_store_resumes_and_sees_edits(tmp_path, objects):
    local = folder(tmp_path / "in", 7)
    upload(local, objects)
    expected = audit(tiny(), opened(local, (), 1000), tmp_path / "local")
    ObjectStore.requests.clear()
    result = audit(tiny(), opened(objects, (), 1000), tmp_path / "out", workers=0)
    assert result.summary == expected.summary
    assert len(ObjectStore.requests) == 7, "one request for each image"
    tables = results(tmp_path / "out")
    for name, content in results(tmp_path / "local").items():
        assert name == "audit.json" or tables[name] == content, name
    again = audit(tiny(), opened(objects, (), 1000), tmp_path / "out", workers=0)
    assert again.images == 0 and len(ObjectStore.requests) == 7, "nothing is read again"
    picture(5).save(local / "000.png")
    upload(local, objects)  # every file is new, one has another content
    with pytest.warns(UserWarning, match="1 image changed"):
        third = audit(tiny(), opened(objects, (), 1000), tmp_path / "out")
    assert 0 < third.images < 8
    assert results(tmp_path / "out") != tables


def test_a_picture_that_a_fault_of_the_network_hid_is_read_by_the_next_run(tmp_path, objects):
    upload(folder(tmp_path / "in", 3), objects)
    ObjectStore.failing.add("001.png")
    result = audit(tiny(), opened(objects, (), 1000), tmp_path / "out", workers=0)
    assert [skipped.name for skipped in result.skipped] == ["001.png"]
    assert "the network is down" in result.skipped[0].reason
    ObjectStore.failing.clear()
    with pytest.warns(UserWarning, match="1 image changed"):
        result = audit(tiny(), opened(objects, (), 1000), tmp_path / "out", workers=0)
    assert not result.skipped and result.summary["explained"] == 3


def test_the_stamp_of_a_remote_file_changes_with_the_file(bucket, tmp_path):
    upload(folder(tmp_path / "in", 1), bucket)
    (file,) = list_images(bucket)
    line = identity_of(file, "x")
    assert file.stamp() == RemotePath(file.url).stamp() == stamp_of(fetch([file])[0])
    assert is_unchanged(line, RemotePath(file.url), "x")
    picture(3).save(tmp_path / "in" / "000.png")
    upload(tmp_path / "in", bucket)
    assert RemotePath(file.url).stamp() != file.stamp()
    assert not is_unchanged(line, RemotePath(file.url), "x")
    missing = bucket / "none.png"
    assert stamp_of(missing) == (-1, 0, 0)
    with pytest.raises(ImageError, match="does not exist"):
        read(missing)


def test_stores_that_cannot_be_read_are_named(tmp_path, bucket):
    with pytest.raises(SemattnError, match="does not exist"):
        open_source(f"{bucket}/nothing", (), 2)
    with pytest.raises(SemattnError, match="expected a protocol of fsspec.*zz9"):
        open_source("zz9://bucket", (), 2)
    assert to_path(f"file://{tmp_path}") == tmp_path


def test_the_package_of_a_store_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'semattn\[cloud\]'"):
        open_source("s3://bucket/photos", (), 2)


def test_workers_read_from_a_store(tmp_path, bucket):
    upload(folder(tmp_path / "in", 4), bucket)
    source = opened(bucket, (), 1000)
    batches = [prefetching.BatchRange(0, 2), prefetching.BatchRange(2, 4)]
    from semattn.data.loading import ImageLoader
    from semattn.images import Preprocessing

    loader = ImageLoader(Preprocessing.of(tiny()), "sift", (), source.names)
    loaded = list(
        prefetching.load_batches(loader, source.data.sources, batches, 1, source.data.labels)
    )
    assert [batch.numbers for batch in loaded] == [(0, 1), (2, 3)]
    assert all(len(batch.identities) == 2 and not batch.skipped for batch in loaded)


def saved_dataset(where, numbers, features=None, columns=None):
    """Write a data set as `Dataset.save_to_disk` does, in two files."""
    where.mkdir(parents=True)
    images = folder(where / "images", max(numbers) + 1)
    files = []
    for part, rows in enumerate((numbers[:2], numbers[2:])):
        content = [(images / f"{number:03}.png").read_bytes() for number in rows]
        pictures = pa.array(
            [{"bytes": data, "path": None} for data in content],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        labels = columns[part] if columns else [number % 2 for number in rows]
        table = pa.table({"image": pictures, "label": labels})
        files.append({"filename": f"data-{part:05}-of-00002.arrow"})
        with (
            pa.OSFile(str(where / files[-1]["filename"]), "wb") as stream,
            pa.ipc.new_stream(stream, table.schema) as writer,
        ):
            writer.write_table(table)
    features = features or {
        "image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dog", "cat"]},
    }  # fmt: skip
    (where / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    (where / "dataset_info.json").write_text(json.dumps({"features": features}))
    return where


def test_a_saved_dataset_gives_rows_and_classes(tmp_path):
    source = opened(saved_dataset(tmp_path / "pets", [0, 1, 2, 3, 4]), ("cat", "dog"), 2)
    assert source.names[3] == "pets/0000003" and len(source) == 5
    assert source.data.labels == (1, 0, 1, 0, 1)
    for number, row in enumerate(source.data.sources):
        assert np.array_equal(read(row), picture(number))
    result = audit(tiny(), source, tmp_path / "out", workers=1)
    assert result.summary["explained"] == result.summary["labelled"] == 5
    assert audit(tiny(), source, tmp_path / "out").images == 0
    data = read_dataset(tmp_path / "pets", None, 0)
    assert data.names == ("cat", "dog") and data.labels == (1, 0, 1, 0, 1)


def test_labels_that_are_no_classes_are_counted(tmp_path):
    values = {"image": {"_type": "Image"}, "label": {"_type": "Value", "dtype": "string"}}
    columns = (["dog", "bird"], ["", "cat"])
    where = saved_dataset(tmp_path / "pets", [0, 1, 2, 3], values, columns)
    with pytest.warns(UserWarning, match="1 of 4 labels of the column label give no class"):
        source = open_source(where, ("cat", "dog"), 2)
    assert source.data.labels == (1, None, None, 0)


def test_ambiguous_and_damaged_datasets_are_refused(tmp_path):
    two = {"image": {"_type": "Image"}, "label": {"_type": "Image"}}
    where = saved_dataset(tmp_path / "two", [0, 1, 2], two)
    with pytest.raises(SemattnError, match="got image, label in two — choose one with #COLUMN"):
        open_source(where, (), 2)
    assert len(opened(f"{where}#image", (), 2)) == 3
    (where / "data-00001-of-00002.arrow").write_bytes(b"ARROW1 nothing")
    with pytest.raises(SemattnError, match="expected Arrow files, got two, which cannot be read"):
        open_source(f"{where}#image", (), 2)
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(SemattnError, match="expected one split, got .* with train, test"):
        open_source(splits, (), 2)


def test_a_dataset_by_name_needs_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'semattn\[hf\]'"):
        open_source("hf-dataset:owner/pets", (), 2)
    where = saved_dataset(tmp_path / "pets", [0, 1, 2])
    features = types.SimpleNamespace(
        to_dict=lambda: json.loads((where / "dataset_info.json").read_text())["features"]
    )

    class Loaded:
        cache_files = tuple({"filename": str(file)} for file in sorted(where.glob("*.arrow")))
        rows = 3

        def __len__(self):
            return self.rows

    Loaded.features = features
    calls = []
    library = types.ModuleType("datasets")
    library.load_dataset = lambda *names, split: calls.append((*names, split)) or Loaded()
    monkeypatch.setitem(sys.modules, "datasets", library)
    source = opened("hf-dataset:owner/pets:small:train", ("cat", "dog"), 2)
    assert calls == [("owner/pets", "small", "train")] and source.names[2] == "pets/0000002"
    Loaded.rows = 2
    with pytest.raises(SemattnError, match="expected a whole split"):
        open_source("hf-dataset:owner/pets:train", (), 2)
    library.load_dataset = lambda *names, split: {"train": Loaded(), "test": Loaded()}
    with pytest.raises(SemattnError, match="one of them, such as hf-dataset:owner/pets:train"):
        open_source("hf-dataset:owner/pets", (), 2)


def test_marks_are_searched_on_a_store_as_on_the_disk(tmp_path, bucket):
    local = folder(tmp_path / "in", 4, classes=2)
    remote = upload(local, bucket)
    first, second = find_marks(local), find_marks(str(remote))
    assert (first.images, first.classes) == (second.images, second.classes)
    assert second.images == 4


def test_commands_read_from_a_store(run, elsewhere, objects):
    local = folder(elsewhere / "photos", 3)
    archive(local / "a.tar", 2)
    upload(local, objects)
    status, out, err = run("explain", f"{objects}/000.png", "--no-report", "--out", "one")
    assert status == 0 and "dog" in out, err
    assert (elsewhere / "one" / "map.npy").is_file()
    status, out, err = run("explain", f"{objects}/a.tar", f"{objects}/001.png", "--no-report")
    assert status == 0 and "0001.png" in out, err
    status, _, err = run("explain", f"{objects}/none.png", "--no-report")
    assert status == 2 and "does not exist" in err
    status, _, err = run("marks", objects / "c", "--no-report", "--json")
    assert status == 2 and "does not exist" in err
    remote = upload(folder(elsewhere / "pets", 4, classes=2), objects / "pets")
    status, out, err = run("marks", remote, "--no-report", "--json")
    assert status == 0 and json.loads(out)["images"] == 4, err
