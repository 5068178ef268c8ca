"""Resuming an analysis after images were changed, added or removed."""

from __future__ import annotations

import pytest

from semattn.interrelation import analysis_runner, load_analysis
from tests.edited_data import (
    EDITS,
    StoppedError,
    analysis_case,
    draw,
    make_data,
    run_analysis,
    same_analysis,
)

STARTS_AGAIN = "the analysis starts again: of the 2 images of the interrupted run"


@pytest.fixture(autouse=True)
def save_after_every_batch(monkeypatch):
    monkeypatch.setattr(analysis_runner, "BATCHES_BETWEEN_SAVES", 1)


@pytest.fixture
def measured_batches(monkeypatch):
    """Record every batch that is measured."""
    batches, add_batch = [], analysis_runner.AnalysisRunner.add_batch
    monkeypatch.setattr(
        analysis_runner.AnalysisRunner,
        "add_batch",
        lambda self, loaded: batches.append(loaded) or add_batch(self, loaded),
    )
    return batches


@pytest.mark.parametrize("kind", [kind for kind in EDITS if kind != "mask"])
def test_a_run_after_an_edit_is_a_run_from_scratch(tmp_path, kind):
    resumed, fresh, notes = analysis_case(tmp_path, kind, seed=4)
    assert same_analysis(resumed, fresh)
    assert len(notes) <= 1 and all(note.startswith(STARTS_AGAIN) for note in notes)
    if kind in ("nothing", "touch", "copy"):
        assert not notes
    assert not (tmp_path / "part.npz").exists()


@pytest.mark.parametrize("number", range(5))
def test_each_picture_counts_by_its_place(tmp_path, measured_batches, number):
    """Interrupt after three images filled the pool and two were analysed."""
    root = make_data(tmp_path / "data", 1, 5)
    with pytest.raises(StoppedError):
        run_analysis(root, tmp_path / "part.npz", 3)
    files = sorted((root / "images").rglob("*.png"))
    draw(files[number], 77)
    measured_batches.clear()
    if number < 3:
        with pytest.warns(UserWarning, match=STARTS_AGAIN):
            analysis = run_analysis(root, tmp_path / "part.npz")
    else:
        analysis = run_analysis(root, tmp_path / "part.npz")
    assert len(measured_batches) == (5 if number < 3 else 3)
    assert same_analysis(analysis, run_analysis(root, None))


def test_more_images_than_the_pool_began_with_start_again(tmp_path):
    """Check that a pool of all images is invalid after an image is added."""
    root = make_data(tmp_path / "data", 1, 2)
    with pytest.raises(StoppedError):
        run_analysis(root, tmp_path / "part.npz", 2)
    draw(root / "images/z.png", 5)
    with pytest.warns(UserWarning, match="the analysis starts again: of the 1 images"):
        analysis = run_analysis(root, tmp_path / "part.npz")
    assert same_analysis(analysis, run_analysis(root, None))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("out", [None, "."])
def test_the_command_in_the_folder_itself_goes_on(
    run, tmp_path, monkeypatch, measured_batches, out
):
    root = make_data(tmp_path / "data", 1, 5) / "images"
    monkeypatch.chdir(root)
    extra = () if out is None else ("--out", out)
    arguments = ("analyze", ".", "--batch-size", 1, *extra)
    add_batch = analysis_runner.AnalysisRunner.add_batch

    def interrupt(self, loaded):
        if len(measured_batches) == 3:
            raise KeyboardInterrupt
        add_batch(self, loaded)

    monkeypatch.setattr(analysis_runner.AnalysisRunner, "add_batch", interrupt)
    assert run(*arguments)[0] == 130
    monkeypatch.setattr(analysis_runner.AnalysisRunner, "add_batch", add_batch)
    status, out_text, err = run(*arguments)
    assert status == 0, err
    assert "starts again" not in out_text and len(measured_batches) == 5
    file = next(root.rglob("analysis.npz"))
    assert load_analysis(file).images == 5
    status, out_text, err = run(*arguments)
    assert status == 0 and load_analysis(file).images == 5, "its figures are not analysed"
    draw(root / "cat/00.png", 99)
    assert run(*arguments)[0] == 0


@pytest.mark.usefixtures("elsewhere")
def test_the_command_says_it_in_one_line(run, tmp_path, monkeypatch, measured_batches):
    root = make_data(tmp_path / "data", 1, 5) / "images"
    add_batch = analysis_runner.AnalysisRunner.add_batch

    def interrupt(self, loaded):
        if len(measured_batches) == 3:
            raise KeyboardInterrupt
        add_batch(self, loaded)

    monkeypatch.setattr(analysis_runner.AnalysisRunner, "add_batch", interrupt)
    assert run("analyze", root, "--batch-size", 1, "--out", "made")[0] == 130
    monkeypatch.setattr(analysis_runner.AnalysisRunner, "add_batch", add_batch)
    draw(root / "cat/00.png", 99)
    status, out, _ = run("analyze", root, "--batch-size", 1, "--out", "made")
    assert status == 0 and out.count("note: the analysis starts again: of the 3 images") == 1
    assert run("analyze", root, "--batch-size", 1, "--out", "fresh")[0] == 0
    assert same_analysis(*(load_analysis(tmp_path / f"{name}/analysis.npz") for name in
                           ("made", "fresh")))  # fmt: skip
