"""Defaults of options from files and variables, `-q`, `-v`, and completion."""

from __future__ import annotations

import json

import pytest
import typer

from semattn.cli import main as cli, printing
from semattn.cli.defaults import default_map, options_of, read_defaults
from semattn.cli.main import main
from semattn.cli.terminal import VERBOSITY
from tests.conftest import PHOTO, refused

EXPLAIN = ("explain", PHOTO, "--no-report", "--out", "out")


@pytest.fixture
def files(elsewhere, monkeypatch):
    """Return a function that writes the user's file and that of the current folder."""
    monkeypatch.delenv("SEMATTN_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(elsewhere / "home"))
    monkeypatch.setattr("semattn.cli.defaults.sys.platform", "linux")

    def write(folder: str = "", user: str = ""):
        for path, text in (
            (elsewhere / "semattn.toml", folder),
            (elsewhere / "home" / "semattn" / "semattn.toml", user),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            if text:
                path.write_text(text)

    return write


def defaults_of(*words: str) -> dict[str, object]:
    commands = options_of(typer.main.get_command(cli.app))
    table = default_map(read_defaults(commands), commands)
    for word in words:
        table = table[word]
    return table


def test_each_source_is_stronger_than_the_one_before(files, monkeypatch):
    assert defaults_of("explain") == {}
    files(user='method = "legrad"\ntop = 1\n[explain]\ntop = 2\n')
    assert defaults_of("explain") == {"method": "legrad", "top": "2"}
    files(folder="top = 3", user='method = "legrad"\ntop = 1\n[explain]\ntop = 2\n')
    assert defaults_of("explain")["top"] == "3"
    files(folder="top = 3\n[explain]\ntop = 4\n[prompt]\ntop = 9")
    assert defaults_of("explain")["top"] == "4"
    monkeypatch.setenv("SEMATTN_TOP", "5")
    assert defaults_of("explain")["top"] == defaults_of("prompt")["top"] == "5"
    monkeypatch.setenv("SEMATTN_EXPLAIN_TOP", "6")
    assert defaults_of("explain")["top"] == "6" and defaults_of("prompt")["top"] == "5"


def test_values_of_every_kind_and_commands_of_a_group(files, monkeypatch):
    files('affinity = 0.5\nreport = false\n[prompt]\nstrength = [0, 0.5]\n[bench.explain]\n'
          'batch-size = 4\nquick = true\n')  # fmt: skip
    assert defaults_of("explain")["report"] == "false"
    assert defaults_of("explain")["affinity"] == "0.5"
    assert "0,0.5" in defaults_of("prompt").values()
    assert {"4", "true"} <= set(defaults_of("bench", "explain").values())


def test_a_command_uses_them_and_says_so(files, run, quick_figures, elsewhere, monkeypatch):
    files("affinity = 0.25\n[explain]\nreport = false\n")
    status, _, err = run("explain", PHOTO, "--out", "out")
    assert status == 0
    assert err == "defaults: --affinity 0.25 (semattn.toml), --report false (semattn.toml)\n"
    parameters = json.loads((elsewhere / "out" / "result.json").read_text())
    assert "0.25" in json.dumps(parameters) and not (elsewhere / "out" / "report.html").exists()
    monkeypatch.setenv("SEMATTN_AFFINITY", "0.75")  # variables are the user's own: said with -v
    assert "0.75" not in run("explain", PHOTO, "--out", "a")[2]
    assert "--affinity 0.75 (SEMATTN_AFFINITY)" in run("explain", PHOTO, "--out", "b", "-v")[2]
    status, _, err = run("explain", PHOTO, "--out", "c", "--affinity", "0.5", "--report")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("colour = 1", ("semattn.toml: option: unknown name 'colour'",)),
        ("[explian]\ntop = 1", ("did you mean 'explain'",)),
        ("[explain]\nstrengths = 1", ("unknown name 'strengths'",)),
        ("force = true", ("unknown name 'force'",)),
        ("top =", ("expected TOML",)),
        ("top = 2020-01-01", ("expected text, a number", "date")),
        ("top = 'many'", ("Invalid value for '--top'", "(a default of semattn.toml)")),
        ("model = 'model.py:build'", ("runs no code of its own", "--model")),
        ("model = 'torch-hub-dir:x:y'", ("runs no code of its own",)),
    ],
)
def test_a_wrong_file_is_one_line(files, run, text, parts):
    files(text)
    refused(run(*EXPLAIN), *parts)


def test_one_file_in_place_of_both(files, run, monkeypatch, elsewhere):
    files("nonsense = 1", user="nonsense = 1")
    (elsewhere / "mine.toml").write_text("top = 7")
    monkeypatch.setenv("SEMATTN_CONFIG", str(elsewhere / "mine.toml"))
    assert defaults_of("explain") == {"top": "7"}
    monkeypatch.setenv("SEMATTN_CONFIG", "missing.toml")
    refused(run(*EXPLAIN), "SEMATTN_CONFIG: expected a file")
    monkeypatch.setenv("SEMATTN_CONFIG", "")
    assert defaults_of("explain") == {}


def test_config_lists_them_with_their_sources(files, run, monkeypatch):
    status, out, err = run("config")
    assert (status, err) == (0, "") and out.startswith("all options have their built-in defaults")
    assert out.count("not there") == 2
    files("top = 3", user="[explain]\ntop = 2")
    monkeypatch.setenv("SEMATTN_DEVICE", "cpu")
    status, out, _ = run("config", "--json")
    content = json.loads(out)
    assert [(entry["option"], entry["value"]) for entry in content["defaults"]] == [
        ("top", "2"), ("top", "3"), ("device", "cpu")
    ]  # fmt: skip
    assert content["defaults"][-1]["source"] == "SEMATTN_DEVICE"
    assert [entry["is_used"] for entry in content["defaults"]] == [False, True, True]
    status, out, _ = run("config")
    assert status == 0 and "--top" in out and "not used: replaced" in out


def test_quiet_prints_errors_and_the_object_only(elsewhere, run, quick_figures):
    assert run(*EXPLAIN, "-q") == (0, "", "")
    assert (elsewhere / "out" / "overlay.png").exists()
    status, out, err = run(*EXPLAIN, "--quiet", "--json")
    assert (status, err) == (0, "") and json.loads(out)["files"]
    refused(run("explain", "missing.jpg", "-q"), "missing.jpg")
    assert VERBOSITY.get() == 0


def test_verbose_prints_stages_with_their_seconds(elsewhere, run, quick_figures):
    status, _, err = run(*EXPLAIN, "-v")
    assert status == 0
    assert [line.rpartition(": ")[0] for line in err.splitlines()][:1] == ["reading the picture"]
    assert all(line.endswith(" s") for line in err.splitlines())


def test_verbose_prints_progress_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(printing, "SECONDS_OF_PROGRESS", 0)
    for level, expected in ((0, ""), (1, "auditing: 1 of 2\nauditing: 2 of 2\n")):
        token = VERBOSITY.set(level)
        with printing.bar() as progress:
            progress("auditing", 1, 2)
            progress("auditing", 2, 2)
        VERBOSITY.reset(token)
        assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [("semattn ex", 1, {"explain"}), ("semattn explain --dens", 2, {"--density"})],
)
def test_completion_of_the_shell(capsys, monkeypatch, words, number, expected):
    monkeypatch.setenv("_SEMATTN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(number))
    with pytest.raises(SystemExit):
        main([])
    assert expected <= set(capsys.readouterr().out.split())


def test_completion_is_installed_by_an_option(run):
    status, out, _ = run("--help")
    assert status == 0 and "--install-completion" in out and "config" in out
