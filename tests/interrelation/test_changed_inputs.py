"""An analysis goes on only where it was begun with the images that come first now, unchanged."""

from __future__ import annotations

import pytest

from semattn.interrelation import load_analysis, study
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
def every_batch(monkeypatch):
    monkeypatch.setattr(study, "BATCHES_BETWEEN_SAVES", 1)


@pytest.fixture
def taken(monkeypatch):
    """One entry for each batch that is measured."""
    batches, take = [], study.Study.take
    monkeypatch.setattr(
        study.Study, "take", lambda self, loaded: batches.append(loaded) or take(self, loaded)
    )
    return batches


@pytest.mark.parametrize("kind", [kind for kind in EDITS if kind != "mask"])
def test_a_run_after_an_edit_is_a_run_from_scratch(tmp_path, kind):
    again, scratch, notes = analysis_case(tmp_path, kind, seed=4)
    assert same_analysis(again, scratch)
    assert len(notes) <= 1 and all(note.startswith(STARTS_AGAIN) for note in notes)
    if kind in ("nothing", "touch", "copy"):
        assert not notes
    assert not (tmp_path / "part.npz").exists()


@pytest.mark.parametrize("number", range(5))
def test_each_picture_counts_by_its_place(tmp_path, taken, number):
    """The first three fill the pool, two of them are analysed, the others were not read."""
    root = make_data(tmp_path / "data", 1, 5)
    with pytest.raises(StoppedError):
        run_analysis(root, tmp_path / "part.npz", 3)
    files = sorted((root / "images").rglob("*.png"))
    draw(files[number], 77)
    taken.clear()
    if number < 3:
        with pytest.warns(UserWarning, match=STARTS_AGAIN):
            found = run_analysis(root, tmp_path / "part.npz")
    else:
        found = run_analysis(root, tmp_path / "part.npz")
    assert len(taken) == (5 if number < 3 else 3)
    assert same_analysis(found, run_analysis(root, None))


def test_more_images_than_the_pool_began_with_start_again(tmp_path):
    """A pool that all images fill is another one with one image more."""
    root = make_data(tmp_path / "data", 1, 2)
    with pytest.raises(StoppedError):
        run_analysis(root, tmp_path / "part.npz", 2)
    draw(root / "images/z.png", 5)
    with pytest.warns(UserWarning, match="the analysis starts again: of the 1 images"):
        found = run_analysis(root, tmp_path / "part.npz")
    assert same_analysis(found, run_analysis(root, None))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("out", [None, "."])
def test_the_command_in_the_folder_itself_goes_on(run, tmp_path, monkeypatch, taken, out):
    root = make_data(tmp_path / "data", 1, 5) / "images"
    monkeypatch.chdir(root)
    more = () if out is None else ("--out", out)
    given = ("analyze", ".", "--batch-size", 1, *more)
    take = study.Study.take

    def interrupt(self, loaded):
        if len(taken) == 3:
            raise KeyboardInterrupt
        take(self, loaded)

    monkeypatch.setattr(study.Study, "take", interrupt)
    assert run(*given)[0] == 130
    monkeypatch.setattr(study.Study, "take", take)
    status, out_text, err = run(*given)
    assert status == 0, err
    assert "starts again" not in out_text and len(taken) == 5
    made = next(root.rglob("analysis.npz"))
    assert load_analysis(made).images == 5
    status, out_text, err = run(*given)
    assert status == 0 and load_analysis(made).images == 5, "its figures are not analysed"
    draw(root / "cat/00.png", 99)
    assert run(*given)[0] == 0


@pytest.mark.usefixtures("elsewhere")
def test_the_command_says_it_in_one_line(run, tmp_path, monkeypatch, taken):
    root = make_data(tmp_path / "data", 1, 5) / "images"
    take = study.Study.take

    def interrupt(self, loaded):
        if len(taken) == 3:
            raise KeyboardInterrupt
        take(self, loaded)

    monkeypatch.setattr(study.Study, "take", interrupt)
    assert run("analyze", root, "--batch-size", 1, "--out", "made")[0] == 130
    monkeypatch.setattr(study.Study, "take", take)
    draw(root / "cat/00.png", 99)
    status, out, _ = run("analyze", root, "--batch-size", 1, "--out", "made")
    assert status == 0 and out.count("note: the analysis starts again: of the 3 images") == 1
    assert run("analyze", root, "--batch-size", 1, "--out", "fresh")[0] == 0
    assert same_analysis(*(load_analysis(tmp_path / f"{one}/analysis.npz") for one in
                           ("made", "fresh")))  # fmt: skip
