"""`semattn doctor`: what is here, what works, and what is broken."""

from __future__ import annotations

import json

import pytest

from semattn.cli import doctor
from semattn.cli.main import main


def test_all_is_well_here(capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for name in ("torch", "keypoints", "fused attention", "embedded model", "transformers"):
        assert name in output
    assert output.rstrip().endswith("all required parts work")


def test_json_has_every_check(capsys):
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["broken"] == []
    checks = {check["name"]: check for check in content["checks"]}
    assert checks["keypoints"]["status"] == "works" and "by SIFT" in checks["keypoints"]["detail"]
    assert checks["unfused attention"]["detail"].startswith("a map of 160 x 160")
    assert checks["accelerator"]["status"] == "works"


def test_what_is_broken_is_named_and_counts(capsys, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no\nSIFT")

    monkeypatch.setattr("semattn.keypoints.detect", fails)
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "RuntimeError: no SIFT" in output
    assert "broken: keypoints" in output


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [(None, "broken", "expected >=2.4, got none"), ("2.3", "broken", "expected >=2.4, got 2.3"),
     ("2.5.1+cpu", "works", "2.5.1+cpu")],
)  # fmt: skip
def test_versions_are_held_against_what_is_asked_for(monkeypatch, version, status, text):
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=2.4", "h5py>=3; extra == 'test'"])
    monkeypatch.setattr("semattn.utils.provenance.installed_version", lambda name: version)
    (only,) = doctor._packages()
    assert (only.name, only.status, only.detail) == ("torch", status, text)


def test_the_other_opencv_is_good_enough(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["opencv-python>=4.8"])
    versions = {"opencv-python-headless": "4.10"}
    monkeypatch.setattr("semattn.utils.provenance.installed_version", versions.get)
    (only,) = doctor._packages()
    assert (only.status, only.detail) == ("works", "4.10")


def test_commands_that_repair_opencv_are_printed(capsys, monkeypatch):
    commands = {"pip": "python -m pip install opencv-python", "uv": "uv pip install opencv-python"}
    problem = ("expected one build, got two", commands)
    monkeypatch.setattr("semattn.keypoints.opencv.installation_problem", lambda: problem)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "broken: opencv",
        "repair opencv with one of these:",
        "  pip: python -m pip install opencv-python",
        "  uv: uv pip install opencv-python",
    ]


def test_a_cache_that_cannot_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMATTN_CACHE", str(tmp_path / "weights"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    check = doctor._run_check("embedded model", doctor._weights)
    assert check.status == "broken" and "set SEMATTN_CACHE" in check.detail
