"""A file is there whole, or as it was."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from semattn.errors import SemattnError
from semattn.utils.atomic_files import atomic_write, write_if_absent, write_text
from semattn.utils.run_store import RunStore
from tests.conftest import ROOT


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old é")

    def fail():
        with atomic_write(file) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text(encoding="utf-8") == "old é"
    assert list(tmp_path.iterdir()) == [file]
    with atomic_write(file) as stream:
        stream.write(b"new")
        assert file.read_text(encoding="utf-8") == "old é", "until it is whole"
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


NO_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


@pytest.fixture(params=[None, "absent", *NO_LINKS], ids=str)
def links(request, monkeypatch):
    """Hard links as a disk has them: all, no such function, or an error for each."""
    if request.param == "absent":
        monkeypatch.delattr("os.link")
    elif request.param is not None:

        def refuse(*_):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr("os.link", refuse)
    return request.param


def test_the_first_text_is_claimed_with_and_without_hard_links(links, tmp_path):
    file = tmp_path / "units.json"
    assert write_if_absent(file, "first é") == "first é"
    assert write_if_absent(file, "second") == "first é"
    assert file.read_text(encoding="utf-8") == "first é"
    assert list(tmp_path.iterdir()) == [file]


def test_threads_that_race_agree_on_one_whole_text(links, tmp_path):
    texts = [f"{number}" * 50_000 for number in range(8)]
    for turn in range(6):
        file = tmp_path / f"{turn}.json"
        start = threading.Barrier(len(texts))

        def one(text, file=file, start=start):
            start.wait()
            answer = write_if_absent(file, text)
            return answer, file.read_text(encoding="utf-8")

        with ThreadPoolExecutor(len(texts)) as pool:
            answers = {text for pair in pool.map(one, texts) for text in pair}
        assert len(answers) == 1 and answers <= set(texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{turn}.json" for turn in range(6)]


RACE = """
import os, sys, time
from pathlib import Path
from semattn.utils.atomic_files import write_if_absent
def refuse(*_):
    raise PermissionError(1, "Operation not permitted")
os.link = refuse
folder, own = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(150):
    print(write_if_absent(folder / f"{number}.json", own * 20_000)[:1], flush=True)
"""


def test_processes_that_race_without_hard_links_agree(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    racers = [subprocess.Popen([*command, name], **pipes) for name in "abc"]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0].split() for racer in racers]
    assert answers[0] == answers[1] == answers[2] and len(answers[0]) == 150
    files = sorted(tmp_path.iterdir())
    assert sorted(file.name for file in files) == sorted(f"{number}.json" for number in range(150))
    assert all(len(set(file.read_text())) == 1 for file in files)


def test_a_claim_whose_process_died_is_completed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.delattr("os.link")
    file = tmp_path / "units.json"
    with monkeypatch.context() as killed:
        killed.setattr("semattn.utils.atomic_files.write_text", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            write_if_absent(file, "of the one that died")
    assert not file.exists()
    assert write_if_absent(file, "of the next") == "of the one that died"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_to_is_named_not_a_damaged_file(tmp_path):
    store = RunStore(tmp_path / "run", {"a": 1}, "search")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(SemattnError, match="that can be written, got .*units.json .No such file"):
        store.store_row_if_absent("units", {"b": 2})
