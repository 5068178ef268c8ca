"""`semattn audit`: what it writes, what it says, what it refuses, alone and with others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pyarrow.parquet as parquet
import pytest

from tests.audit.pictures import archive, folder, results
from tests.conftest import CLASSES, refused
from tests.result_files import names_in


def test_it_writes_everything_and_says_where(run, elsewhere):
    photos = folder(elsewhere / "photos", 6)
    (photos / "[red].png").write_bytes(b"")
    status, out, err = run("audit", photos)
    assert status == 0, err
    folders = elsewhere / "semattn-audit-photos"
    assert names_in(folders) == [
        ".audit", "analyze", "audit.json", "explain.parquet", "maps", "skipped.parquet",
    ]  # fmt: skip
    assert {path.name for path in (folders / "analyze").iterdir()} >= {
        "analysis.png",
        "report.html",
    }
    assert "7 images in" in out and "per second" in out and "6 explained" in out
    assert "skipped: 1" in out and "[red].png:" in out
    assert out.endswith("explain.parquet, skipped.parquet, audit.json, analyze\n")
    rows = parquet.read_table(folders / "explain.parquet").to_pylist()
    assert {row["class"] for row in rows} <= set(CLASSES)
    result = json.loads((folders / "audit.json").read_text(), parse_constant=pytest.fail)
    assert result["summary"]["explained"] == 6 and result["manifest"]["source"]["images"] == 7
    before = results(folders)
    status, out, _ = run("audit", photos)
    assert status == 0 and "images in" not in out and results(folders) == before


def test_all_jobs_on_archives(run, elsewhere):
    archive(elsewhere / "a-0.tar", 8)
    archive(elsewhere / "a-1.tar", 8, first=8)
    (elsewhere / "a-2.tar").write_bytes(b"no archive")
    status, out, err = run(
        "audit", elsewhere / "a-{0..2}.tar", "--jobs", "explain,spurious", "--no-report",
        "--out", "made",
    )  # fmt: skip
    assert status == 0, err
    assert "16 explained, accuracy of the model" in out and "broken: a-2.tar:" in out
    assert (elsewhere / "made/spurious/spurious.json").exists()
    assert not (elsewhere / "made/spurious/report.html").exists()


def test_processes_of_one_audit_share_it(run, elsewhere, monkeypatch):
    photos = folder(elsewhere / "photos", 5)
    command = ("audit", photos, "--batch-size", "1", "--no-report")
    monkeypatch.setattr("semattn.audit.batch_size.BATCHES_PER_UNIT", 2)
    assert run(*command, "--out", "one")[0] == 0
    status, out, _ = run(*command, "--out", "two", "--process", "0/2")
    assert status == 0 and "1 units are left for other processes" in out
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(*command, "--out", "three", "--process", "0/2")[:2] == (0, "")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, out, _ = run(*command, "--out", "two")
    assert status == 0 and "5 explained" in out
    assert results(elsewhere / "one") == results(elsewhere / "two")


def test_processes_of_one_audit_share_the_search(run, elsewhere):
    archive_file = archive(elsewhere / "photos.tar", 24)
    command = ("audit", archive_file, "--jobs", "spurious", "--batch-size", "4", "--no-report")
    assert run(*command, "--out", "one")[0] == 0
    for place in (2, 0):
        status, out, err = run(*command, "--out", "many", "--process", f"{place}/3")
        assert status == 0, err
        assert "finished by the process that handles the last images" in out
    assert not (elsewhere / "many/spurious").exists()
    status, out, err = run(*command, "--out", "many", "--process", "1/3")
    assert status == 0 and out.endswith("spurious\n"), err
    assert results(elsewhere / "one") == results(elsewhere / "many")


TORCHRUN = textwrap.dedent("""
    import sys
    from semattn import zoo
    from semattn.audit import batch_size
    from semattn.cli.main import main
    from tests.conftest import CLASSES, tiny

    def load(name=None, **options):
        model = tiny()
        model.classes = CLASSES
        return model

    zoo.load, batch_size.BATCHES_PER_UNIT = load, 2
    sys.exit(main(["audit", *sys.argv[1:]]))
""")


def test_torchrun_makes_the_tables_of_one_process(elsewhere):
    photos = folder(elsewhere / "photos", 9)
    script = elsewhere / "script.py"
    script.write_text(TORCHRUN)
    script_arguments = [str(script), str(photos), "--batch-size", "2", "--no-report", "--out"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)
    }  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    for count, out in ((1, "one"), (2, "two")):
        command = [*torchrun, str(count), "--master-port", "0", *script_arguments, out]
        ended = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
    single, double = results(elsewhere / "one"), results(elsewhere / "two")
    assert single.keys() == double.keys()
    assert [name for name in single if single[name] != double[name]] == []


def test_wrong_words_are_refused(run, elsewhere):
    refused(run("audit", elsewhere / "nowhere"), "does not exist")
    photos = folder(elsewhere / "photos", 2)
    refused(run("audit", photos, "--jobs", "explian"), "did you mean 'explain'")
    refused(run("audit", photos, "--jobs", ","), "jobs: expected at least one")
    refused(run("audit", photos, "--process", "2/2"), "expected K/N")
    refused(run("audit", photos, "--batch-size", "0"), "batch")
    assert not (elsewhere / "semattn-audit-photos").exists()


def test_missing_labels_are_said_in_words_of_the_job(run, elsewhere):
    photos = folder(elsewhere / "photos", 2)
    status, out, err = run("audit", photos, "--jobs", "explain", "--batch-size", "2")
    assert status == 0, err
    note = "note: the folder has no class folders: images without a label count for no accuracy"
    assert note in " ".join(out.split()) and "searched" not in out
