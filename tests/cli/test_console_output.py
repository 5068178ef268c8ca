"""Tests of console output in all encodings, through pipes, and at all widths."""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from semattn.cli import main as cli
from semattn.cli.main import main
from semattn.cli.terminal import (
    REPLACEMENTS,
    TextStream,
    encodable,
    new_table,
    open_console,
    print_table,
)
from tests.conftest import PHOTO, ROOT, refused

pytestmark = pytest.mark.usefixtures("elsewhere")

EXPLAIN = ("explain", PHOTO, "--no-report")
WRITTEN = {"overlay.png", "figure.png", "map.npy", "result.json"}


class Standard(io.TextIOWrapper):
    """A standard stream of some encoding; `gone` is what happens to all that is written."""

    def __init__(self, encoding: str, gone: Exception | None = None, tty: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self.gone, self.tty = gone, tty

    def write(self, text: str) -> int:
        if self.gone is not None:
            raise self.gone
        return super().write(text)

    def isatty(self) -> bool:
        return self.tty

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)


def written(folder):
    """The result files in a folder, without the hidden list of them."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def outcome(monkeypatch):
    """Run a command on streams of its own: status, standard output, standard error."""

    def command(*arguments: object, encoding="utf-8", gone=None, out=..., err=...):
        out = Standard(encoding, gone) if out is ... else out
        err = Standard(encoding) if err is ... else err
        with monkeypatch.context() as replaced:
            replaced.setattr(sys, "stdout", out)
            replaced.setattr(sys, "stderr", err)
            status = main([str(argument) for argument in arguments])
            assert (sys.stdout, sys.stderr) == (out, err), "the streams are put back"
        return status, getattr(out, "text", ""), getattr(err, "text", "")

    return command


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8"])
def test_every_command_prints_in_every_encoding(outcome, encoding):
    status, out, err = outcome("models", "deit", encoding=encoding)
    times = "x" if encoding in ("ascii", "cp437") else "×"
    assert (status, err) == (0, "")
    assert re.search(rf"deit_tiny_patch16_224 +14{times}14 +works", out)
    for command in (["--help"], ["bench"], ["models"], ["explain", "--help"], ["doctor", "--json"]):
        status, out, err = outcome(*command, encoding=encoding)
        assert status == 0 and out and (not err or "--json" in command)
    status, out, err = outcome("explain", "缺.jpg", "--target", "é→猫", encoding=encoding)
    assert status == 2 and err.startswith("error: ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_result_is_listed_in_every_encoding(outcome, encoding, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("猫\nCar, cars\nété\nd\ne\n", encoding="utf-8")
    status, out, err = outcome(*EXPLAIN, "--class-names", names, "--target", "0", "--out", "猫 é",
                               encoding=encoding)  # fmt: skip
    assert (status, err) == (0, "")
    assert written(tmp_path / "猫 é") == WRITTEN
    expected = {
        "ascii": ("\\u732b  <- explained", "in \\u732b \\xe9: overlay.png"),
        "cp1252": ("\\u732b  <- explained", "in \\u732b é: overlay.png"),
        "utf-8": ("猫  ← explained", "in 猫 é: overlay.png"),
    }
    for words in expected[encoding]:
        assert words in out


def test_replacements_are_ascii_and_readable():
    assert all(value.isascii() and value.isprintable() for value in REPLACEMENTS.values())
    assert encodable("\udcff ✓", "utf-8") == "\\udcff ✓"
    assert encodable("→", "no-such-encoding") == "->"


@pytest.mark.parametrize(
    "gone", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("closed file")], ids=repr
)
def test_a_reader_that_has_gone_changes_nothing(outcome, gone, tmp_path):
    status, out, err = outcome(*EXPLAIN, "--out", "a", gone=gone)
    assert (status, out, err) == (0, "", "")
    assert written(tmp_path / "a") == WRITTEN
    assert outcome("models", "no such", gone=gone)[0] == 2
    assert outcome("--help", gone=gone)[0] == 0


def test_closed_standard_streams_change_nothing(outcome, tmp_path):
    assert outcome(*EXPLAIN, "--out", "a", out=None, err=None) == (0, "", "")
    assert written(tmp_path / "a") == WRITTEN
    status, _, err = outcome("models", "no such", out=None)
    assert status == 2 and "unknown" in err


def test_a_full_disk_under_the_output_is_said(outcome):
    full = OSError(errno.ENOSPC, "No space left on device")
    answer = outcome("models", gone=full)
    refused(answer, "standard output", "No space left on device")


def test_real_pipes_and_closed_descriptors(tmp_path):
    semattn = f"{shlex.quote(sys.executable)} -W error -m semattn"
    script = f"""
    cd {shlex.quote(str(ROOT))}; set -o pipefail
    {semattn} models | head -0 || exit 11
    {semattn} models >&- || exit 12
    {semattn} models >&- 2>&- || exit 13
    {semattn} --help >&- <&- || exit 14
    PYTHONIOENCODING=ascii {semattn} models deit | grep -q 14x14 || exit 15
    LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {semattn} models deit | grep -q 14x14 || exit 16
    """
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_stream_without_a_descriptor_is_still_a_stream():
    stream = TextStream(io.StringIO())
    print("a → b", file=stream, flush=True)
    assert stream.stream.getvalue() == "a → b\n" and not stream.isatty() and stream.writable()
    with pytest.raises(io.UnsupportedOperation):
        TextStream(None).fileno()


def rows():
    table = new_table(2)
    for title in ("class", "where", "keypoints", "in class", "in others", "removal"):
        table.add_column(title, no_wrap=True)
    table.add_row("a very long name of a class", "upper left corner", "poor", "92 %", "0.4 %",
                  "1.25 [1.00, 1.50]")  # fmt: skip
    return table


@pytest.mark.parametrize("columns", [10, 40, 60, 200])
@pytest.mark.parametrize("tty", [False, True])
def test_no_table_loses_a_cell(monkeypatch, columns, tty):
    stream = Standard("utf-8", tty=tty)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    console = open_console()
    assert console.is_terminal == tty
    table = rows()
    cells = [column.header for column in table.columns]
    cells += [cell for column in table.columns for cell in column.cells]
    print_table(console, table)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.text)
    lines = text.splitlines()
    assert "…" not in text
    assert sorted(re.sub(r"\s", "", text)) == sorted(re.sub(r"\s", "", "".join(cells)))
    if not tty:
        assert len(lines) == 2, "an output that is no terminal has no width"
    elif columns >= 50:
        assert max(map(len, lines)) <= columns


def commands():
    """Return all commands by the words that call them."""
    by_words = {}
    for name, command in typer.main.get_command(cli.app).commands.items():
        if hasattr(command, "commands"):
            by_words |= {
                (name, inner): subcommand for inner, subcommand in command.commands.items()
            }
        else:
            by_words[name,] = command
    return by_words


def options():
    for words, command in commands().items():
        for option in command.params:
            if option.param_type_name == "option":
                yield pytest.param(words, option, id=" ".join((*words, option.name)))


@pytest.mark.parametrize(("words", "option"), list(options()))
def test_a_repeated_option_is_refused(run, words, option):
    name = max(option.opts, key=len)
    value = [] if option.is_flag else ["1"]
    refused(run(*words, name, *value, name, *value), name, "expected once, got 2 times")
    for other in option.secondary_opts:
        refused(run(*words, name, other), name, "expected once")


def test_an_option_given_once_is_no_repetition(run):
    assert run("models", "deit", "--debug")[0] == 0
    refused(run("--version", "--version"), "--version", "expected once")


@pytest.mark.parametrize("words", [*commands(), ("bench",), ()], ids=" ".join)
def test_a_command_without_its_argument_says_a_true_line(run, words):
    if words in (("models",), ("demo",), ("doctor",), ("config",)):
        pytest.skip("needs no argument")
    status, out, err = run(*words)
    if status == 0:
        assert "Usage: semattn" in out and not err
    else:
        message = refused((status, out, err), "Missing", f"{' '.join(('semattn', *words))} --help")
        assert run(*words, "--help")[0] == 0, message


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("words", [*commands(), ("bench",), ()], ids=" ".join)
def test_help_at_80_columns_is_whole(run, monkeypatch, words, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, err = run(*words, "--help")
    assert (status, err, os.environ["COLUMNS"]) == (0, "", str(columns))
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not re.search(r"\w…", out), "nothing is cut"
    command = commands().get(words)
    for option in command.params if command else ():
        if option.param_type_name == "option":
            assert all(re.search(rf"{name}(?![\w-])", out) for name in option.opts)
    # A line of a paragraph is broken where the next word would not fit.
    text = [line for line in lines if line.startswith(" ") and line.strip()]
    for line, following in itertools.pairwise(lines):
        if line in text and following in text and "Usage" not in line:
            assert len(line.rstrip()) + 1 + len(following.split()[0]) > 78, line


def test_the_advice_of_a_usage_error_works(run):
    line = refused(run("explain", "--nonsense"), "--nonsense")
    advice = re.search(r"see (semattn .*--help)", line)
    status, out, _ = run(*advice[1].split()[1:])
    assert status == 0 and "Usage: semattn" in out
