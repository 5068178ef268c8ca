"""The files for contributors agree with the Makefile: hooks, workflow, issue forms, metadata."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOW = GITHUB / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
YAML_FILES = sorted([HOOKS, *GITHUB.rglob("*.yml")])
PAGES = ("SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def named_targets(text: str) -> set[str]:
    """Return the targets in `make a b VARIABLE=value`."""
    calls = re.findall(r"\bmake ((?:[a-z][a-z-]*\b(?!=) ?)+)", text)
    return {target for call in calls for target in call.split()}


def workflow_commands() -> list[str]:
    jobs = load(WORKFLOW)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def local_hooks() -> list[dict[str, Any]]:
    return [
        hook for repo in load(HOOKS)["repos"] if repo["repo"] == "local" for hook in repo["hooks"]
    ]


def metadata() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_files_are_valid(path):
    assert isinstance(load(path), dict)


def test_hooks_and_workflow_call_make_targets_that_exist():
    commands = [*workflow_commands(), *(hook["entry"] for hook in local_hooks())]
    assert len(commands) >= 5
    for command in commands:
        assert command.startswith("make "), f"{command}: put the check into the Makefile"
        assert named_targets(command) <= make_targets(), command


def test_pages_name_make_targets_that_exist():
    for name in ("CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found = set(MAKE.findall(text))
        assert found and found <= make_targets(), found - make_targets()


def test_workflow_runs_all_that_ci_run_does():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    checks = set(re.findall(r"^make ([a-z-]+)", script, re.MULTILINE))
    assert checks == {"test", "docs"}
    assert checks <= named_targets("\n".join(workflow_commands()))


def test_workflow_runs_on_every_python_that_is_listed():
    matrix = load(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]
    listed = re.findall(r"Python :: (3\.\d+)$", metadata()["metadata"]["classifiers"], re.MULTILINE)
    assert matrix["python"] == listed
    assert metadata()["options"]["python_requires"] == f">={listed[0]}"
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_steps_and_versions(path):
    form = load(path)
    assert form["name"] and form["description"]
    fields = {part["id"]: part for part in form["body"] if part["type"] != "markdown"}
    assert {"steps", "doctor"} <= set(fields)
    assert "`semattn doctor`" in fields["doctor"]["attributes"]["label"]
    assert all(part["attributes"]["label"] for part in fields.values())
    assert all(part["validations"]["required"] for part in fields.values())


def test_there_is_a_form_for_bugs_and_one_for_wrong_maps():
    assert [path.stem for path in FORMS] == ["bug", "wrong_map"]


def test_metadata_names_no_address_that_is_not_known():
    urls = dict(
        line.split(" = ") for line in metadata()["metadata"]["project_urls"].strip().splitlines()
    )
    assert urls == {"Paper": "https://arxiv.org/abs/2211.08543"}
    assert "doi: 10.48550/arXiv.2211.08543" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_no_placeholders(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"TODO|FIXME|\[(?:INSERT|YOUR|OWNER)|example\.(?:com|org)", text)
