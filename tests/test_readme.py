"""README.md says what the results say, and what it tells people to type works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from benchmarks.tools import render_tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results():
    assert render_tables.main(["--check"]) == 0


def test_a_table_is_made_from_its_result(tmp_path):
    (tmp_path / "one.json").write_text(
        '{"columns": [{"key": "who", "title": "way"},'
        ' {"key": "s", "title": "seconds", "format": ".2f"}],'
        ' "rows": [{"who": "a|b", "s": 1.234}, {"who": "c", "s": null}], "caption": "Measured."}'
    )
    page = "# x\n<!-- table: one -->\nold\n<!-- end of table -->\nrest\n"
    rendered = render_tables.render(page, tmp_path)
    assert rendered == (
        "# x\n<!-- table: one -->\n| way | seconds |\n| --- | ---: |\n| a\\|b | 1.23 |\n"
        "| c | – |\n\nMeasured.\n<!-- end of table -->\nrest\n"
    )
    assert render_tables.render(rendered, tmp_path) == rendered
    assert "Not measured yet." in render_tables.render(page, tmp_path / "nowhere")


def test_its_links_into_the_repository_lead_somewhere():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_the_text_of_the_package_index_has_no_relative_link():
    index_text = runpy.run_path(str(ROOT / "setup.py"))["index_text"]
    plain, linked = index_text(README, None), index_text(README, "https://code.example/semattn")
    for text in (plain, linked):
        assert not re.search(r"\]\((?!https:)", text)
        assert "pip install semattn" in text and "install . " not in text
    assert "Models (docs/models.md) lists them." in plain and "*docs/explain.jpg: A pho" in plain
    assert "[Models](https://code.example/semattn/blob/main/docs/models.md)" in linked
    assert '"flower"](https://code.example/semattn/raw/main/docs/explain.jpg)' in linked


def test_the_make_targets_it_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_its_python_runs(tmp_path, monkeypatch):
    """The lines on a model of one's own, with a tiny model and the photograph in examples/."""
    import timm

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    tiny = timm.create_model("test_vit", img_size=64).eval()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: tiny)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(code[1], scope)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert scope["heat_map"].shape == (1, 3, 64, 64)


def test_it_is_short():
    """At most 900 words without code and tables, and two tables."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert sum(len(line.split()) for line in prose) <= 900
    assert len(re.findall(r"^\| *-{3}", text, re.MULTILINE)) == 2
